"""Readers of coding agents: mini-swe-agent, SWE-agent, OpenHands."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from pivotrl_jax.trajectories.parsing import entries, messages, text, trajectory
from pivotrl_jax.trajectories.schema import Message, ToolCall, Trajectory
from pivotrl_jax.trajectories.tools import BASH_TOOL

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
# How OpenHands closes the output of a command, and how its editor opens a refusal.
EXIT_CODE = re.compile(r"\[The command completed with exit code (-?\d+)\.?")
EDITOR_ERROR = re.compile(r"(?:ERROR|Error|\[Error)\b")
OPENHANDS_TOOLS = frozenset({"execute_bash", "str_replace_editor", "execute_ipython_cell"})


def mini_swe_agent(row: Mapping[str, Any], source: str) -> Trajectory:
    """mini-swe-agent: bash tool calls, or (its older form) one fenced command per turn.

    A result whose `<returncode>` is not 0, or that timed out, is `failed`. Raises BadRow.
    """
    said = messages(entry for entry in _entries(row) if entry.get("role") != "exit")
    if not any(each.calls for each in said):
        said = [_with_fenced_command(each) for each in said]
    said = [
        dataclasses.replace(each, failed=_command_failed(each.content))
        if each.role in ("tool", "user")
        else each
        for each in said
    ]
    return trajectory(row, source, said, "coding", (BASH_TOOL,))


def swe_agent(row: Mapping[str, Any], source: str) -> Trajectory:
    """SWE-agent demonstrations and native .traj files: `thought` and `action` of each turn.

    An action becomes a bash call unless the turn has function calls of its own. Demonstrations
    pasted into the history (`is_demo`) are another trajectory and are left out. Raises BadRow.
    """
    kept = [entry for entry in _entries(row) if not entry.get("is_demo")]
    said = [_with_action(*pair) for pair in zip(messages(kept), kept, strict=True)]
    only_bash = all(call.name == "bash" for each in said for call in each.calls)
    return trajectory(row, source, said, "coding", (BASH_TOOL,) if only_bash else ())


def openhands(row: Mapping[str, Any], source: str) -> Trajectory:
    """OpenHands: function-calling chats under `messages` or `trajectory`, with `tools`.

    A logged model call has its tools under `kwargs`. A result with an exit code other than 0, or
    that starts with an error of the editor, is `failed`; `resolved` stands in for a missing
    reward. Raises BadRow.
    """
    stated = row.get("tools") or _of(row.get("kwargs"), "tools")
    reward = row.get("reward", row.get("resolved"))
    named = {"id": row.get("id") or row.get("trajectory_id")}
    full = {**row, **named, "tools": stated, "reward": reward}
    said = [_with_exit_code(each) for each in messages(_entries(row))]
    return trajectory(full, source, said, "coding")


def _entries(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return entries(row, "messages", "history", "trajectory")


def _of(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _with_fenced_command(turn: Message) -> Message:
    commands = FENCED_COMMAND.findall(turn.content)
    if turn.role != "assistant" or len(commands) != 1:
        return turn
    said = FENCED_COMMAND.sub("", turn.content).strip()
    call = ToolCall("bash", {"command": commands[0]})
    return dataclasses.replace(turn, content=said, calls=(call,))


def _command_failed(result: str) -> bool:
    code = RETURN_CODE.match(result)
    return _nonzero(code[1]) if code else result.startswith((TIMED_OUT, "<exception>"))


def _nonzero(digits: str) -> bool:
    # Not int(): a result is foreign text, and Python refuses to convert thousands of digits.
    return bool(digits.strip("-0"))


def _with_action(turn: Message, entry: Mapping[str, Any]) -> Message:
    if turn.role != "assistant":
        failed = bool(REFUSED_EDIT.match(turn.content))
        return dataclasses.replace(turn, failed=failed)
    action = text(entry.get("action")).strip("\n")
    if turn.calls or not action:
        return turn
    thought = text(entry.get("thought")).strip()
    return dataclasses.replace(
        turn, content=thought, calls=(ToolCall("bash", {"command": action}),)
    )


def _with_exit_code(result: Message) -> Message:
    if result.role != "tool":
        return result
    codes = EXIT_CODE.findall(result.content)
    failed = _nonzero(codes[-1]) if codes else bool(EDITOR_ERROR.match(result.content))
    return dataclasses.replace(result, failed=failed or result.failed)
