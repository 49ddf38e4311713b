"""Pivot rows and Responses outputs in this package's own terms."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.text.actions import ParsedAction
from pivotrl_jax.trajectories.schema import Action, Message, ToolCall
from pivotrl_jax.verifiers.rows import context, expert_action, sampled_action

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
def test_expert_action(row: Any, expected: Action) -> None:
    assert expert_action(row) == expected


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"expected_action": {"name": "f", "arguments": "{}"}},
        {"expected_action": {"type": "message"}},
        {"expected_action": {**BATCH, "calls": []}},
        {"expected_action": call("{")},
        {"expected_action": call("[]")},
        {"expected_action": call({}, name="")},
        {"expected_action": call('{"a": NaN}')},
        {"expected_answer": {"commands": []}},
    ],
)
def test_a_row_without_a_readable_gold_is_an_error(row: Any) -> None:
    with pytest.raises(UserError):
        expert_action(row)


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
    assert sampled_action(items) == ParsedAction(expected)


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


def test_context() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    items = [
        {"role": "system", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "greet"}]},
        say("Hello."),
        call({"a": 1}),
        call({}, "g"),
        {"type": "function_call_output", "call_id": "c", "output": "1"},
        {"type": "function_call_output", "call_id": "d", "output": "2"},
        call({}, "g"),
        say("Done."),
        {"role": "developer", "content": "Go on."},
    ]
    row = {
        "responses_create_params": {"input": items, "tools": [tool]},
        "threshold": 0.9,
        "metadata": {"harness": "terminus_2"},
        "uuid": "u",
    }
    given = context(row)
    assert given.history == (
        Message("system", "Be brief."),
        Message("user", "hi"),
        Message("assistant", "Hello.", calls=(F, G), reasoning="greet"),
        Message("tool", "1"),
        Message("tool", "2"),
        Message("assistant", "", calls=(G,)),
        Message("assistant", "Done."),
        Message("system", "Go on."),
    )
    function = {"name": "f", "parameters": {"type": "object"}, "strict": True}
    assert given.tools == ({"type": "function", "function": function},)
    assert given.facts == {"threshold": 0.9, "metadata": {"harness": "terminus_2"}}


def test_declared_tools_and_a_prompt_in_one_text() -> None:
    wrapped = {"type": "function", "function": {"name": "f"}}
    row = {"responses_create_params": {"input": "hi", "tools": []}, "declared_tools": [wrapped]}
    assert context(row).history == (Message("user", "hi"),)
    assert context(row).tools == (wrapped,)


@pytest.mark.parametrize(
    "params", [{"input": 5}, {"input": [5]}, {"input": [{"role": "robot"}]}, {"tools": [{}]}, [1]]
)
def test_an_unreadable_model_call_is_an_error(params: Any) -> None:
    with pytest.raises(UserError):
        context({"responses_create_params": params})


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["id"])
def test_recorded_rollouts_are_readable(record: dict[str, Any]) -> None:
    assert expert_action(record["row"]) != Action()
    assert context(record["row"]).history == ()
    sampled = sampled_action(record["output"])
    assert sampled.problems == ()
    assert sampled.action != Action()
