"""An assistant turn as text: printing and reading actions in three formats.

Each format keeps one promise: `parse(print(action)).action == action`, or `print` raises
ValueError. Reading never raises: it takes what it can and names every departure from the format.
"""

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Iterable
from typing import Any, Protocol

from pivotrl_jax.errors import UserError
from pivotrl_jax.trajectories.schema import Action, ToolCall

# Far above any real tool schema and far below the interpreter's recursion limit, which equality
# and printing of a deeper value would hit.
_MAX_JSON_DEPTH = 64

_OPENING_FENCE = re.compile(r"^(`{3,})(?:bash|sh)[ \t\r]*(?:\n|\Z)", re.MULTILINE)

# Distinct from JSON null, which is a readable value of the wrong type.
_NOTHING = object()


@dataclasses.dataclass(frozen=True)
class ParsedAction:
    """An action read from text; `problems` is empty when the text was well formed."""

    action: Action
    problems: tuple[str, ...] = ()


class ActionFormat(Protocol):
    """How actions are written in an assistant turn."""

    @property
    def name(self) -> str: ...

    def print(self, action: Action) -> str:
        """Text that parses back to exactly `action`; ValueError if there is none."""

    def parse(self, text: str) -> ParsedAction:
        """Action and problems of any string; never raises."""


@dataclasses.dataclass(frozen=True)
class FencedBash:
    """Free text, then one shell command in a ```bash fence (mini-swe-agent version 1)."""

    tool: str = "bash"
    argument: str = "command"
    name: str = dataclasses.field(default="fenced_bash", init=False)

    def print(self, action: Action) -> str:
        """Print with a fence longer than any run of backticks that starts a line inside."""
        if not action.calls:
            return _verified(self, action, action.text)
        arguments = action.calls[0].arguments
        command = arguments.get(self.argument) if isinstance(arguments, dict) else None
        if not isinstance(command, str):
            raise ValueError(f"the call has no text argument {self.argument!r} to put in a fence")
        runs = re.findall(r"^`+", command, re.MULTILINE)
        fence = "`" * max([3, *(len(run) + 1 for run in runs)])
        head = f"{action.text}\n\n" if action.text else ""
        return _verified(self, action, f"{head}{fence}bash\n{command}\n{fence}")

    def parse(self, text: str) -> ParsedAction:
        """Read exactly one bash or sh block; fences in other languages are plain text."""
        visible, problems = split_reasoning(text)
        opening = _OPENING_FENCE.search(visible)
        if opening is None:
            return _parsed(visible, (), [*problems, "no_fenced_block"])
        head = visible[: opening.start()].removesuffix("\n").removesuffix("\n")
        closing = re.compile(rf"^`{{{len(opening[1])},}}[ \t\r]*$", re.MULTILINE).search(
            visible, opening.end()
        )
        if closing is None:
            return _parsed(head, (), [*problems, "unclosed_fence"])
        rest = visible[closing.end() :]
        if _OPENING_FENCE.search(rest):
            return _parsed(head, (), [*problems, "several_fenced_blocks"])
        if rest.strip():
            problems.append("text_after_block")
        command = visible[opening.end() : closing.start()].removesuffix("\n")
        return _parsed(head, [ToolCall(self.tool, {self.argument: command})], problems)


@dataclasses.dataclass(frozen=True)
class HermesTags:
    """Free text, then one <tool_call> JSON object per call (Hermes, Qwen)."""

    name: str = dataclasses.field(default="hermes", init=False)

    def print(self, action: Action) -> str:
        """Print as the Qwen chat templates do; tags inside JSON strings are escaped."""
        calls = [f"<tool_call>\n{_call_json(call)}\n</tool_call>" for call in action.calls]
        head = [action.text] if action.text or not calls else []
        return _verified(self, action, "\n".join(head + calls))

    def parse(self, text: str) -> ParsedAction:
        """Read every tagged call; whitespace and JSON-encoded arguments are forgiven."""
        visible, problems = split_reasoning(text)
        head, *segments = visible.split("<tool_call>")
        if "</tool_call>" in head:
            problems.append("unopened_tag")
        calls = []
        for segment in segments:
            body, closed, rest = segment.partition("</tool_call>")
            if not closed:
                problems.append("unclosed_tag")
            if rest.strip():
                problems.append("text_after_call")
            value, end = decode_json(body.strip(), 0, problems)
            if end < len(body.strip()):
                problems.append("bad_json")
            elif (call := _read_call(value, problems)) is not None:
                calls.append(call)
        return _parsed(head.removesuffix("\n") if segments else head, calls, problems)


