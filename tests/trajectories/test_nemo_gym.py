"""NeMo Gym rows: upstream's own examples, every place of the gold, the writer and its rules."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pivotrl_jax.trajectories import (
    EVERY_TURN,
    Message,
    RowSettings,
    ToolCall,
    candidates,
    read,
    write_nemo_gym,
)
from pivotrl_jax.trajectories.formats import detect
from pivotrl_jax.trajectories.nemo_gym import nemo_gym_pivot, nemo_gym_rollout
from pivotrl_jax.trajectories.nemo_gym_rows import pivot_row, profile_fields
from pivotrl_jax.trajectories.nemo_gym_rules import validate
from pivotrl_jax.trajectories.parsing import BadRow

Rows = Callable[[str], list[dict[str, Any]]]
DATA = Path(__file__).parent / "data"
TOOL = {"type": "function", "name": "ls", "parameters": {}, "strict": True}
CALL = {"type": "function_call", "name": "ls", "arguments": '{"path": "a"}'}
ROW: dict[str, Any] = {
    "agent_ref": {"type": "responses_api_agents", "name": "agent"},
    "responses_create_params": {"input": [{"role": "user", "content": "Go."}], "tools": [TOOL]},
    "expected_action": CALL,
}
LS = ToolCall("ls", {"path": "a"})
DONE = {"type": "message", "content": "Done."}


def test_tool_pivots(carried: Rows) -> None:
    rows = carried("nemo_gym_tool_pivot_examples")
    assert {detect(row) for row in rows} == {"nemo_gym_pivot"}
    found = nemo_gym_pivot(rows[2], "a:1")
    (last,) = found.pivots or {}
    assert last == len(found.messages) - 1
    assert found.messages[last].calls[0].name == "transfer_to_human_agents"
    assert [m.role for m in found.messages[:3]] == ["system", "user", "assistant"]
    assert sum(m.reasoning is not None for m in found.messages) == 4
    assert len(found.tools) == 14
    request = found.before(last).facts["responses_create_params"]
    assert request == {"parallel_tool_calls": False, "tool_choice": "auto"}


@pytest.mark.parametrize(
    ("stated", "expert"),
    [
        ({"expected_action": DONE}, Message("assistant", "Done.")),
        ({"expected_action": CALL}, Message("assistant", "", (LS,))),
        (
            {"expected_action": {**CALL, "arguments": {"path": "a"}}},
            Message("assistant", "", (LS,)),
        ),
        (
            {"expected_action": {"type": "function_call_batch", "calls": [CALL, CALL]}},
            Message("assistant", "", (LS, LS)),
        ),
        (
            {"expected_action": {"name": "zoom", "arguments": {"box": [1, 2]}}},
            Message("assistant", "", (ToolCall("zoom", {"box": [1, 2]}),)),
        ),
        ({"expected_answer": '{"commands": []}'}, Message("assistant", '{"commands": []}')),
        ({"expected_answer": json.dumps(CALL)}, Message("assistant", "", (LS,))),
        ({"metadata": {"expected_answer": "Done."}}, Message("assistant", "Done.")),
        ({"metadata": {"expected_action": CALL}}, Message("assistant", "", (LS,))),
        (
            {"expected_action": CALL,
             "tool_use_info": {"pivot_content": "I look.", "pivot_reasoning_content": "So."}},
            Message("assistant", "I look.", (LS,), "So."),
        ),
        (
            {"expected_action": {**CALL, "arguments": "{broken"}},
            Message("assistant", "", (ToolCall("ls", "{broken"),)),
        ),
    ],
)  # fmt: skip
def test_places_and_kinds_of_the_gold(stated: dict[str, Any], expert: Message) -> None:
    row = {"responses_create_params": ROW["responses_create_params"], **stated}
    assert detect(row) == "nemo_gym_pivot"
    found = nemo_gym_pivot(row, "a:1")
    assert found.messages == (Message("user", "Go."), expert)


def test_facts_are_everything_beside_the_dialogue() -> None:
    facts = {
        "uuid": "u", "pass_rate": 0.25, "pass_rate_total": 16, "pass_rate_passed": 4,
        "threshold": 0.9, "qwen_235b_info": {"reward_mean": 0.3}, "pivot_tags": ["P1"],
        "metadata": {"harness": "terminus_2", "task": "task_7"}, "trajectory_id": 3,
    }  # fmt: skip
    found = nemo_gym_pivot({**ROW, **facts}, "a:1")
    stated = found.before(1).facts
    assert {name: stated[name] for name in facts} == facts
    assert stated["harness"] == "terminus_2"
    assert (found.task_id, found.domain, found.reward) == ("task_7", "terminal", None)
    assert found.before(0).facts == {}


def test_terminus_answers_tell_their_harness(carried: Rows) -> None:
    found = [nemo_gym_pivot(r, "a:1") for r in carried("nemo_gym_terminus_judge_examples")]
    assert {t.before(len(t.messages) - 1).facts["harness"] for t in found} == {"terminus_1"}
    assert {t.domain for t in found} == {"terminal"}


def test_declared_tools_and_order_of_other_harnesses(carried: Rows) -> None:
    rows = carried("nemo_gym_terminal_multi_harness_examples")
    found = [nemo_gym_pivot(row, "a:1") for row in rows]
    batch = next(t for t in found if len(t.messages[-1].calls) > 1)
    facts = batch.before(len(batch.messages) - 1).facts
    assert (facts["ordered"], facts["harness"]) == (True, "codex")
    assert [tool["function"]["name"] for tool in batch.tools] == [
        tool.get("name") or tool["function"]["name"] for tool in facts["declared_tools"]
    ]


def test_instructions_are_a_system_message() -> None:
    request = {**ROW["responses_create_params"], "instructions": "Be brief.", "input": "Go."}
    found = nemo_gym_pivot({**ROW, "responses_create_params": request}, "a:1")
    assert found.messages[:2] == (Message("system", "Be brief."), Message("user", "Go."))


def with_input(*items: dict[str, Any]) -> dict[str, Any]:
    request = ROW["responses_create_params"]
    return {"responses_create_params": {**request, "input": [*request["input"], *items]}}


THOUGHT = {"type": "reasoning", "id": "r", "summary": [{"text": "So."}]}
HELLO = {"role": "assistant", "content": "Done."}


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("no_responses_create_params", {"responses_create_params": "Go."}),
        ("no_expected_action", {"expected_action": None}),
        ("malformed_expected_action", {"expected_action": 5}),
        ("malformed_expected_action", {"expected_action": {"type": "image"}}),
        ("malformed_expected_action", {"expected_action": {"type": "function_call_batch"}}),
        ("malformed_expected_action",
         {"expected_action": {"type": "function_call_batch", "calls": [3]}}),
        ("malformed_tool_calls", {"expected_action": {**CALL, "name": 7}}),
        ("pivot_reasoning_in_input", with_input(THOUGHT)),
        ("expected_action_in_input", with_input({**CALL, "call_id": "1"})),
        ("expected_action_in_input",
         {**with_input(HELLO), "expected_action": DONE}),
        ("malformed_tools", {"responses_create_params": {"input": "Go.", "tools": [5]}}),
        ("empty_messages", {"responses_create_params": {"input": None}}),
    ],
)  # fmt: skip
def test_malformed_pivot_rows(reason: str, change: dict[str, Any]) -> None:
    with pytest.raises(BadRow, match=reason):
        nemo_gym_pivot({**ROW, **change}, "a:1")


def test_rollouts(carried: Rows) -> None:
    tau2, swe = carried("nemo_gym_rollouts")
    assert {detect(tau2), detect(swe)} == {"nemo_gym_rollout"}
    found = nemo_gym_rollout(tau2, "a:1")
    assert (found.reward, found.pivots) == (1.0, None)
    kept, skipped = candidates(found, EVERY_TURN, "train")
    assert (len(kept), skipped) == (5, {"greeting": 1})
    names = [call.name for m in found.messages for call in m.calls]
    assert names[:2] == ["find_user_id_by_name_zip", "get_user_details"]
    assert nemo_gym_rollout(swe, "a:2").task_id == swe["task_id"]
    with pytest.raises(BadRow, match="no_response"):
        nemo_gym_rollout({"responses_create_params": {"input": "Go."}}, "a:1")


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
