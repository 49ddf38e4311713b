"""Readers of web-search agents: FireAct (ReAct lines) and WebDancer (tags)."""

import dataclasses
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pivotrl_jax.trajectories.parsing import (
    BadRow,
    call,
    entries,
    function,
    message,
    objects,
    tools,
    trajectory,
)
from pivotrl_jax.trajectories.schema import Message, Trajectory

ARGUMENTS: Mapping[str, str] = MappingProxyType({"search": "query", "finish": "answer"})
OBSERVATION = "Observation: "


def _one_string(name: str, description: str, argument: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {argument: {"type": "string"}}}
    return function(name, description, {**schema, "required": [argument]})


REACT_TOOLS = (
    _one_string("search", "Search the web; the answer is a short text", "query"),
    _one_string("finish", "Give the final answer", "answer"),
)


def fireact(row: Mapping[str, Any], source: str) -> Trajectory:
    """FireAct ReAct turns: `Thought: ...` is the text, `Action: search[...]` or finish a call.

    Observations are tool results. Facts: "question", "final_answer". Raises BadRow.
    """
    messages = [_react(message(entry)) for entry in entries(row, "messages")]
    facts = {name: row[name] for name in ("question", "final_answer") if name in row}
    return trajectory(row, source, messages, "web", REACT_TOOLS, facts)


def webdancer(row: Mapping[str, Any], source: str) -> Trajectory:
    """WebDancer turns: `<think>` is reasoning, `<tool_call>` a call, the rest text.

    `<answer>` tags stay in the text, for the prompt asks for them. `<tool_response>` messages are
    tool results. Facts: "question", "answer". Raises BadRow.
    """
    messages = [_tagged(message(entry)) for entry in entries(row, "messages")]
    own_tools = tools([_schema(each) for each in objects(row.get("functions"), "malformed_tools")])
    facts = {name: row[name] for name in ("question", "answer") if name in row}
    return trajectory(row, source, messages, "web", own_tools, facts)


def _react(turn: Message) -> Message:
    if turn.role == "user" and turn.content.startswith(OBSERVATION):
        return Message("tool", turn.content.removeprefix(OBSERVATION))
    if turn.role != "assistant" or turn.calls:
        return turn
    thought, _, action = f"\n{turn.content.rstrip()}".partition("\nAction: ")
    name, _, argument = action.partition("[")
    if name not in ARGUMENTS or not argument.endswith("]"):
        raise BadRow("no_react_action")
    made = call(name, {ARGUMENTS[name]: argument.removesuffix("]")})
    said = thought.strip("\n").removeprefix("Thought: ")
    return dataclasses.replace(turn, content=said, calls=(made,))


def _tagged(turn: Message) -> Message:
    if turn.role == "user" and turn.content.lstrip().startswith("<tool_response>"):
        body = turn.content.strip().removeprefix("<tool_response>")
        return Message("tool", body.removesuffix("</tool_response>").strip("\n"))
    if turn.role != "assistant" or turn.calls:
        return turn
    thought, closed, rest = turn.content.partition("</think>")
    reasoning = thought.strip().removeprefix("<think>").strip() if closed else turn.reasoning
    said, *bodies = (rest if closed else turn.content).split("<tool_call>")
    made = tuple(_tagged_call(body) for body in bodies)
    return Message("assistant", said.strip(), made, reasoning)


def _tagged_call(body: str) -> Any:
    try:
        stated = json.loads(body.partition("</tool_call>")[0])
        return call(stated["name"], stated.get("arguments"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadRow("malformed_tool_calls") from None


def _schema(stated: Mapping[str, Any]) -> dict[str, Any]:
    return function(
        stated.get("name_for_model", ""),
        stated.get("description_for_model", ""),
        stated.get("parameters", {}),
    )
