"""The trajectory formats by name, and how they are told apart row by row."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pivotrl_jax.trajectories.bfcl import bfcl
from pivotrl_jax.trajectories.coding import (
    OPENHANDS_TOOLS,
    RETURN_CODE,
    mini_swe_agent,
    openhands,
    swe_agent,
)
from pivotrl_jax.trajectories.dialogues import api_bank, tau2
from pivotrl_jax.trajectories.intercode import intercode_bash, intercode_sql
from pivotrl_jax.trajectories.nemo_gym import (
    nemo_gym,
    nemo_gym_pivot,
    nemo_gym_rollout,
    sampled,
    states_expert,
)
from pivotrl_jax.trajectories.parsing import BadRow, entries, messages, trajectory
from pivotrl_jax.trajectories.schema import Trajectory
from pivotrl_jax.trajectories.search import fireact, webdancer
from pivotrl_jax.trajectories.terminal import ATIF, atif, harness, terminus


def openai_chat(row: Mapping[str, Any], source: str) -> Trajectory:
    """OpenAI chat messages with optional `tools`, `reasoning_content` and tool-result `failed`.

    `source` is "file:line". Raises BadRow.
    """
    said = messages(entries(row, "messages", "conversations", "history"))
    return trajectory(row, source, said, "general")


FORMATS: Mapping[str, Callable[[Mapping[str, Any], str], Trajectory]] = MappingProxyType(
    {
        "openai_chat": openai_chat,
        "mini_swe_agent": mini_swe_agent,
        "swe_agent": swe_agent,
        "openhands": openhands,
        "tau2": tau2,
        "api_bank": api_bank,
        "bfcl": bfcl,
        "intercode_sql": intercode_sql,
        "intercode_bash": intercode_bash,
        "terminus": terminus,
        "atif": atif,
        "fireact": fireact,
        "webdancer": webdancer,
        "nemo_gym": nemo_gym,
        "nemo_gym_pivot": nemo_gym_pivot,
        "nemo_gym_rollout": nemo_gym_rollout,
    }
)


def detect(row: Mapping[str, Any]) -> str:
    """Name of the format of `row`, a key of FORMATS. Raises BadRow("unknown_format")."""
    if str(row.get("schema_version", "")).startswith(ATIF):
        return "atif"
    row = sampled(row)
    if "responses_create_params" in row:
        return "nemo_gym_pivot" if states_expert(row) else "nemo_gym_rollout"
    if "input" in row and "output" in row:
        return "nemo_gym_rollout"
    if "events" in row:
        return "api_bank"
    if "ground_truth" in row and ("functions" in row or "turns" in row):
        return "bfcl"
    if "actions" in row and "observations" in row:
        return "intercode_sql" if "db" in row else "intercode_bash"
    if "messages" in row or "conversations" in row:
        return _chat(row)
    if "history" in row:
        return "swe_agent"
    if "trajectory" in row:
        return "openhands"
    raise BadRow("unknown_format")


def _chat(row: Mapping[str, Any]) -> str:
    """The format of a row with `messages`, told by what its messages look like."""
    stated = entries(row, "messages", "conversations")
    if row.get("trajectory_format") == "openai_chat":
        return "openai_chat"
    if str(row.get("trajectory_format", "")).startswith("mini-swe-agent"):
        return "mini_swe_agent"
    if any("action" in entry and entry.get("role") == "assistant" for entry in stated):
        return "swe_agent"
    results = [entry for entry in stated if entry.get("role") in ("tool", "user")]
    if any(RETURN_CODE.match(_content(entry)) for entry in results):
        return "mini_swe_agent"
    if "context_key" in row or any(_requested(entry) for entry in stated):
        return "tau2"
    if any(name in OPENHANDS_TOOLS for entry in stated for name in _called(entry)):
        return "openhands"
    turns = [_content(entry) for entry in stated if entry.get("role") == "assistant"]
    first = turns[0] if turns else ""
    if "\nAction: " in f"\n{first}" and first.rstrip().endswith("]"):
        return "fireact"
    if first.startswith("<think>") and ("<tool_call>" in first or "<answer>" in first):
        return "webdancer"
    if any(harness(turn.rpartition("</think>")[2]) for turn in turns):
        return "terminus"
    return "openai_chat"


def _content(entry: Mapping[str, Any]) -> str:
    content = entry.get("content")
    return content if isinstance(content, str) else ""


def _calls(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    stated = entry.get("tool_calls")
    return [each for each in stated if isinstance(each, dict)] if isinstance(stated, list) else []


def _requested(entry: Mapping[str, Any]) -> bool:
    """Only tau2-bench says which side of the conversation asked for a tool."""
    return "requestor" in entry or any("requestor" in each for each in _calls(entry))


def _called(entry: Mapping[str, Any]) -> list[str]:
    functions = [each.get("function") for each in _calls(entry)]
    return [str(each.get("name")) for each in functions if isinstance(each, dict)]
