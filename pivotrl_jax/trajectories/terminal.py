"""Readers of terminal agents: Terminus chats whose turns are JSON, and ATIF documents."""

import dataclasses
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pivotrl_jax.trajectories.parsing import (
    BadRow,
    call,
    entries,
    message,
    objects,
    prompt_task,
    text,
    trajectory,
)
from pivotrl_jax.trajectories.results import Named, in_call_order
from pivotrl_jax.trajectories.schema import Message, Role, Trajectory

ATIF = "ATIF-v1."
SOURCES: Mapping[str, Role] = MappingProxyType(
    {"user": "user", "agent": "assistant", "system": "system"}
)


def terminus(row: Mapping[str, Any], source: str) -> Trajectory:
    """Terminus chats: each assistant turn is a JSON object with a list of `commands`.

    Turns stay text, as the verifiers compare them; thought in think tags before one is its
    reasoning. Turns that are no such object are history only. A row may name its `task`. Facts:
    "harness". Raises BadRow.
    """
    stated = entries(row, "messages", "conversations")
    messages = [without_thought(message(entry)) for entry in stated]
    turns = [i for i, each in enumerate(messages) if each.role == "assistant"]
    kinds = {i: harness(messages[i].content) for i in turns}
    valid: dict[int, dict[str, Any]] = {i: {} for i, kind in kinds.items() if kind}
    if not valid:
        raise BadRow("no_terminus_turn")
    facts = {"harness": kinds[min(valid)]}
    pivots = None if len(valid) == len(kinds) else valid
    named = {"task_id": row.get("task"), **row}
    return trajectory(named, source, messages, "terminal", facts=facts, pivots=pivots)


def harness(answer: str) -> str | None:
    """The Terminus version whose schema `answer` follows by its keys, else None."""
    if not answer.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("commands"), list):
        return None
    if "state_analysis" in value:
        return "terminus_1"
    return "terminus_2" if "analysis" in value else None


def without_thought(turn: Message) -> Message:
    """An assistant turn with what stands before `</think>` as its reasoning, not in its text."""
    thought, closed, rest = turn.content.partition("</think>")
    if turn.role != "assistant" or not closed:
        return turn
    said = [turn.reasoning] if turn.reasoning else []
    reasoning = "\n".join([*said, thought.strip().removeprefix("<think>").strip()])
    return dataclasses.replace(turn, content=rest.lstrip(), reasoning=reasoning)


def atif(document: Mapping[str, Any], source: str) -> Trajectory:
    """An Agent Trajectory Interchange Format document (Harbor), versions 1.x.

    A step of the agent is one turn; its observations are tool results, or a user's message if it
    made no call. Steps marked as copied from another trajectory are history only, not candidates.
    Facts: "agent". Raises BadRow.
    """
    steps = entries(document, "steps")
    named: list[Named] = []
    pivots: dict[int, dict[str, Any]] = {}
    for step in steps:
        if step.get("source") == "agent" and not step.get("is_copied_context"):
            pivots[len(named)] = {}
        named += _step(step)
    messages = in_call_order(named)
    agent = document.get("agent")
    agent = agent if isinstance(agent, dict) else {}
    stated = {
        "id": document.get("trajectory_id") or document.get("session_id"),
        "tools": agent.get("tool_definitions"),
        "domain": document.get("domain"),
    }
    copied = any(step.get("is_copied_context") for step in steps)
    return trajectory(
        stated,
        source,
        messages,
        "terminal",
        facts={"agent": {key: agent[key] for key in ("name", "version") if key in agent}},
        pivots=pivots if copied else None,
        # Every document of a job is called trajectory.json, so its name tells no task.
        task=prompt_task(messages),
    )


def _step(step: Mapping[str, Any]) -> list[Named]:
    role = SOURCES.get(str(step.get("source")))
    if role is None:
        raise BadRow("unknown_role")
    reasoning = step.get("reasoning_content")
    stated = objects(step.get("tool_calls"), "malformed_tool_calls")
    made = tuple(call(each.get("function_name"), each.get("arguments")) for each in stated)
    turn = Message(
        role=role,
        content=text(step.get("message")),
        calls=made if role == "assistant" else (),
        reasoning=text(reasoning) if reasoning is not None else None,
    )
    ids = [each.get("tool_call_id") for each in stated]
    return [(turn, ids), *_observations(step, "tool" if made else "user")]


def _observations(step: Mapping[str, Any], role: Role) -> list[Named]:
    observation = step.get("observation") or {}
    if not isinstance(observation, dict):
        raise BadRow("malformed_message")
    results = objects(observation.get("results"), "malformed_message")
    return [
        (Message(role, text(each.get("content"))), [each.get("source_call_id")]) for each in results
    ]
