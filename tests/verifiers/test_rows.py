"""Pivot rows and Responses outputs in this package's own terms."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.trajectories.schema import Action, Message, ToolCall
from pivotrl_jax.verifiers.rows import expert_turn, sampled_action

DATA = Path(__file__).parent / "compatible" / "data" / "nemo_gym_rollouts.jsonl.gz"
RECORDS = [json.loads(line) for line in gzip.decompress(DATA.read_bytes()).splitlines()]


def call(arguments: Any, name: Any = "f") -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"type": "function_call", "name": name, "arguments": text, "call_id": "c"}


def say(*texts: Any) -> dict[str, Any]:
    parts = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    return {"type": "message", "role": "assistant", "content": parts}


FG = F, G = ToolCall("f", {"a": 1}), ToolCall("g", {})
BATCH = {"type": "function_call_batch"}
ANSWER = '{"analysis": "", "plan": "", "commands": []}'


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"expected_action": {"type": "message", "content": "hi"}}, Action("hi")),
        ({"expected_action": call({"a": 1})}, Action("", (F,))),
        ({"expected_action": {**call({}), "arguments": {"a": 1}}}, Action("", (F,))),
        ({"expected_action": {**BATCH, "calls": [call({"a": 1}), call({}, "g")]}}, Action("", FG)),
        ({"expected_answer": ANSWER, "metadata": {"harness": "terminus_2"}}, Action(ANSWER)),
        ({"expected_answer": json.dumps(call({"a": 1}))}, Action("", (F,))),
        ({"expected_answer": "", "metadata": {"expected_answer": "ls"}}, Action("ls")),
        ({"metadata": {"expected_action": call({"a": 1})}}, Action("", (F,))),
    ],
)  # fmt: skip
def test_the_gold_action(row: Any, expected: Action) -> None:
    assert expert_turn(row)[0] == expected


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"expected_action": {**BATCH, "calls": []}},
        {"expected_action": call({}, name="")},
        {"expected_answer": {"commands": []}},
    ],
)
def test_a_row_without_a_readable_gold_is_an_error(row: Any) -> None:
    with pytest.raises(UserError, match="no pivot row"):
        expert_turn(row)


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([say("a", "b"), say("c")], Action("ab\nc")),
        ([{"type": "message", "role": "assistant", "content": "hi"}], Action("hi")),
        ([{"type": "reasoning", "summary": []}, call({"a": 1})], Action("", (F,))),
        ([say("now"), call({"a": 1}), call("{}", "g")], Action("now", (F, G))),
        ([call(' {"a": 1}\n')], Action("", (F,))),
        ([say("<think>hm</think>\n\nyes")], Action("yes")),
        ([], Action()),
    ],
)
def test_well_formed_outputs(items: Any, expected: Action) -> None:
    parsed = sampled_action(items)
    assert (parsed.action, parsed.problems) == (expected, ())


@pytest.mark.parametrize(
    ("items", "problems"),
    [
        ([call("{")], ("bad_json", "arguments_not_an_object")),
        ([call("")], ("bad_json", "arguments_not_an_object")),
        ([call('{"a": 1} x')], ("bad_json", "arguments_not_an_object")),
        ([call("null")], ("arguments_not_an_object",)),
        ([call('{"a": 1, "a": 1}')], ("duplicate_keys",)),
        ([call('{"a": Infinity}')], ("non_finite_number",)),
        ([call("[" * 100_000)], ("bad_json", "arguments_not_an_object")),
        ([call('{"a":' + "[" * 80 + "]" * 80 + "}")], ("too_deep", "arguments_not_an_object")),
        ([{**call({}), "arguments": {"a": 1}}], ("not_text",)),
        ([call({}, name=None)], ("missing_name",)),
        ([call({}, name="")], ("missing_name",)),
        ([say(5)], ("not_text",)),
        ([{**say(), "content": None}], ("not_text",)),
        ([{**say(), "content": [{"type": "refusal", "refusal": "no"}]}], ("not_text",)),
        ([{**say("x"), "role": "user"}], ("unknown_item",)),
        ([{"type": "function_call_output", "output": "x"}], ("unknown_item",)),
        (["f"], ("not_an_object",)),
        (call({}), ("not_a_list",)),
        (None, ("not_a_list",)),
        ([say("<think>and then")], ("unclosed_think",)),
        ([call("[]"), call({}), "f"], ("arguments_not_an_object", "not_an_object")),
    ],
)  # fmt: skip
def test_problems_are_named(items: Any, problems: tuple[str, ...]) -> None:
    assert sampled_action(items).problems == problems


def test_the_good_calls_of_a_broken_output_stay() -> None:
    assert sampled_action([call("{"), call({"a": 1})]).action.calls == (ToolCall("f", "{"), F)


def test_what_the_gold_action_answers() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    request = {"input": [{"role": "user", "content": "hi"}], "tools": [tool]}
    row = {"responses_create_params": request, "expected_action": call({"a": 1}), "threshold": 0.9}
    context = expert_turn(row)[1]
    assert context.history == (Message("user", "hi"),)
    assert [each["function"]["name"] for each in context.tools] == ["f"]
    assert context.facts["threshold"] == 0.9


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["id"])
def test_recorded_rollouts_are_readable(record: dict[str, Any]) -> None:
    assert expert_turn(record["row"])[0] != Action()
    sampled = sampled_action(record["output"])
    assert sampled.problems == ()
    assert sampled.action != Action()
