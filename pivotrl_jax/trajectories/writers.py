"""Trajectories back to OpenAI chat rows."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pivotrl_jax.trajectories import files
from pivotrl_jax.trajectories.results import answered_calls, call_ids
from pivotrl_jax.trajectories.schema import Message, Trajectory


def write_openai_chat(trajectories: Iterable[Trajectory], path: Path) -> None:
    """Writes one JSON object per line; `openai_chat` reads all but `source` back unchanged."""
    with files.writing(path) as out:
        for trajectory in trajectories:
            out.write(json.dumps(_row(trajectory), ensure_ascii=False) + "\n")


def _row(trajectory: Trajectory) -> dict[str, Any]:
    facts = {"facts": dict(trajectory.facts)} if trajectory.facts else {}
    pivots = {} if trajectory.pivots is None else {"pivots": dict(trajectory.pivots)}
    return {
        # What an agent's harness wrote can look like that harness's own format.
        "trajectory_format": "openai_chat",
        "id": trajectory.id,
        "task_id": trajectory.task_id,
        "domain": trajectory.domain,
        "reward": trajectory.reward,
        "tools": list(trajectory.tools),
        "messages": _entries(trajectory.messages),
        **facts,
        **pivots,
    }


def _entries(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for index, (message, answered) in enumerate(
        zip(messages, answered_calls(messages), strict=True)
    ):
        entry: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.reasoning is not None:
            entry["reasoning_content"] = message.reasoning
        if message.failed:
            entry["failed"] = True
        if message.calls:
            entry["tool_calls"] = _calls(message, call_ids(message, index))
        if answered is not None:
            entry["tool_call_id"] = answered
        entries.append(entry)
    return entries


def _calls(message: Message, ids: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "id": name,
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": json.dumps(call.arguments, ensure_ascii=False),
            },
        }
        for name, call in zip(ids, message.calls, strict=True)
    ]