@dataclasses.dataclass(frozen=True)
class PlainJson:
    """The whole turn is one JSON call or a list of them; prose before it is a problem."""

    name: str = dataclasses.field(default="json", init=False)

    def print(self, action: Action) -> str:
        """Print one object, or a list when there are several calls."""
        bodies = [_call_json(call) for call in action.calls]
        if len(bodies) > 1:
            bodies = [f"[{', '.join(bodies)}]"]
        head = [action.text] if action.text or not bodies else []
        return _verified(self, action, "\n".join(head + bodies))

    def parse(self, text: str) -> ParsedAction:
        """Read the JSON value that starts the first line with a bracket or brace."""
        visible, problems = split_reasoning(text)
        start = re.search(r"^[ \t]*[\[{]", visible, re.MULTILINE)
        if start is None:
            return _parsed(visible, (), [*problems, "no_json"])
        head = visible[: start.start()].removesuffix("\n")
        if head.strip():
            problems.append("prose")
        value, end = decode_json(visible, start.end() - 1, problems)
        if visible[end:].strip():
            problems.append("text_after_call")
        values = value if isinstance(value, list) else [value]
        if not values:
            problems.append("no_call")
        read = (_read_call(each, problems) for each in values)
        return _parsed(head, [call for call in read if call is not None], problems)


def action_format(name: str) -> ActionFormat:
    """Return the format called fenced_bash, hermes or json; UserError on any other name."""
    formats: tuple[ActionFormat, ...] = (FencedBash(), HermesTags(), PlainJson())
    by_name = {fmt.name: fmt for fmt in formats}
    if name not in by_name:
        nearest = difflib.get_close_matches(name, by_name, n=1, cutoff=0.0)[0]
        raise UserError(
            f"unknown action format {name!r}: use one of {', '.join(by_name)} "
            f"(nearest is {nearest!r})"
        )
    return by_name[name]


def _parsed(text: str, calls: Iterable[ToolCall], problems: list[str]) -> ParsedAction:
    return ParsedAction(Action(text, tuple(calls)), tuple(dict.fromkeys(problems)))


def _verified(fmt: ActionFormat, action: Action, text: str) -> str:
    if fmt.parse(text).action != action:
        raise ValueError(f"the {fmt.name} format cannot write this action exactly: {text[:80]!r}")
    return text


def split_reasoning(text: str) -> tuple[str, list[str]]:
    """What follows the reasoning at the start of `text`, and the problems found on the way."""
    # A chat template may open <think> in the prompt, so that only the closing tag is sampled.
    _, closed, rest = text.partition("</think>")
    if closed:
        return rest.lstrip("\n"), []
    if text.lstrip().startswith("<think>"):
        return "", ["unclosed_think"]
    return text, []


def _call_json(call: ToolCall) -> str:
    body = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
    # "<" occurs only inside JSON strings, where the escape means the same character.
    return re.sub(r"<(?=/?(?:tool_call|think)>)", r"\\u003c", body)


def decode_json(text: str, start: int, problems: list[str]) -> tuple[Any, int]:
    """Value at `start` and the index after it; no JSON value and len(text) if none can be read.

    Every departure from well-formed JSON of moderate depth is added to `problems`.
    """

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
        return _NOTHING, len(text)
    if _too_deep(value):
        problems.append("too_deep")
        return _NOTHING, len(text)
    return value, end


def _too_deep(value: Any) -> bool:
    layer = [value]
    for _ in range(_MAX_JSON_DEPTH):
        layer = [child for node in layer for child in _children(node)]
        if not layer:
            return False
    return True


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _read_call(value: Any, problems: list[str]) -> ToolCall | None:
    if value is _NOTHING:
        return None
    if not isinstance(value, dict):
        problems.append("not_an_object")
        return None
    name = value.get("name")
    if not isinstance(name, str) or not name:
        problems.append("missing_name")
        return None
    arguments = value.get("arguments")
    if isinstance(arguments, str):
        arguments = _arguments_from_text(arguments, problems)
    if not isinstance(arguments, dict):
        problems.append("arguments_not_an_object")
    return ToolCall(name, arguments)


def _arguments_from_text(text: str, problems: list[str]) -> Any:
    found: list[str] = []
    value, end = decode_json(text.strip(), 0, found)
    if not isinstance(value, dict) or end < len(text.strip()):
        return text
    problems.extend(found)
    return value
