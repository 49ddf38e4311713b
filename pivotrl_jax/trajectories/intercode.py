"""InterCode sessions: a question, then one command per turn to a database or a shell."""

import re
from collections.abc import Mapping
from typing import Any

from pivotrl_jax.trajectories.parsing import BadRow
from pivotrl_jax.trajectories.schema import Message, ToolCall, Trajectory
from pivotrl_jax.trajectories.tools import BASH_TOOL, SQL_TOOL

SQL_PROMPT = (
    "You answer questions about a MySQL database. Each of your turns sends one SQL command; you "
    "then see its rows or its error. The last command's rows are your answer."
)
BASH_PROMPT = (
    "You carry out tasks in a Linux shell. Each of your turns sends one bash command; you then see "
    "its output. You are done when the last command's output or effect is what the task asks for."
)

# How the ReAct runs write an action; their other one is the word "submit".
_EXECUTE = re.compile(r"execute\[(.*)\]", re.DOTALL)


def intercode_sql(row: Mapping[str, Any], source: str) -> Trajectory:
    """One InterCode-SQL session; its database is the fact "db". Raises BadRow.

    A result is `failed` where the environment calls the action invalid.
    """
    return _session(row, source, SQL_PROMPT, SQL_TOOL, ("db", "gold", "hardness"))


def intercode_bash(row: Mapping[str, Any], source: str) -> Trajectory:
    """One InterCode-Bash session, where thoughts become the text of a turn. Raises BadRow.

    `execute[COMMAND]` is unwrapped; a turn that submits is a message without a call.
    """
    return _session(row, source, BASH_PROMPT, BASH_TOOL, ("fs", "gold", "gold2", "model"))


def _session(
    row: Mapping[str, Any], source: str, prompt: str, tool: dict[str, Any], facts: tuple[str, ...]
) -> Trajectory:
    try:
        texts = [
            row["actions"],
            row["observations"],
            row.get("thoughts", [""] * len(row["actions"])),
        ]
        turns = list(zip(*texts, row["valid_action"], strict=True))
        question, task = row["query"], row["task_id"]
    except (KeyError, TypeError, ValueError):
        raise BadRow("malformed_session") from None
    if not turns:
        raise BadRow("no_assistant_turn")
    if not all(
        isinstance(text, str) for text in (question, *(t for turn in turns for t in turn[:3]))
    ):
        raise BadRow("content_not_text")
    messages = [Message("system", prompt), Message("user", question)]
    for turn in turns:
        messages += _turn(tool, *turn)
    reward = row.get("reward")
    return Trajectory(
        id=str(row.get("id") or source),
        messages=tuple(messages),
        task_id=str(task),
        domain=str(row.get("domain") or "general"),
        source=source,
        tools=(tool,),
        reward=float(reward) if isinstance(reward, int | float) else None,
        facts={name: row[name] for name in facts if name in row},
    )


def _turn(
    tool: dict[str, Any], action: str, observation: str, thought: str, valid: bool
) -> list[Message]:
    if thought and action.strip() == "submit":
        return [Message("assistant", thought)]
    wrapped = _EXECUTE.fullmatch(action) if thought else None
    (argument,) = tool["function"]["parameters"]["required"]
    call = ToolCall(tool["function"]["name"], {argument: wrapped[1] if wrapped else action})
    return [
        Message("assistant", thought, (call,)),
        Message("tool", observation, failed=not valid),
    ]
