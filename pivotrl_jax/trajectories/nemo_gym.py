"""Readers of NeMo Gym rows: pivot rows (one expert turn after a history) and rollouts."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pivotrl_jax.trajectories.parsing import BadRow, prompt_task, text, trajectory
from pivotrl_jax.trajectories.responses import from_tools, read_call, to_messages
from pivotrl_jax.trajectories.schema import Message, Trajectory
from pivotrl_jax.trajectories.terminal import harness, without_thought

# What the messages and tools of the trajectory hold; everything else of a row is a fact.
DIALOGUE = frozenset({"responses_create_params", "expected_action", "expected_answer", "response"})
CALLS = ("function_call", "function_call_batch")
TASK_FIELDS = ("task_id", "instance_id", "task_name", "task")
PROFILED = "reward/mean"
PLACES = ("conversation_info", "metadata")


def nemo_gym_pivot(row: Mapping[str, Any], source: str) -> Trajectory:
    """A pivot row: its history and the expert's turn, which is the only candidate.

    The expert is `expected_action`, else `expected_answer`, else one of both in `metadata`. All
    other fields are facts of that turn: "harness" also where only `metadata` or the answer itself
    tells it, and "responses_create_params" what the request states beside dialogue and tools. The
    id is `source`, for published ids are not always those of rows. A line of upstream's profile,
    which holds the row as `sample`, is the row with the profile's fields. Raises BadRow, also when
    the history gives the expert's turn or its reasoning away.
    """
    row = sampled(row)
    request = _request(row)
    history, expert = _history(request), _expert(row)
    if history and history[-1].role == "assistant":
        _check_leak(history[-1], expert)
    messages = [*history, expert]
    facts = _facts(row, request, expert)
    stated = _stated(row, request, messages)
    # The row's own reward, if any, is that of a sampled answer, not of the expert.
    info = row.get("conversation_info")
    reward = info.get("reward") if isinstance(info, dict) else None
    named = {**stated, "reward": reward}
    return trajectory(named, source, messages, _domain(row, facts), pivots={len(history): facts})


def nemo_gym_rollout(row: Mapping[str, Any], source: str) -> Trajectory:
    """A rollout: `responses_create_params` and `response`, or `input`, `output` and `tools`.

    Facts: "harness". The id is `source`, for rollouts of one task share theirs. Raises BadRow.
    """
    request = _request(row) if "responses_create_params" in row else row
    response = row.get("response", row)
    if not isinstance(response, dict) or "output" not in response:
        raise BadRow("no_response")
    messages = [*_history(request), *_turns(response.get("output"))]
    stated = _stated(row, request, messages)
    named = {**stated, "reward": row.get("reward")}
    facts = {"harness": row["harness"]} if "harness" in row else {}
    return trajectory(named, source, messages, _domain(row, facts), facts=facts)


def nemo_gym(row: Mapping[str, Any], source: str) -> Trajectory:
    """A pivot row or a rollout, whichever it is. Raises BadRow."""
    return (nemo_gym_pivot if states_expert(sampled(row)) else nemo_gym_rollout)(row, source)


def sampled(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row in a line of upstream's profile, with what that says of it; another as it is."""
    sample = row.get("sample")
    if PROFILED not in row or not isinstance(sample, dict):
        return row
    return {**{name: value for name, value in row.items() if name != "sample"}, **sample}


def states_expert(row: Mapping[str, Any]) -> bool:
    """Whether a row holds what an expert did, in one of the places where it may stand."""
    return any(place.get(name) is not None for place, name in _gold_places(row))


def _request(row: Mapping[str, Any]) -> dict[str, Any]:
    request = row.get("responses_create_params")
    if not isinstance(request, dict):
        raise BadRow("no_responses_create_params")
    return request


def _history(request: Mapping[str, Any]) -> list[Message]:
    said = text(request.get("instructions"))
    instructions = [Message("system", said)] if said else []
    return instructions + _turns(request.get("input"))


def _turns(items: Any) -> list[Message]:
    """Messages of items; a thought that stands in the text is reasoning, as labels lack it."""
    return [without_thought(each) for each in to_messages(items)]


