"""Readers of customer-service and assistant dialogues: tau2-bench, API-Bank."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pivotrl_jax.trajectories.parsing import BadRow, call, entries, objects, text, trajectory
from pivotrl_jax.trajectories.results import Named, in_call_order
from pivotrl_jax.trajectories.schema import Message, Role, Trajectory

SPEAKERS: Mapping[str, Role] = MappingProxyType({"User": "user", "AI": "assistant"})


def tau2(row: Mapping[str, Any], source: str) -> Trajectory:
    """A tau2-bench simulation as the agent saw it.

    What the simulated user does with tools of its own (`requestor` "user") is dropped. A row may
    state `system_prompt`, `tools`, and a solo run's `ticket`. Facts: "expected_actions", the
    benchmark's reference calls. Raises BadRow.
    """
    seen = (pair for entry in entries(row, "messages") for pair in _seen_by_agent(entry))
    messages = in_call_order(seen)
    if prompt := _prompt(row):
        messages.insert(0, Message("system", prompt))
    environment, task = row.get("environment", "tau2"), row.get("task_id")
    named = f"{environment}/{task}" if task is not None else None
    stated = row.get("expected_actions")
    facts = {} if stated is None else {"expected_actions": stated}
    return trajectory(row, source, messages, "tool_use", facts=facts, task=named)


def simulations(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs in a tau2-bench result file, each with its environment, policy and reward.

    Raises BadRow.
    """
    runs = entries(document, "simulations")
    info = document.get("info")
    environment = info.get("environment_info") if isinstance(info, dict) else None
    if not isinstance(environment, dict):
        raise BadRow("no_environment_info")
    policy = environment.get("policy")
    shared = {
        "environment": environment.get("domain_name"),
        "system_prompt": f"<policy>\n{policy}\n</policy>" if policy else "",
        "tools": environment.get("tool_defs") or [],
    }
    return [{**shared, **run, "reward": _reward(run)} for run in runs]


def api_bank(row: Mapping[str, Any], source: str) -> Trajectory:
    """An API-Bank dialogue: `events` of a User, the AI, and the calls that the AI makes (API).

    Text of the AI directly before a call is of the same turn. An API that raised is `failed`.
    Raises BadRow.
    """
    messages: list[Message] = []
    for event in entries(row, "events"):
        role = SPEAKERS.get(str(event.get("role")))
        if role is not None:
            messages.append(Message(role, text(event.get("text"))))
        elif event.get("role") == "API":
            messages += _api_call(messages, event)
        else:
            raise BadRow("unknown_role")
    return trajectory(row, source, messages, "tool_use")


def _seen_by_agent(entry: Mapping[str, Any]) -> list[Named]:
    """Messages of an entry, with the ids of their calls or of the call they answer."""
    role, failed = entry.get("role"), bool(entry.get("error"))
    if role == "tool" and "tool_messages" in entry:
        return [each for part in entries(entry, "tool_messages") for each in _seen_by_agent(part)]
    if entry.get("requestor") == "user" or (role == "user" and _silent(entry)):
        return []
    if role == "tool":
        return [(Message("tool", text(entry.get("content")), failed=failed), [entry.get("id")])]
    if role not in ("user", "assistant", "system"):
        raise BadRow("unknown_role")
    made = objects(entry.get("tool_calls") or [], "malformed_tool_calls")
    calls = tuple(call(each.get("name"), each.get("arguments")) for each in made)
    ids = [each.get("id") for each in made]
    return [(Message(role, text(entry.get("content")), calls if role == "assistant" else ()), ids)]


def _silent(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("tool_calls")) and not text(entry.get("content")).strip()


def _prompt(row: Mapping[str, Any]) -> str:
    prompt, ticket = text(row.get("system_prompt")), text(row.get("ticket"))
    return f"{prompt}\n<ticket>\n{ticket}\n</ticket>" if ticket else prompt


def _reward(run: Mapping[str, Any]) -> Any:
    info = run.get("reward_info")
    return info.get("reward") if isinstance(info, dict) else None


def _api_call(before: list[Message], event: Mapping[str, Any]) -> list[Message]:
    """The turn that calls the API, with the AI's text taken off the end of `before`; its result."""
    said = ""
    if before and before[-1].role == "assistant" and not before[-1].calls:
        said = before.pop().content
    made = call(event.get("api_name"), event.get("param_dict"))
    result = event.get("result")
    if not isinstance(result, dict):
        raise BadRow("malformed_result")
    error = result.get("exception")
    answer = str(error) if error else json.dumps(result.get("output"), ensure_ascii=False)
    return [
        Message("assistant", said, (made,)),
        Message("tool", answer, failed=bool(error)),
    ]
