"""What every reader needs: decoded JSON to messages, calls, tools and a Trajectory."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from pivotrl_jax.trajectories.results import in_call_order
from pivotrl_jax.trajectories.schema import Message, Role, ToolCall, Trajectory

ROLES: Mapping[str, Role] = MappingProxyType(
    {
        "system": "system",
        "developer": "system",
        "user": "user",
        "assistant": "assistant",
        "tool": "tool",
    }
)
# Far above any real call, far below the depth at which printing and comparing would give up.
MAX_DEPTH = 64


class BadRow(Exception):
    """A row that is no trajectory; its one argument is the reason under which it is counted."""


def entries(row: Mapping[str, Any], *names: str) -> list[dict[str, Any]]:
    """The list of objects under the first of `names` that the row has. Raises BadRow."""
    found = next((row[name] for name in names if name in row), None)
    if not isinstance(found, list) or not found:
        raise BadRow("empty_messages")
    if not all(isinstance(entry, dict) for entry in found):
        raise BadRow("malformed_message")
    return found


def objects(stated: Any, reason: str) -> list[dict[str, Any]]:
    """A list of objects, which may be empty; null is one. Raises BadRow(reason)."""
    stated = [] if stated is None else stated
    if not isinstance(stated, list) or not all(isinstance(each, dict) for each in stated):
        raise BadRow(reason)
    return stated


def message(entry: Mapping[str, Any]) -> Message:
    """One OpenAI chat message. Raises BadRow."""
    role = ROLES.get(str(entry.get("role")))
    if role is None:
        raise BadRow("unknown_role")
    reasoning = entry.get("reasoning_content")
    return Message(
        role=role,
        content=text(entry.get("content")),
        calls=calls(entry.get("tool_calls")) if role == "assistant" else (),
        reasoning=text(reasoning) if reasoning is not None else None,
        failed=bool(entry.get("failed", False)),
    )


def messages(stated: Iterable[Mapping[str, Any]]) -> list[Message]:
    """OpenAI chat messages; results stand in the order of the calls they answer. Raises BadRow."""
    return in_call_order((message(entry), _ids(entry)) for entry in stated)


def text(content: Any) -> str:
    """A string, null, or a list of parts that all have text. Raises BadRow."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    try:
        return "".join(part["text"] for part in content)
    except (TypeError, KeyError):
        raise BadRow("content_not_text") from None


def calls(stated: Any) -> tuple[ToolCall, ...]:
    """OpenAI `tool_calls`. Raises BadRow."""
    try:
        functions = [each["function"] for each in stated or ()]
        return tuple(call(each["name"], each.get("arguments")) for each in functions)
    except (TypeError, KeyError, AttributeError):
        raise BadRow("malformed_tool_calls") from None


def _ids(entry: Mapping[str, Any]) -> list[Any]:
    """The ids of a message's calls, or the one that a result answers."""
    if entry.get("role") == "tool":
        return [entry.get("tool_call_id")]
    calling = entry.get("role") == "assistant"
    return [each.get("id") for each in entry.get("tool_calls") or ()] if calling else []


def call(name: Any, arguments: Any) -> ToolCall:
    """A call whose arguments are JSON text, decoded JSON, or missing. Raises BadRow."""
    if not isinstance(name, str) or not name:
        raise BadRow("malformed_tool_calls")
    try:
        value = json.loads(arguments) if arguments and isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        raise BadRow("malformed_tool_calls") from None
    if too_deep(value):
        raise BadRow("malformed_tool_calls")
    return ToolCall(name, value if arguments else {})


def tool_name(schema: Mapping[str, Any]) -> str:
    """The name in an OpenAI function schema, with or without its {"type", "function"} wrapper."""
    return schema.get("function", schema)["name"]


def function(name: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """An OpenAI function schema."""
    body = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": body}


def tools(stated: Any) -> tuple[dict[str, Any], ...]:
    """Function schemas as they stand. Raises BadRow unless each has a name."""
    try:
        names = [tool_name(tool) for tool in stated or ()]
    except (TypeError, KeyError, AttributeError):
        raise BadRow("malformed_tools") from None
    if not all(isinstance(name, str) for name in names):
        raise BadRow("malformed_tools")
    return tuple(stated or ())


def trajectory(
    row: Mapping[str, Any],
    source: str,
    messages: Iterable[Message],
    domain: str,
    own_tools: tuple[dict[str, Any], ...] = (),
    facts: Mapping[str, Any] = MappingProxyType({}),
    pivots: Mapping[int, Mapping[str, Any]] | None = None,
    task: str | None = None,
) -> Trajectory:
    """A Trajectory of `messages` with what `row` states about it.

    `own_tools`, `facts`, `pivots` and `task` are what the reader knows; the fields "tools",
    "facts", "pivots" and "domain" of the row (as `write_openai_chat` leaves them) come first.
    Raises BadRow.
    """
    messages = tuple(messages)
    if not any(each.role == "assistant" for each in messages):
        raise BadRow("no_assistant_turn")
    stated = _stated_pivots(row.get("pivots"), messages)
    return Trajectory(
        id=str(row.get("id") or source),
        messages=messages,
        task_id=task or _task_id(row, source, messages),
        domain=str(row.get("domain") or domain),
        source=source,
        tools=tools(row.get("tools")) or own_tools,
        reward=_reward(row.get("reward")),
        facts={**facts, **_facts(row)},
        pivots=pivots if stated is None else stated,
    )


def prompt_task(messages: Iterable[Message]) -> str:
    """A task named by its prompt: equal messages up to the first of a user are one task.

    White space at the ends is not looked at: FireAct has questions that differ in nothing else.
    """
    messages = list(messages)
    users = [i for i, each in enumerate(messages) if each.role == "user"]
    said = [each.content.strip() for each in messages[: users[0] + 1 if users else 1]]
    prompt = json.dumps(said)
    return "prompt-" + hashlib.sha256(prompt.encode()).hexdigest()[:16]


def _reward(stated: Any) -> float | None:
    try:
        return float(stated) if isinstance(stated, int | float) else None
    except OverflowError:
        raise BadRow("malformed_reward") from None


def _facts(row: Mapping[str, Any]) -> dict[str, Any]:
    facts = row.get("facts", {})
    if not isinstance(facts, dict):
        raise BadRow("malformed_facts")
    return facts


def _stated_pivots(stated: Any, messages: tuple[Message, ...]) -> dict[int, Any] | None:
    if stated is None:
        return None
    try:
        pivots = {int(index): dict(facts) for index, facts in stated.items()}
        turns = [messages[index].role for index in pivots if index >= 0]
    except (AttributeError, TypeError, ValueError, IndexError):
        raise BadRow("malformed_pivots") from None
    if len(turns) < len(pivots) or set(turns) > {"assistant"}:
        raise BadRow("malformed_pivots")
    return pivots


def _task_id(row: Mapping[str, Any], source: str, messages: tuple[Message, ...]) -> str:
    """The stated task, else the name of a one-trajectory document, else a hash of the prompt."""
    named = row.get("task_id") or row.get("instance_id")
    if named:
        return str(named)
    file = PurePath(source.rpartition(":")[0]).name
    if file.endswith((".json", ".traj")):
        return file.removesuffix(".json").removesuffix(".traj")
    # Repeated runs of one prompt must not part at the split, so equal prompts are one task.
    return prompt_task(messages)


def too_deep(value: Any) -> bool:
    """Whether JSON is nested more than MAX_DEPTH levels deep."""
    layer = [value]
    for _ in range(MAX_DEPTH):
        layer = [child for node in layer for child in _children(node)]
        if not layer:
            return False
    return True


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()
