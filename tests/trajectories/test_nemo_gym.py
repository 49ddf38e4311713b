"""NeMo Gym rows: upstream's own examples, every place of the gold, the writer and its rules."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.trajectories import (
    EVERY_TURN,
    Message,
    ToolCall,
    candidates,
    check_leaks,
    fold,
)
from pivotrl_jax.trajectories.formats import detect
from pivotrl_jax.trajectories.nemo_gym import nemo_gym_pivot, nemo_gym_rollout
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


def test_the_action_comes_before_the_answer() -> None:
    found = nemo_gym_pivot({**ROW, "expected_answer": "Done.", "metadata": {}}, "a:1")
    assert found.messages[1].calls == (LS,)


def test_the_reward_is_that_of_the_trajectory_not_of_a_sampled_answer() -> None:
    assert nemo_gym_pivot({**ROW, "reward": 0.0}, "a:1").reward is None
    sampled = {**ROW, "reward": 0.0, "conversation_info": {"reward": 1.0, "task_id": "t"}}
    found = nemo_gym_pivot(sampled, "a:1")
    assert (found.reward, found.task_id, found.before(1).facts["reward"]) == (1.0, "t", 0.0)


def test_terminus_answers_tell_their_harness(carried: Rows) -> None:
    found = [nemo_gym_pivot(r, "a:1") for r in carried("nemo_gym_terminus_judge_examples")]
    assert {t.before(len(t.messages) - 1).facts["harness"] for t in found} == {"terminus_1"}
    assert {t.domain for t in found} == {"terminal"}


@pytest.mark.parametrize("said", ["<think>\nSo.\n</think>\n\nDone.", "So.</think>Done.", "Done."])
def test_a_thought_in_the_text_is_reasoning(said: str) -> None:
    history = [
        {"role": "user", "content": "<think>No.</think>Go."},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "On."},
    ]
    request = {"responses_create_params": {"input": history, "tools": []}}
    label = {"expected_action": {"type": "message", "content": said}}
    found = nemo_gym_pivot({**ROW, **request, **label}, "a:1").messages
    thought = None if said == "Done." else "So."
    assert found[0].content == "<think>No.</think>Go."
    assert found[1] == found[3] == Message("assistant", "Done.", reasoning=thought)
    assert nemo_gym_rollout({"input": "Go.", "output": history[1:]}, "a:1").messages[1] == found[1]


def test_rows_whose_histories_keep_thoughts_fold_and_are_seen(carried: Rows) -> None:
    row = carried("nemo_gym_terminus_judge_examples")[0]
    answer = row["expected_answer"]
    # With the task only, so that no other turn is alike.
    request = {"input": row["responses_create_params"]["input"][:1]}
    first = {**row, "responses_create_params": request}
    said = {"role": "assistant", "content": f"<think>So.</think>{answer}"}
    asked = [*request["input"], said, {"role": "user", "content": "a"}]
    longer = {**first, "responses_create_params": {**request, "input": asked}}
    rows = [nemo_gym_pivot(row, f"a:{i}") for i, row in enumerate((first, longer))]
    (found,), sharing = fold(rows)
    assert (sharing.repeated, len(found.pivots or {})) == (0, 2)
    assert [m.content for m in found.messages if m.role == "assistant"] == [answer, answer]
    with pytest.raises(UserError, match="begin with the same turns"):
        check_leaks(rows[:1], rows[1:])


def test_lines_of_a_profile(carried: Rows) -> None:
    for sample in carried("nemo_gym_tool_pivot_examples")[:5]:
        told = {"reward/mean": 0.25, "reward/std": 0.4, "num_rollouts": 4, "uuid": "of the line"}
        line = {**told, "sample": sample}
        assert detect(line) == "nemo_gym_pivot"
        found, plain = nemo_gym_pivot(line, "a:1"), nemo_gym_pivot(sample, "a:1")
        assert (found.messages, found.tools) == (plain.messages, plain.tools)
        last = len(found.messages) - 1
        own = plain.before(last).facts
        assert found.before(last).facts == {**told, **own}
        assert "sample" not in found.before(last).facts
        # Fields of the same names elsewhere are facts like any other.
        assert nemo_gym_pivot({**sample, "sample": sample}, "a:1").messages == plain.messages
    for line in ({"reward/mean": 1.0, "sample": 3}, {"reward/mean": 1.0}):
        with pytest.raises(BadRow):
            detect(line)


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
