"""A pivot row and a Responses output as the upstream verifiers see them.

What upstream's server would refuse to read is a UserError here: it never gets a reward.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pivotrl_jax.errors import UserError

OUTPUT_TEXT = "output_text"
PLAIN = "plain"  # a message whose content is text instead of a list of parts

_KINDS = ("message", "function_call", "function_call_batch")


@dataclasses.dataclass(frozen=True)
class Call:
    """A tool call; `arguments` is the JSON text as it was written."""

    name: str
    arguments: str


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a message; a refusal has no text."""

    kind: str
    text: str | None


@dataclasses.dataclass(frozen=True)
class Output:
    """The calls of an output, and the parts of each of its assistant messages."""

    calls: tuple[Call, ...]
    messages: tuple[tuple[Part, ...], ...]


@dataclasses.dataclass(frozen=True)
class Expected:
    """An expected action; `calls` is empty for a message."""

    kind: str
    calls: tuple[Call, ...] = ()


def read_output(items: Any) -> Output:
    """The Responses output `items`; reasoning and unknown items are left out."""
    if not isinstance(items, list):
        raise UserError("output is not a list: give Responses output items")
    calls, messages = [], []
    for index, item in enumerate(items):
        where = f"output[{index}]"
        kind = as_object(item, where).get("type", "message")
        if kind == "function_call":
            calls.append(_call(item, where))
        elif kind == "message" and item.get("role", "assistant") == "assistant":
            messages.append(_parts(item.get("content"), f"{where}.content"))
    return Output(tuple(calls), tuple(messages))


def read_expected(row: Mapping[str, Any]) -> Expected:
    """The row's `expected_action`, of one of the three kinds."""
    action = as_object(row.get("expected_action"), "row.expected_action")
    kind = action.get("type")
    if kind not in _KINDS:
        raise UserError(
            f"row.expected_action.type is {str(kind)[:80]!r}: use one of {', '.join(_KINDS)}"
        )
    if kind == "message":
        _text(action, "content", "row.expected_action")
        return Expected(kind)
    if kind == "function_call":
        return Expected(kind, (_call(action, "row.expected_action"),))
    calls = action.get("calls")
    if not isinstance(calls, list):
        raise UserError("row.expected_action.calls is not a list: give function calls")
    named = [(call, f"row.expected_action.calls[{index}]") for index, call in enumerate(calls)]
    return Expected(kind, tuple(_call(as_object(call, where), where) for call, where in named))


def row_threshold(row: Mapping[str, Any], default: float) -> float:
    """The row's own threshold, which beats the options'."""
    threshold = row.get("threshold")
    if threshold is None:
        return default
    if not isinstance(threshold, int | float) or isinstance(threshold, bool):
        raise UserError(f"row.threshold is {str(threshold)[:80]!r}: give a number")
    return threshold


def optional_object(row: Mapping[str, Any], field: str) -> dict[str, Any]:
    """`row[field]`, or an empty object where it is null or missing."""
    value = row.get(field)
    return {} if value is None else as_object(value, f"row.{field}")


def as_object(value: Any, where: str) -> dict[str, Any]:
    """`value` if it is an object; UserError naming `where` if not."""
    if not isinstance(value, dict):
        raise UserError(f"{where} is missing or not an object: give one")
    return value


def _parts(content: Any, where: str) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Part(PLAIN, content),)
    if not isinstance(content, list):
        raise UserError(f"{where} is not a list: give the message's parts")
    return tuple(_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def _part(part: Any, where: str) -> Part:
    kind = _text(as_object(part, where), "type", where)
    if kind == OUTPUT_TEXT:
        return Part(kind, _text(part, "text", where))
    text = part.get("text")
    return Part(kind, text if isinstance(text, str) else None)


def _call(call: Mapping[str, Any], where: str) -> Call:
    return Call(_text(call, "name", where), _text(call, "arguments", where))


def _text(owner: Mapping[str, Any], field: str, where: str) -> str:
    value = owner.get(field)
    if not isinstance(value, str):
        raise UserError(f"{where}.{field} is not text: give a string")
    return value