def _stated(
    row: Mapping[str, Any], request: Mapping[str, Any], messages: list[Message]
) -> dict[str, Any]:
    info = row.get("conversation_info")
    places = [row, *(row.get(name) for name in PLACES), request.get("metadata")]
    found = (
        place[name]
        for place in places
        if isinstance(place, dict)
        for name in TASK_FIELDS
        if isinstance(place.get(name), str | int)
    )
    domain = info.get("domain") if isinstance(info, dict) else None
    return {
        "task_id": next(found, None) or prompt_task(messages),
        "domain": row.get("domain") or domain,
        "tools": from_tools(request.get("tools") or row.get("declared_tools")),
    }


def _gold_places(row: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str]]:
    metadata = row.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    names = ("expected_action", "expected_answer")
    return [(place, name) for place in (row, metadata) for name in names]


def _expert(row: Mapping[str, Any]) -> Message:
    # An empty one stands for none.
    gold = next((p[name] for p, name in _gold_places(row) if p.get(name)), None)
    if gold is None:
        raise BadRow("no_expected_action")
    if isinstance(gold, str):
        gold = _answer(gold)
    if not isinstance(gold, dict):
        raise BadRow("malformed_expected_action")
    # The image-tools family states a call without saying that it is one.
    kind = gold.get("type", "function_call" if "name" in gold else None)
    if kind == "message":
        said = without_thought(Message("assistant", text(gold.get("content"))))
        return _with_provenance(said, row)
    stated = gold.get("calls") if kind == "function_call_batch" else [gold]
    if kind not in CALLS or not isinstance(stated, list) or not stated:
        raise BadRow("malformed_expected_action")
    if not all(isinstance(each, dict) for each in stated):
        raise BadRow("malformed_expected_action")
    made = tuple(read_call(each) for each in stated)
    return _with_provenance(Message("assistant", "", made), row)


def _answer(gold: str) -> dict[str, Any]:
    """A gold text: an action if it is the JSON of a call, else a message."""
    try:
        value = json.loads(gold)
    except (ValueError, RecursionError):
        value = None
    is_call = isinstance(value, dict) and value.get("type") in CALLS
    return value if is_call else {"type": "message", "content": gold}


def _with_provenance(expert: Message, row: Mapping[str, Any]) -> Message:
    """The expert's text beside a call, and its reasoning, where a converter kept them."""
    info = row.get("tool_use_info")
    info = info if isinstance(info, dict) else {}
    said, thought = info.get("pivot_content"), info.get("pivot_reasoning_content")
    return dataclasses.replace(
        expert,
        content=said if expert.calls and isinstance(said, str) else expert.content,
        reasoning=thought if isinstance(thought, str) else expert.reasoning,
    )


def _check_leak(last: Message, expert: Message) -> None:
    if last.calls == expert.calls and (expert.calls or last.content == expert.content):
        raise BadRow("expected_action_in_input")
    if last.reasoning is not None and not last.content and not last.calls:
        raise BadRow("pivot_reasoning_in_input")


def _facts(row: Mapping[str, Any], request: Mapping[str, Any], expert: Message) -> dict[str, Any]:
    facts = {name: value for name, value in row.items() if name not in DIALOGUE}
    metadata = row.get("metadata")
    in_metadata = metadata.get("harness") if isinstance(metadata, dict) else None
    kind = in_metadata or (None if expert.calls else harness(expert.content))
    if kind is not None:
        facts.setdefault("harness", kind)
    action = row.get("expected_action")
    if isinstance(action, dict) and "ordered" in action:
        facts["ordered"] = action["ordered"]
    if isinstance(action, dict) and "calls" in action and len(expert.calls) == 1:
        facts["batch_of_one"] = True
    spoken = ("input", "instructions", "tools")
    rest = {k: v for k, v in request.items() if k not in spoken and v is not None}
    return {**facts, "responses_create_params": rest} if rest else facts


def _domain(row: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The domain that a row's harness or agent tells, where the row does not state it."""
    agent = row.get("agent_ref")
    name = str(agent.get("name", "")) if isinstance(agent, dict) else ""
    if "harness" in facts:
        return "terminal"
    return "coding" if "swe" in name else "tool_use"
