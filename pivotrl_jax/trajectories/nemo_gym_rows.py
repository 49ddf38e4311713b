"""Writer of NeMo Gym pivot rows: one for each chosen turn of a trajectory."""

import dataclasses
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pivotrl_jax.trajectories import files
from pivotrl_jax.trajectories.nemo_gym_rules import TERMINUS, validate
from pivotrl_jax.trajectories.responses import call_item, to_items, to_tools
from pivotrl_jax.trajectories.schema import Candidate, Message, Trajectory

# Set anew for each row, so that facts of an earlier file never stand in for them.
OWN = frozenset({"ordered", "batch_of_one", "responses_create_params", "metadata", "harness"})


@dataclasses.dataclass(frozen=True)
class RowSettings:
    """`agent` must be the agent's name in NeMo Gym's config; a row that names one keeps it.

    `calls` "singular" leaves out turns with several calls, as upstream's data-set guide asks;
    "batch" writes them as `function_call_batch`. A reward of `pass_threshold` or more is a pass.
    """

    agent: str = "single_step_tool_use_agent"
    calls: Literal["singular", "batch"] = "singular"
    pass_threshold: float = 1.0


def write_nemo_gym(
    candidates: Iterable[tuple[Trajectory, Candidate]],
    path: Path,
    settings: RowSettings = RowSettings(),
    rewards: Mapping[str, Sequence[float]] | None = None,
) -> tuple[int, Counter[str]]:
    """Writes a row for each candidate; returns their number and, by reason, what was left out.

    `rewards` are those of the profile by candidate id; they fill in `pass_rate` and its kin.
    Every row that is written passes `validate`; a row that does not is left out under its first
    problem.
    """
    skipped: Counter[str] = Counter()
    written = 0
    with files.writing(path) as out:
        for trajectory, candidate in candidates:
            row = pivot_row(trajectory, candidate.message, settings)
            row |= profile_fields((rewards or {}).get(candidate.id, ()), settings.pass_threshold)
            problems = row_problems(row, settings)
            if problems:
                skipped[problems[0]] += 1
                continue
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            written += 1
    return written, skipped


def row_problems(row: Mapping[str, Any], settings: RowSettings) -> list[str]:
    """Why a row must not be written under `settings`; empty if it may."""
    batch = (row.get("expected_action") or {}).get("type") == "function_call_batch"
    if batch and settings.calls == "singular":
        return ["several_calls"]
    return validate(row, batches=settings.calls == "batch")


def pivot_row(
    trajectory: Trajectory, message: int, settings: RowSettings = RowSettings()
) -> dict[str, Any]:
    """The row whose expected action is `messages[message]`.

    Earlier turns keep their reasoning as items; the pivot's own is neither in the input nor in the
    label, but in `tool_use_info` as provenance. Facts become fields, as they were read.
    """
    context = trajectory.before(message)
    expert = trajectory.messages[message]
    request = {
        **_object(context.facts.get("responses_create_params")),
        "input": to_items(context.history),
        "tools": to_tools(context.tools),
    }
    turn = sum(each.role == "assistant" for each in context.history)
    stated = {name: value for name, value in context.facts.items() if name not in OWN}
    return {
        "uuid": f"{trajectory.id}#{turn}",
        "agent_ref": {"type": "responses_api_agents", "name": settings.agent},
        "trajectory_id": trajectory.id,
        "conversation_info": _conversation(trajectory, message, turn),
        **_provenance(expert),
        **stated,
        "responses_create_params": request,
        **_gold(expert, context.facts, settings),
    }


def profile_fields(rewards: Sequence[float], pass_threshold: float = 1.0) -> dict[str, Any]:
    """Upstream's fields of a profiled row; none if there are no rewards.

    `std_reward` is that of the population, as everywhere in this project.
    """
    if not rewards:
        return {}
    passed = sum(reward >= pass_threshold for reward in rewards)
    return {
        "pass_rate": passed / len(rewards),
        "pass_rate_total": len(rewards),
        "pass_rate_passed": passed,
        "avg_reward": statistics.fmean(rewards),
        "std_reward": statistics.pstdev(rewards),
        "min_reward": min(rewards),
        "max_reward": max(rewards),
        "total_samples": len(rewards),
        "pass_threshold": pass_threshold,
    }


def _conversation(trajectory: Trajectory, message: int, turn: int) -> dict[str, Any]:
    turns = sum(each.role == "assistant" for each in trajectory.messages)
    info = {
        "task_id": trajectory.task_id,
        "domain": trajectory.domain,
        "reward": trajectory.reward,
        "pivot_assistant_index": turn,
        "pivot_message_index": message,
        "trajectory_num_messages": len(trajectory.messages),
        "trajectory_num_assistant_actions": turns,
        "pivot_has_reasoning": trajectory.messages[message].reasoning is not None,
    }
    return {name: value for name, value in info.items() if value is not None}


def _provenance(expert: Message) -> dict[str, Any]:
    """What the label cannot hold: the pivot's reasoning, and text beside a call."""
    info: dict[str, Any] = {}
    if expert.calls and expert.content:
        info["pivot_content"] = expert.content
    if expert.reasoning is not None:
        info["pivot_reasoning_content"] = expert.reasoning
    return {"tool_use_info": info} if info else {}


def _gold(expert: Message, facts: Mapping[str, Any], settings: RowSettings) -> dict[str, Any]:
    """The expected action, or the expected answer of a Terminus turn; harness and metadata."""
    harness, metadata = facts.get("harness"), facts.get("metadata")
    kept = {} if metadata is None else {"metadata": metadata}
    if harness in TERMINUS and not expert.calls:
        return {
            "expected_answer": expert.content,
            "metadata": {**_object(metadata), "harness": harness},
        }
    named = {} if harness is None else {"harness": harness}
    return {**named, **kept, "expected_action": _action(expert, facts, settings)}


def _action(expert: Message, facts: Mapping[str, Any], settings: RowSettings) -> dict[str, Any]:
    if not expert.calls:
        return {"type": "message", "content": expert.content}
    calls = [call_item(call.name, call.arguments) for call in expert.calls]
    stays_batch = settings.calls == "batch" and facts.get("batch_of_one") is True
    if len(calls) == 1 and not stays_batch:
        return calls[0]
    ordered = {"ordered": facts["ordered"]} if "ordered" in facts else {}
    return {"type": "function_call_batch", **ordered, "calls": calls}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
