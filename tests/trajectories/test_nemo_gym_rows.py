"""Pivot rows as they are written: upstream's rules, pass rates, reasoning in its place."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pivotrl_jax.trajectories import (
    EVERY_TURN,
    RowSettings,
    candidates,
    read,
    write_nemo_gym,
)
from pivotrl_jax.trajectories.nemo_gym import nemo_gym_pivot
from pivotrl_jax.trajectories.nemo_gym_rows import pivot_row, profile_fields
from pivotrl_jax.trajectories.nemo_gym_rules import validate

Rows = Callable[[str], list[dict[str, Any]]]
DATA = Path(__file__).parent / "data"
TOOL = {"type": "function", "name": "ls", "parameters": {}, "strict": True}
CALL = {"type": "function_call", "name": "ls", "arguments": '{"path": "a"}'}
ROW: dict[str, Any] = {
    "agent_ref": {"type": "responses_api_agents", "name": "agent"},
    "responses_create_params": {"input": [{"role": "user", "content": "Go."}], "tools": [TOOL]},
    "expected_action": CALL,
}
DONE = {"type": "message", "content": "Done."}


def with_input(*items: dict[str, Any]) -> dict[str, Any]:
    request = ROW["responses_create_params"]
    return {"responses_create_params": {**request, "input": [*request["input"], *items]}}


THOUGHT = {"type": "reasoning", "id": "r", "summary": [{"text": "So."}]}
HELLO = {"role": "assistant", "content": "Done."}


def test_upstreams_examples_pass_their_own_rules(carried: Rows) -> None:
    agent = {"agent_ref": ROW["agent_ref"]}
    for name in ("tool_pivot_parallel_examples", "terminal_multi_harness_examples"):
        for row in carried(f"nemo_gym_{name}"):
            assert validate({**agent, **row}, batches=True) == []
    batch = carried("nemo_gym_tool_pivot_parallel_examples")[0]
    assert "function_call_batch" in validate({**agent, **batch})[0]
    # The validator wants tools, which these examples leave out, and takes no nulls.
    assert "tools is not a list" in validate(carried("nemo_gym_swe_pivot_examples")[0])
    nulls = carried("nemo_gym_tool_pivot_examples")[0]
    assert "request key metadata is null" in validate({**agent, **nulls})


def changed(*path: Any, to: Any = None) -> dict[str, Any]:
    """ROW with one value set, or removed where `to` is None."""
    row: Any = copy.deepcopy(ROW)
    node = row
    for key in path[:-1]:
        node = node[key]
    if to is None:
        del node[path[-1]]
    else:
        node[path[-1]] = to
    return row


REQUEST = "responses_create_params"


@pytest.mark.parametrize(
    ("problem", "row"),
    [
        ("not an object", [ROW]),
        ("agent_ref.type", changed("agent_ref")),
        ("agent_ref.type", changed("agent_ref", "type", to="agent")),
        ("agent_ref.name", changed("agent_ref", "name", to="")),
        ("is not an object", changed(REQUEST)),
        ("unknown request key seed", changed(REQUEST, "seed", to=1)),
        ("tool_choice", changed(REQUEST, "tool_choice", to="required")),
        ("parallel_tool_calls", changed(REQUEST, "parallel_tool_calls", to="yes")),
        ("stream", changed(REQUEST, "stream", to=True)),
        ("tools is not a list", changed(REQUEST, "tools")),
        ("flat function schema", changed(REQUEST, "tools", to=[{"function": {"name": "ls"}}])),
        ("ls has no parameters", changed(REQUEST, "tools", 0, "parameters")),
        ("ls has no parameters", changed(REQUEST, "tools", 0, "parameters", to=[])),
        ("whether it is strict", changed(REQUEST, "tools", 0, "strict")),
        ("whether it is strict", changed(REQUEST, "tools", 0, "strict", to="yes")),
        ("input is not a list", changed(REQUEST, "input", to=[])),
        ("input is not a list", changed(REQUEST, "input", to="Go.")),
        ("unknown type", changed(REQUEST, "input", to=[{"type": "image"}])),
        ("lacks content", changed(REQUEST, "input", to=[{"role": "user"}])),
        ("answers no call", changed(
            REQUEST, "input", to=[{"type": "function_call_output", "call_id": "1", "output": ""}])),
        ("not one that is accepted", changed("expected_action", "type", to="image")),
        ("not one that is accepted", changed("expected_action", to=[1])),
        ("content is not text", changed("expected_action", to={"type": "message"})),
        ("not among the tools", changed("expected_action", "name", to="LS")),
        ("do not decode", changed("expected_action", "arguments", to="[]")),
        ("do not decode", changed("expected_action", "arguments", to="{")),
        ("do not decode", changed("expected_action", "arguments", to={"path": "a"})),
        ("at the end of input", {**ROW, **with_input({**CALL, "call_id": "1"})}),
        ("pivot's own", {**ROW, **with_input(THOUGHT)}),
        ("at the end of input",
         {**ROW, **with_input(HELLO), "expected_action": DONE}),
        ("neither", changed("expected_action")),
        ("metadata.harness", changed("expected_action") | {"expected_answer": "{}"}),
    ],
)  # fmt: skip
def test_rules(problem: str, row: Any) -> None:
    assert validate(ROW) == []
    assert any(problem in found for found in validate(row)), validate(row)


def test_profile_fields() -> None:
    assert profile_fields([]) == {}
    assert profile_fields([1.0, 0.5, 0.0, 1.0]) == {
        "pass_rate": 0.5,
        "pass_rate_total": 4,
        "pass_rate_passed": 2,
        "avg_reward": 0.625,
        "std_reward": pytest.approx(0.41457809879442),
        "min_reward": 0.0,
        "max_reward": 1.0,
        "total_samples": 4,
        "pass_threshold": 1.0,
    }
    assert profile_fields([0.5, 0.4], pass_threshold=0.5)["pass_rate_passed"] == 1


def write(name: str, path: Path, settings: RowSettings, **rewards: Any) -> tuple[int, Any]:
    folder = DATA if name.startswith("nemo") else DATA.parents[2] / "experiments/data/tool_use"
    trajectories, _ = read(folder / f"{name}.jsonl.gz")
    found = [(t, c) for t in trajectories for c in candidates(t, EVERY_TURN, "train")[0]]
    return write_nemo_gym(found, path, settings, rewards)


def test_singular_leaves_out_several_calls_and_batch_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    written, skipped = write("tau2_success", path, RowSettings())
    assert (written, skipped) == (894, {"several_calls": 75})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(validate(row) == [] for row in rows)
    written, skipped = write("tau2_success", path, RowSettings(calls="batch"))
    assert (written, skipped) == (969, {})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(validate(row, batches=True) == [] for row in rows)
    kinds = [row["expected_action"]["type"] for row in rows]
    assert kinds.count("function_call_batch") == 75


def test_pass_rates_by_candidate(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write("tau2_sft_v1_small", path, RowSettings(), **{"tau2-sft-test-5#1": [1.0, 0.0]})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {row["uuid"] for row in rows if "pass_rate" in row} == {"tau2-sft-test-5#1"}
    assert rows[0]["pass_rate"] == 0.5


def test_reasoning_is_placed_and_never_leaks(carried: Rows) -> None:
    found = nemo_gym_pivot(carried("nemo_gym_tool_pivot_examples")[3], "a:1")
    turns = [i for i, m in enumerate(found.messages) if m.role == "assistant" and m.reasoning]
    assert len(turns) > 3
    for turn in turns:
        row = pivot_row(found, turn)
        thought = found.messages[turn].reasoning
        assert row["tool_use_info"]["pivot_reasoning_content"] == thought
        asked = json.dumps([row["responses_create_params"], row["expected_action"]])
        assert json.dumps(thought) not in asked
        items = row["responses_create_params"]["input"]
        earlier = [m.reasoning for m in found.messages[:turn] if m.reasoning]
        stated = [i["summary"][0]["text"] for i in items if i["type"] == "reasoning"]
        assert stated == earlier
        assert items[-1]["type"] != "reasoning"


@pytest.mark.parametrize(
    "name",
    ["tool_pivot_examples", "tool_pivot_parallel_examples", "terminal_multi_harness_examples",
     "swe_pivot_examples", "terminus_judge_examples"],
)  # fmt: skip
def test_rows_that_were_read_are_written_as_they_were(name: str, carried: Rows) -> None:
    for row in carried(f"nemo_gym_{name}"):
        found = nemo_gym_pivot(row, "a:1")
        copy_ = pivot_row(found, len(found.messages) - 1)
        for field in set(row) - {"responses_create_params", "metadata"}:
            assert copy_[field] == row[field]
        assert row.get("metadata", {}).items() <= copy_.get("metadata", {}).items()
        assert nemo_gym_pivot(copy_, "a:1").messages == found.messages
