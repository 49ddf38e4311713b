"""Functions that MySQL has and SQLite lacks; each takes bounded time on bounded arguments."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[ T].*)?", re.DOTALL)
_MAX_PATTERN, _MAX_SEARCHED, _MAX_REPEATS = 100, 256, 2


def concat(*values: Any) -> str | None:
    return None if None in values else "".join(map(_text, values))


def concat_ws(separator: Any, *values: Any) -> str | None:
    if separator is None:
        return None
    return _text(separator).join(_text(value) for value in values if value is not None)


def if_(condition: Any, then: Any, otherwise: Any) -> Any:
    return then if condition not in (None, 0, "") else otherwise


def isnull(value: Any) -> int:
    return int(value is None)


def left(text: Any, length: Any) -> str | None:
    return None if None in (text, length) else _text(text)[: max(0, int(length))]


def right(text: Any, length: Any) -> str | None:
    if None in (text, length):
        return None
    return _text(text)[-int(length) :] if int(length) > 0 else ""


def char_length(text: Any) -> int | None:
    return None if text is None else len(_text(text))


def locate(part: Any, text: Any) -> int | None:
    if None in (part, text):
        return None
    return _text(text).casefold().find(_text(part).casefold()) + 1


def greatest(*values: Any) -> Any:
    return None if None in values else max(values)


def least(*values: Any) -> Any:
    return None if None in values else min(values)


def date(value: Any) -> str | None:
    found = _date(value)
    return found and f"{found[1]}-{int(found[2]):02}-{int(found[3]):02}"


def year(value: Any) -> int | None:
    found = _date(value)
    return found and int(found[1])


def month(value: Any) -> int | None:
    found = _date(value)
    return found and int(found[2])


def day(value: Any) -> int | None:
    found = _date(value)
    return found and int(found[3])


def regexp(pattern: Any, text: Any) -> int | None:
    """MySQL's REGEXP on the patterns that cannot back-track for long; ValueError on others.

    Without groups, and with two repetitions at most, the time is cubic in a text that is short.
    """
    if None in (pattern, text):
        return None
    pattern, text = _text(pattern).removeprefix("(?i)"), _text(text)
    if len(pattern) > _MAX_PATTERN or len(text) > _MAX_SEARCHED:
        raise ValueError("too long for REGEXP")
    if re.search(r"[(){}\\]|\[\[", pattern) or len(re.findall(r"[*+?]", pattern)) > _MAX_REPEATS:
        raise ValueError("a pattern that may take long")
    return int(re.search(pattern, text, re.IGNORECASE) is not None)


# Name, to the function and its number of arguments (-1: any).
FUNCTIONS: Mapping[str, tuple[Callable[..., Any], int]] = MappingProxyType(
    {
        "concat": (concat, -1),
        "concat_ws": (concat_ws, -1),
        "if": (if_, 3),
        "isnull": (isnull, 1),
        "left": (left, 2),
        "right": (right, 2),
        "char_length": (char_length, 1),
        "locate": (locate, 2),
        "greatest": (greatest, -1),
        "least": (least, -1),
        "date": (date, 1),
        "year": (year, 1),
        "month": (month, 1),
        "day": (day, 1),
        "regexp": (regexp, 2),
    }
)


def _text(value: Any) -> str:
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _date(value: Any) -> re.Match[str] | None:
    return _DATE.fullmatch(value) if isinstance(value, str) else None
