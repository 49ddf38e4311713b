r"""The number that a worked answer arrives at.

It is the number in the last `\boxed{}`, or else the one right after the last `####`, as GSM8K's own
answers end, or else the last one of the text. Numbers written as words are not read.
"""

import math
import re

# No number starts inside a word or another number ("v2", "3.14"). A hyphen between two values is no
# sign; commas count where they group thousands, so "1,2,3" holds three numbers.
_NUMBER = re.compile(
    r"(?<!\w)(?<!\w\.)(?:(?<!\))(?<![0-9)] )[-+])?[$€£]?"
    r"((?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:/([0-9]+))?"
)
_BOXED = "\\boxed{"
# What LaTeX and Markdown put in and around numbers without changing them.
_ORNAMENTS = (("\\$", "$"), ("{,}", ","), ("\\,", ""), ("\\!", ""), ("−", "-"), ("*", " "))
_FRACTION = re.compile(r"\\[dt]?frac\{([0-9,.]+)\}\{([0-9]+)\}")


def final_number(text: str) -> float | None:
    """The number that `text` arrives at; None if it holds none. Never raises."""
    text = _plain(text)
    boxed = _numbers(_inside(text)) if _BOXED in text else []
    if boxed:
        return boxed[-1]
    _, mark, after = text.rpartition("####")
    marked = _NUMBER.match(after.lstrip()) if mark else None
    found = _numbers(text if marked is None else marked[0])
    return found[-1] if found else None


def arrives_at(text: str, number: float) -> bool:
    """Whether `final_number(text)` is `number`, up to a millionth part."""
    found = final_number(text)
    return found is not None and math.isclose(found, number, rel_tol=1e-6, abs_tol=1e-6)


def _plain(text: str) -> str:
    for written, meant in _ORNAMENTS:
        text = text.replace(written, meant)
    return _FRACTION.sub(r"\1/\2", " ".join(text.split()))


def _inside(text: str) -> str:
    r"""What the last \boxed{} holds, up to its own closing brace or the end."""
    inside, depth = text.rpartition(_BOXED)[2], 1
    for place, character in enumerate(inside):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return inside[:place]
    return inside


def _numbers(text: str) -> list[float]:
    return [value for match in _NUMBER.finditer(text) if (value := _value(match)) is not None]


def _value(match: re.Match[str]) -> float | None:
    whole, below = match[1].replace(",", ""), match[2]
    if below is not None and not float(below):
        return None
    sign = -1 if match[0][0] == "-" else 1
    return sign * float(whole) / float(below or 1)
