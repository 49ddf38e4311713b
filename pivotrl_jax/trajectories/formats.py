"""One pure function per trajectory format: a decoded JSON object in, a Trajectory out."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from pivotrl_jax.trajectories.intercode import intercode_bash, intercode_sql
from pivotrl_jax.trajectories.schema import BadRow, Message, Role, ToolCall, Trajectory
from pivotrl_jax.trajectories.tools import BASH_TOOL

ROLES: Mapping[str, Role] = MappingProxyType(
    {
        "system": "system",
        "developer": "system",
        "user": "user",
        "assistant": "assistant",
        "tool": "tool",
    }
)

# The harness itself runs the first match and asks again unless there is exactly one block.
FENCED_COMMAND = re.compile(r"```(?:bash|mswea_bash_command)\s*\n(.*?)\n```", re.DOTALL)
RETURN_CODE = re.compile(
    r"\s*(?:<exception>.*?</exception>\s*)?<returncode>(-?\d+)</returncode>", re.DOTALL
)
TIMED_OUT = "The last command <command>"
# SWE-agent records no exit status; an edit that its linter refused is the failure it states.
REFUSED_EDIT = re.compile(
    r"\s*(?:OBSERVATION:\s*)?Your proposed edit has introduced new syntax error"
)


def openai_chat(row: Mapping[str, Any], source: str) -> Trajectory:
    """OpenAI chat messages with optional `tools`, `reasoning_content` and tool-result `failed`.

    `source` is "file:line". Raises BadRow.
    """
    return _trajectory(row, source, _messages(_entries(row)), domain="general")


def mini_swe_agent(row: Mapping[str, Any], source: str) -> Trajectory:
    """mini-swe-agent: bash tool calls, or (its older form) one fenced command per turn.

    A result whose `<returncode>` is not 0, or that timed out, is `failed`. Raises BadRow.
    """
    messages = _messages([entry for entry in _entries(row) if entry.get("role") != "exit"])
    if not any(message.calls for message in messages):
        messages = [_with_fenced_command(message) for message in messages]
    messages = [
        dataclasses.replace(message, failed=_command_failed(message.content))
        if message.role in ("tool", "user")
        else message
        for message in messages
    ]
    return _trajectory(row, source, messages, domain="coding", tools=(BASH_TOOL,))


def swe_agent(row: Mapping[str, Any], source: str) -> Trajectory:
    """SWE-agent demonstrations and native .traj files: `thought` and `action` of each turn.

    An action becomes a bash call unless the turn has function calls of its own. Demonstrations
    pasted into the history (`is_demo`) are another trajectory and are left out. Raises BadRow.
    """
    entries = [entry for entry in _entries(row) if not entry.get("is_demo")]
    messages = [
        _with_action(message, entry)
        for message, entry in zip(_messages(entries), entries, strict=True)
    ]
    only_bash = all(call.name == "bash" for message in messages for call in message.calls)
    tools = (BASH_TOOL,) if only_bash else ()
    return _trajectory(row, source, messages, domain="coding", tools=tools)


FORMATS: Mapping[str, Callable[[Mapping[str, Any], str], Trajectory]] = MappingProxyType(
    {
        "openai_chat": openai_chat,
        "mini_swe_agent": mini_swe_agent,
        "swe_agent": swe_agent,
        "intercode_sql": intercode_sql,
        "intercode_bash": intercode_bash,
    }
)


def detect(row: Mapping[str, Any]) -> str:
    """Name of the format of `row`, a key of FORMATS. Raises BadRow("unknown_format")."""
    if "actions" in row and "observations" in row:
        return "intercode_sql" if "db" in row else "intercode_bash"
    if "messages" not in row and "history" not in row:
        raise BadRow("unknown_format")
    if "messages" not in row:
        return "swe_agent"
    if str(row.get("trajectory_format", "")).startswith("mini-swe-agent"):
        return "mini_swe_agent"
    entries = _entries(row)
    if any("action" in entry and entry.get("role") == "assistant" for entry in entries):
        return "swe_agent"
    results = [entry.get("content") for entry in entries if entry.get("role") in ("tool", "user")]
    if any(isinstance(result, str) and RETURN_CODE.match(result) for result in results):
        return "mini_swe_agent"
    return "openai_chat"


def tool_name(schema: Mapping[str, Any]) -> str:
    """The name in an OpenAI function schema, with or without its {"type", "function"} wrapper."""
    return schema.get("function", schema)["name"]


def _entries(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = row.get("messages", row.get("history"))
    if not isinstance(entries, list) or not entries:
        raise BadRow("empty_messages")
    if not all(isinstance(entry, dict) for entry in entries):
        raise BadRow("malformed_message")
    return entries


def _messages(entries: list[dict[str, Any]]) -> list[Message]:
    return [_message(entry) for entry in entries]


def _message(entry: Mapping[str, Any]) -> Message:
    role = ROLES.get(str(entry.get("role")))
    if role is None:
        raise BadRow("unknown_role")
    reasoning = entry.get("reasoning_content")
    return Message(
        role=role,
        content=_text(entry.get("content")),
        calls=_calls(entry.get("tool_calls")) if role == "assistant" else (),
        reasoning=_text(reasoning) if reasoning is not None else None,
        failed=bool(entry.get("failed", False)),
    )


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    try:
        return "".join(part["text"] for part in content)
    except (TypeError, KeyError):
        raise BadRow("content_not_text") from None


def _calls(calls: Any) -> tuple[ToolCall, ...]:
    try:
        return tuple(_call(call["function"]) for call in calls or ())
    except (TypeError, KeyError, ValueError):
        raise BadRow("malformed_tool_calls") from None


def _call(function: Mapping[str, Any]) -> ToolCall:
    name, arguments = function["name"], function.get("arguments") or {}
    if not isinstance(name, str) or not name:
        raise ValueError("a call needs the name of its tool")
    return ToolCall(name, json.loads(arguments) if isinstance(arguments, str) else arguments)


def _with_fenced_command(message: Message) -> Message:
    commands = FENCED_COMMAND.findall(message.content)
    if message.role != "assistant" or len(commands) != 1:
        return message
    text = FENCED_COMMAND.sub("", message.content).strip()
    call = ToolCall("bash", {"command": commands[0]})
    return dataclasses.replace(message, content=text, calls=(call,))


def _command_failed(result: str) -> bool:
    code = RETURN_CODE.match(result)
    return int(code[1]) != 0 if code else result.startswith((TIMED_OUT, "<exception>"))


def _with_action(message: Message, entry: Mapping[str, Any]) -> Message:
    if message.role != "assistant":
        failed = bool(REFUSED_EDIT.match(message.content))
        return dataclasses.replace(message, failed=failed)
    action = _text(entry.get("action")).strip("\n")
    if message.calls or not action:
        return message
    thought = _text(entry.get("thought")).strip()
    return dataclasses.replace(
        message, content=thought, calls=(ToolCall("bash", {"command": action}),)
    )


def _trajectory(
    row: Mapping[str, Any],
    source: str,
    messages: list[Message],
    domain: str,
    tools: tuple[dict[str, Any], ...] = (),
) -> Trajectory:
    if not any(message.role == "assistant" for message in messages):
        raise BadRow("no_assistant_turn")
    reward = row.get("reward")
    return Trajectory(
        id=str(row.get("id") or source),
        messages=tuple(messages),
        task_id=_task_id(row, source, messages),
        domain=str(row.get("domain") or domain),
        source=source,
        tools=_tools(row.get("tools")) or tools,
        reward=float(reward) if isinstance(reward, int | float) else None,
    )


def _tools(tools: Any) -> tuple[dict[str, Any], ...]:
    try:
        names = [tool_name(tool) for tool in tools or ()]
    except (TypeError, KeyError, AttributeError):
        raise BadRow("malformed_tools") from None
    if not all(isinstance(name, str) for name in names):
        raise BadRow("malformed_tools")
    return tuple(tools or ())


def _task_id(row: Mapping[str, Any], source: str, messages: list[Message]) -> str:
    """The stated task, else the name of a one-trajectory document, else a hash of the prompt."""
    named = row.get("task_id") or row.get("instance_id")
    if named:
        return str(named)
    file = PurePath(source.rpartition(":")[0]).name
    if file.endswith((".json", ".traj")):
        return file.removesuffix(".json").removesuffix(".traj")
    # Repeated runs of one prompt must not part at the split, so equal prompts are one task.
    users = [i for i, message in enumerate(messages) if message.role == "user"]
    prompt = json.dumps([message.content for message in messages[: users[0] + 1 if users else 1]])
    return "prompt-" + hashlib.sha256(prompt.encode()).hexdigest()[:16]
