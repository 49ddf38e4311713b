"""What every action format shares: reading JSON and tags that a model wrote, without trust.

Each format keeps one promise: `parse(print(action)).action == action`, or `print` raises
ValueError. Reading never raises: it takes what it can and names every departure from the format.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from pivotrl_jax.trajectories.parsing import too_deep
from pivotrl_jax.trajectories.schema import Action, ToolCall

# Distinct from JSON null, which is a readable value of the wrong type.
NOTHING = object()


@dataclasses.dataclass(frozen=True)
class ParsedAction:
    """An action read from text; `problems` is empty when the text was well formed.

    `reasoning` is the hidden thought before the action, which is no part of it.
    """

    action: Action
    problems: tuple[str, ...] = ()
    reasoning: str = ""


class ActionFormat(Protocol):
    """How actions are written in an assistant turn."""

    @property
    def name(self) -> str: ...

    def print(self, action: Action) -> str:
        """Text that parses back to exactly `action`; ValueError if there is none."""

    def parse(self, text: str) -> ParsedAction:
        """Action and problems of any string; never raises."""


def parsed(
    text: str, calls: Iterable[ToolCall], problems: Iterable[str], reasoning: str = ""
) -> ParsedAction:
    """The action of a text and its calls, each problem named once."""
    return ParsedAction(Action(text, tuple(calls)), tuple(dict.fromkeys(problems)), reasoning)


def verified(fmt: ActionFormat, action: Action, text: str) -> str:
    """`text`, if it parses back to `action`; ValueError if not."""
    if fmt.parse(text).action != action:
        raise ValueError(f"the {fmt.name} format cannot write this action exactly: {text[:80]!r}")
    return text


def split_reasoning(text: str) -> tuple[str, str, list[str]]:
    """Thought in <think> tags, the text after it, and the problems of the tags."""
    # A chat template may open <think> in the prompt, so that only the closing tag is sampled.
    thought, closed, rest = text.partition("</think>")
    opened = thought.lstrip().startswith("<think>")
    reasoning = thought.lstrip().removeprefix("<think>").strip()
    if closed:
        return reasoning, rest.lstrip("\n"), []
    if opened:
        return reasoning, "", ["unclosed_think"]
    return "", text, []


def split_calls(text: str, problems: list[str]) -> tuple[str, list[str]]:
    """Text before the first <tool_call> tag, and the inside of each such tag."""
    head, *segments = text.split("<tool_call>")
    if "</tool_call>" in head:
        problems.append("unopened_tag")
    bodies = []
    for segment in segments:
        body, closed, rest = segment.partition("</tool_call>")
        if not closed:
            problems.append("unclosed_tag")
        if rest.strip():
            problems.append("text_after_call")
        bodies.append(body)
    return head.removesuffix("\n") if segments else head, bodies


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON in which no string can be taken for a tag or a special token."""
    body = json.dumps(value, ensure_ascii=False, indent=indent)
    # "<" occurs only inside JSON strings, where the escape means the same character.
    return re.sub(r"<(?=/?(?:tool_call|think|answer)>|\|)", r"\\u003c", body)


def call_json(call: ToolCall, arguments: str = "arguments") -> str:
    """A call as one JSON object with the keys "name" and `arguments`."""
    return to_json({"name": call.name, arguments: call.arguments})


def find_json(text: str, problems: list[str]) -> tuple[str, Any]:
    """Text before the first line that a bracket or brace starts, and the JSON value there.

    The value is NOTHING if there is no such line (the text is then all of it) or no JSON on it.
    """
    start = re.search(r"^[ \t]*[\[{]", text, re.MULTILINE)
    if start is None:
        problems.append("no_json")
        return text, NOTHING
    head = text[: start.start()].removesuffix("\n")
    if head.strip():
        problems.append("prose")
    value, end = decode_json(text, start.end() - 1, problems)
    if text[end:].strip():
        problems.append("text_after_call")
    return head, value


def whole_json(text: str, problems: list[str]) -> Any:
    """The JSON value that is all of the text; NOTHING if it is none."""
    body = text.strip()
    value, end = decode_json(body, 0, problems)
    if end < len(body):
        problems.append("bad_json")
        return NOTHING
    return value


def decode_json(text: str, start: int, problems: list[str]) -> tuple[Any, int]:
    """Value at `start` and the index after it; NOTHING and len(text) if nothing can be read."""

    def pairs_hook(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            problems.append("duplicate_keys")
        return dict(pairs)

    def float_hook(number: str) -> float:
        if not math.isfinite(float(number)):
            problems.append("non_finite_number")
        return float(number)

    decoder = json.JSONDecoder(
        object_pairs_hook=pairs_hook, parse_float=float_hook, parse_constant=float_hook
    )
    try:
        value, end = decoder.raw_decode(text, start)
    # ValueError also covers integers longer than Python converts.
    except (ValueError, RecursionError):
        problems.append("bad_json")
        return NOTHING, len(text)
    if too_deep(value):
        problems.append("too_deep")
        return NOTHING, len(text)
    return value, end


def read_call(
    value: Any, problems: list[str], arguments: Sequence[str] = ("arguments",)
) -> ToolCall | None:
    """The call that a decoded JSON value states; None, with the reason, if it is none.

    The arguments are under the first of the keys `arguments` that is there.
    """
    if value is NOTHING:
        return None
    if not isinstance(value, dict):
        problems.append("not_an_object")
        return None
    name = value.get("name")
    if not isinstance(name, str) or not name:
        problems.append("missing_name")
        return None
    stated = next((value[key] for key in arguments if key in value), None)
    return ToolCall(name, read_arguments(stated, problems))


def read_arguments(value: Any, problems: list[str]) -> Any:
    """Arguments of a call, decoded if they are the JSON text of an object."""
    if isinstance(value, str):
        value = _arguments_from_text(value, problems)
    if not isinstance(value, dict):
        problems.append("arguments_not_an_object")
    return None if value is NOTHING else value


def _arguments_from_text(text: str, problems: list[str]) -> Any:
    found: list[str] = []
    value, end = decode_json(text.strip(), 0, found)
    if not isinstance(value, dict) or end < len(text.strip()):
        return text
    problems.extend(found)
    return value
