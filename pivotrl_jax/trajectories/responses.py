"""OpenAI Responses items and tools (NeMo Gym's `input` and `output`) to messages and back."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pivotrl_jax.trajectories.parsing import ROLES, BadRow, call, text, too_deep
from pivotrl_jax.trajectories.results import answered_calls, call_ids, in_call_order
from pivotrl_jax.trajectories.schema import Message, ToolCall

NO_PARAMETERS: Mapping[str, Any] = MappingProxyType(
    {"parameters": {"type": "object", "properties": {}}}
)


def to_messages(items: Any) -> list[Message]:
    """Messages of Responses items (or of a bare string, which is a user's).

    Reasoning, text and calls in a row are one assistant turn; a new one begins with reasoning
    after anything else, or with text after text or a call. Results stand in the order of the calls
    they answer. Raises BadRow.
    """
    if isinstance(items, str):
        return [Message("user", items)]
    if not isinstance(items, list):
        raise BadRow("empty_messages")
    named: list[tuple[Message, list[Any]]] = []
    for item in items:
        if not isinstance(item, dict):
            raise BadRow("malformed_message")
        fragment = _fragment(item)
        ids = [item.get("call_id")] if fragment.calls or fragment.role == "tool" else []
        if named and _joins(named[-1][0], fragment):
            last, before = named[-1]
            named[-1] = _joined(last, fragment), before + ids
        else:
            named.append((fragment, ids))
    return in_call_order(named)


def to_items(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Items in upstream's order: reasoning, then text, then calls; results carry their call's id.

    A tool message that answers no call is written as a user's, for an output needs a call.
    """
    items: list[dict[str, Any]] = []
    for index, (message, answered) in enumerate(
        zip(messages, answered_calls(messages), strict=True)
    ):
        if message.role == "assistant":
            items += _assistant_items(message, index, call_ids(message, index))
        elif answered is not None:
            output = {"call_id": answered, "output": message.content}
            items.append({"type": "function_call_output", **output})
        else:
            role = "user" if message.role == "tool" else message.role
            items.append({"type": "message", "role": role, "content": message.content})
    return items


def call_item(name: str, arguments: Any) -> dict[str, Any]:
    """A `function_call` without ids; text that is no JSON stands as it was read."""
    return {"type": "function_call", "name": name, "arguments": _arguments_text(arguments)}


def read_call(item: Mapping[str, Any]) -> ToolCall:
    """The call in a `function_call`. Arguments that are not JSON stay text: a history may hold a
    failed call. Raises BadRow."""
    arguments = item.get("arguments")
    if isinstance(arguments, str) and arguments:
        arguments = _decoded(arguments)
        return ToolCall(call(item.get("name"), {}).name, arguments)
    return call(item.get("name"), arguments)


def to_tools(schemas: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Flat Responses tools of OpenAI chat schemas.

    Responses asks for parameters and `strict`, which chat schemas may leave out: none, and false.
    """
    return [
        {"type": "function", "strict": False, **NO_PARAMETERS, **schema.get("function", schema)}
        for schema in schemas
    ]


def from_tools(stated: Any) -> list[dict[str, Any]]:
    """OpenAI chat schemas of flat (or already wrapped) tools. Raises BadRow."""
    try:
        return [
            dict(tool)
            if "function" in tool
            else {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
            for tool in stated or ()
        ]
    except (TypeError, AttributeError):
        raise BadRow("malformed_tools") from None


def _fragment(item: Mapping[str, Any]) -> Message:
    kind = item.get("type") or "message"
    if kind == "reasoning":
        return Message("assistant", "", reasoning=_reasoning(item))
    if kind == "function_call":
        return Message("assistant", "", (read_call(item),))
    if kind == "function_call_output":
        return Message("tool", text(item.get("output")))
    role = ROLES.get(str(item.get("role")))
    if kind != "message" or role is None:
        raise BadRow("unknown_item")
    return Message(role, text(item.get("content")))


def _reasoning(item: Mapping[str, Any]) -> str:
    """The summary, else the content, without think tags at its ends."""
    parts = item.get("summary") or item.get("content")
    said = text(parts)
    stripped = said.strip().removeprefix("<think>").removesuffix("</think>")
    return said if stripped == said.strip() else stripped


def _joins(last: Message, fragment: Message) -> bool:
    if last.role != "assistant" or fragment.role != "assistant":
        return False
    only_thought = last.reasoning is not None and not last.content and not last.calls
    return bool(fragment.calls) or only_thought


def _joined(last: Message, fragment: Message) -> Message:
    thoughts = [each.reasoning for each in (last, fragment) if each.reasoning is not None]
    return dataclasses.replace(
        last,
        content=last.content + fragment.content,
        calls=last.calls + fragment.calls,
        reasoning="\n".join(thoughts) if thoughts else None,
    )


def _assistant_items(message: Message, index: int, ids: list[str]) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if message.reasoning is not None:
        summary = [{"type": "summary_text", "text": message.reasoning}] if message.reasoning else []
        items.append({"type": "reasoning", "id": f"rs_{index}", "summary": summary})
    if message.content or not message.calls:
        said = {"type": "output_text", "text": message.content, "annotations": []}
        identity = {"id": f"msg_{index}", "role": "assistant", "status": "completed"}
        items.append({"type": "message", **identity, "content": [said]})
    for name, each in zip(ids, message.calls, strict=True):
        state = {"call_id": name, "id": name, "status": "completed"}
        items.append({**call_item(each.name, each.arguments), **state})
    return items


def _decoded(arguments: str) -> Any:
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return arguments if too_deep(value) else value


def _arguments_text(arguments: Any) -> str:
    # Text that was kept because it is no JSON must come out as it went in, not quoted.
    if isinstance(arguments, str) and _decoded(arguments) == arguments:
        return arguments
    return json.dumps(arguments, ensure_ascii=False)
