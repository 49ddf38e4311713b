"""Typed tool calls and messages, on tables of cases and on BFCL's and tau2-bench's own data."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from pivotrl_jax.text.actions import HermesTags, ParsedAction
from pivotrl_jax.trajectories.schema import NO_CONTEXT, Action, Context, Message, ToolCall
from pivotrl_jax.verifiers import TypedCalls, verifier
from pivotrl_jax.verifiers.recipes import SAME_CALL

DATA = Path(__file__).parent / "data"
VERIFY = TypedCalls()
FLIGHTS = {
    "type": "function",
    "function": {
        "name": "search",
        "parameters": {
            "type": "object",
            "properties": {
                "origin": {"type": "string"},
                "seats": {"type": "integer"},
                "cabin": {"type": "string", "enum": ["economy", "business"], "default": "economy"},
                "via": {"type": "array", "items": {"type": "string"}},
                "amenities": {"type": "array", "uniqueItems": True},
                "summary": {"type": "string"},
            },
            "required": ["origin"],
        },
    },
}
CONTEXT = Context(tools=(FLIGHTS,))


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def search(**arguments: Any) -> ToolCall:
    return ToolCall("search", arguments)


def action(*calls: ToolCall) -> Action:
    return Action("", calls)


def judge(expert: Action, sampled: Action, context: Context = CONTEXT, **config: Any):
    verdict = TypedCalls(**config)(expert, ParsedAction(sampled), context)
    assert verdict.error is None
    assert tuple(verdict.criteria) == VERIFY.criteria
    assert all(0 <= score <= 1 for score in verdict.criteria.values())
    return verdict.criteria


def accepted(criteria: Any) -> bool:
    return all(criteria[name] >= threshold for name, threshold in SAME_CALL.accept)


SAME = [
    ({"origin": "JFK"}, {"origin": "JFK"}),
    ({"origin": "JFK"}, {"origin": " JFK "}),
    ({"origin": "JFK", "seats": 2}, {"seats": 2.0, "origin": "JFK"}),
    ({"origin": "JFK"}, {"origin": "JFK", "cabin": "economy"}),
    ({"origin": "J", "amenities": ["wifi", "bar"]}, {"origin": "J", "amenities": ["bar", "wifi"]}),
    ({"origin": "JFK", "summary": "The user wants a cheap flight from New York"},
     {"origin": "JFK", "summary": "User wants a cheap flight out of New York."}),
]  # fmt: skip
OTHER = [
    ({"origin": "JFK"}, {"origin": "LGA"}, "values"),
    ({"origin": "JFK"}, {"origin": "jfk"}, "values"),
    ({"origin": "JFK"}, {}, "required"),
    ({"origin": "JFK"}, {"origin": "JFK", "cabin": "business"}, "values"),
    ({"origin": "JFK"}, {"origin": "JFK", "cabin": "first"}, "schema"),
    ({"origin": "JFK"}, {"origin": "JFK", "currency": "USD"}, "arguments"),
    ({"origin": "JFK", "seats": 1}, {"origin": "JFK", "seats": True}, "values"),
    ({"origin": "JFK", "seats": 1}, {"origin": "JFK", "seats": "1"}, "schema"),
    ({"origin": "JFK", "seats": 1}, {"origin": "JFK", "seats": None}, "schema"),
    ({"origin": "JFK", "via": ["A", "B"]}, {"origin": "JFK", "via": ["B", "A"]}, "values"),
    ({"origin": "JFK", "amenities": ["a"]}, {"origin": "JFK", "amenities": ["a", "a"]}, "schema"),
    ({"origin": "JFK", "summary": "wants a cheap flight"},
     {"origin": "JFK", "summary": "rm -rf everything"}, "similarity"),
    ({"origin": "JFK", "summary": "wants a cheap flight"}, {"origin": "JFK"}, "similarity"),
]  # fmt: skip


@pytest.mark.parametrize(("expert", "sampled"), SAME)
def test_equivalent_arguments_are_accepted(expert: dict, sampled: dict) -> None:
    assert accepted(judge(action(search(**expert)), action(search(**sampled))))


@pytest.mark.parametrize(("expert", "sampled", "criterion"), OTHER)
def test_other_arguments_fail_the_criterion(expert: dict, sampled: dict, criterion: str) -> None:
    found = judge(action(search(**expert)), action(search(**sampled)))
    assert found[criterion] < 1
    assert found["exact"] == 0
    assert not accepted(found)


A, B, C = search(origin="A"), search(origin="B"), ToolCall("other", {"x": 1})


@pytest.mark.parametrize(
    ("expert", "sampled", "passes", "name"),
    [
        ([A, B], [A, B], True, 1),
        ([A, B], [B, A], True, 1),
        ([A, B], [A], False, 2 / 3),
        ([A], [A, B], False, 2 / 3),
        ([A], [B, A], False, 2 / 3),
        ([A], [A, A], False, 2 / 3),
        ([A, A], [A, B], False, 1),
        ([A, C], [C, A], True, 1),
        ([A, B], [A, C], False, 0.5),
        ([A], [C], False, 0),
    ],
)
def test_several_calls(expert: list, sampled: list, passes: bool, name: float) -> None:
    found = judge(action(*expert), action(*sampled))
    assert accepted(found) == passes
    assert found["name"] == pytest.approx(name)


def test_order_counts_if_told() -> None:
    assert accepted(judge(action(A, B), action(A, B), ordered=True))
    assert not accepted(judge(action(A, B), action(B, A), ordered=True))


def test_scores_of_unpaired_calls_are_zero() -> None:
    found = judge(action(A, B), action(A))
    assert {found[name] for name in ("schema", "required", "arguments", "values")} == {0.5}


def test_what_the_experts_call_breaks_is_not_held_against_the_sample() -> None:
    expert = action(search(seats="two"))
    assert accepted(judge(expert, expert))


@pytest.mark.parametrize(
    ("arguments", "passes"),
    [
        ({"origin": "Los Angeles", "seats": 2}, True),
        ({"origin": "LA"}, True),
        ({"origin": "LAX"}, False),
        ({"origin": "LA", "seats": 3}, False),
        ({"seats": 2}, False),
        ({"origin": "", "seats": 2}, False),
    ],
)
def test_accepted_values_of_the_record_count_as_the_experts(arguments: dict, passes: bool) -> None:
    expert = action(search(origin="Los Angeles", seats=2))
    facts = {"accepted": [{"origin": ["Los Angeles", "LA"], "seats": [2, ""]}]}
    found = judge(expert, action(search(**arguments)), Context(tools=(FLIGHTS,), facts=facts))
    assert accepted(found) == passes


def test_the_mark_of_what_may_be_left_out_is_no_value() -> None:
    context = Context(facts={"accepted": [{"unit": ["km", ""]}]})
    expert = action(ToolCall("f", {"unit": "km"}))
    assert judge(expert, action(ToolCall("f", {})), context)["exact"] == 1
    assert judge(expert, action(ToolCall("f", {"unit": ""})), context)["exact"] == 0


def bfcl(row: dict, choose) -> Action:
    calls = []
    for truth in row["ground_truth"]:
        ((name, arguments),) = truth.items()
        chosen = {key: choose(values) for key, values in arguments.items()}
        calls.append(ToolCall(name, {key: value for key, value in chosen.items() if value != ""}))
    return Action("", tuple(calls))


@pytest.mark.parametrize("row", rows("bfcl.jsonl"), ids=lambda row: row["id"])
def test_bfcl_ground_truths(row: dict) -> None:
    tools = tuple({"type": "function", "function": each} for each in row["functions"])
    truths = [next(iter(truth.values())) for truth in row["ground_truth"]]
    context = Context(tools=tools, facts={"accepted": truths})
    expert = bfcl(row, lambda values: values[0])
    assert set(judge(expert, expert, context).values()) == {1.0}
    reversed_calls = Action("", tuple(reversed(expert.calls)))
    assert accepted(judge(expert, reversed_calls, context))
    last = bfcl(row, lambda values: next(filter(None, reversed(values)), values[-1]))
    assert judge(expert, last, context)["values"] == 1
    rng = random.Random(0)
    name, arguments = expert.calls[0].name, dict(expert.calls[0].arguments)
    argument = rng.choice(sorted(arguments))
    arguments[argument] = "no such value"
    changed = Action("", (ToolCall(name, arguments), *expert.calls[1:]))
    assert not accepted(judge(expert, changed, context))


@pytest.mark.parametrize("row", rows("tau2.jsonl"), ids=lambda row: row["id"])
def test_the_closing_message_is_no_answer_to_the_first(row: dict) -> None:
    found = judge(Action(row["expert"]), Action(row["later"]), NO_CONTEXT)
    assert not accepted(found)


def test_most_answers_of_another_agent_to_the_same_dialogue_pass() -> None:
    pairs = [(Action(row["expert"]), Action(row["peer"])) for row in rows("tau2.jsonl")]
    assert sum(accepted(judge(*pair, NO_CONTEXT)) for pair in pairs) >= 0.6 * len(pairs)


CONFIRM = "Your order #W100 was cancelled and $35.50 go back to gift_card_77 within 5 days."


@pytest.mark.parametrize(
    ("sampled", "criterion"),
    [
        ("", "kind"),
        (" \n", "kind"),
        ("ok", "similarity"),
        ("Your order #W2 was cancelled and $99.00 go back to gift_card_11 within 9 days.", "facts"),
        ("Your order was cancelled and the money goes back within a few days.", "facts"),
        ("Shall I cancel order #W100 and send $35.50 to gift_card_77 within 5 days?", "question"),
    ],
)  # fmt: skip
def test_messages_must_say_the_same(sampled: str, criterion: str) -> None:
    found = judge(Action(CONFIRM), Action(sampled))
    assert found[criterion] < 0.5
    assert criterion == "question" or not accepted(found)


def test_facts_that_the_dialogue_knows_are_no_invention() -> None:
    sampled = Action(CONFIRM + " You wrote at 9:45 from zone 88, 12, 13, 14, 15 and 16.")
    history = (Message("user", "At 9:45, zones 12 13 14 15 16 and 88, #W100 for $35.50"),)
    assert judge(Action(CONFIRM), sampled)["facts"] < 0.8
    assert judge(Action(CONFIRM), sampled, Context(history))["facts"] == 1
    wrong = Action(CONFIRM.replace("35.50", "36"))
    assert judge(Action(CONFIRM), wrong, Context((Message("user", "36"),)))["facts"] < 1


@pytest.mark.parametrize(
    ("expert", "sampled"),
    [(action(A), Action("I will search.")), (Action("Which city?"), action(A))],
)
def test_a_call_is_no_message(expert: Action, sampled: Action) -> None:
    found = judge(expert, sampled)
    assert {name for name, score in found.items() if score} == {"well_formed"}


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "search", "arguments": {"seats": 1, "seats": 1}}\n</tool_call>',
        '<tool_call>\n{"name": "search", "arguments": "{origin: A}"}\n</tool_call>',
        '<tool_call>\n{"name": "search", "arguments": null}\n</tool_call>',
        '<tool_call>\n{"name": "search", "arguments": []}\n</tool_call>',
        '<tool_call>\n{"name": "search", "arguments": {"origin": "A"}}',
        '<tool_call>\n{"name": "search", "arguments": {"origin": "A", "seats": NaN}}\n</tool_call>',
    ],
)
def test_malformed_calls_score_nothing(text: str) -> None:
    verdict = VERIFY(action(A), HermesTags().parse(text), CONTEXT)
    assert verdict.error is None
    assert set(verdict.criteria.values()) == {0.0}


def test_arguments_that_are_no_object_are_wrong_even_if_nobody_reported_it() -> None:
    sampled = ParsedAction(action(ToolCall("search", None)))
    assert set(VERIFY(action(A), sampled, CONTEXT).criteria.values()) == {0.0}


@pytest.mark.parametrize("expert", [Action(), Action(" \n"), action(ToolCall("search", None))])
def test_an_expert_that_cannot_be_judged_is_an_error(expert: Action) -> None:
    assert VERIFY(expert, ParsedAction(action(A)), CONTEXT).error


def test_more_calls_than_any_expert_makes_are_malformed() -> None:
    assert judge(action(A), action(*[A] * 65))["well_formed"] == 0


def test_the_default_is_found_by_name() -> None:
    assert verifier("tool_call") == VERIFY


@pytest.mark.parametrize("tag", ["<tool_call>{}</tool_call>", "</tool_call>", "<|python_tag|>"])
def test_text_with_an_unread_call_is_malformed(tag: str) -> None:
    said = Action("hi there friend")
    found = judge(said, Action(f"hi there friend {tag}"))
    assert set(found.values()) == {0.0}
    quoted = Action(f"write {tag}, my friend")
    assert set(judge(quoted, quoted).values()) == {1.0}
    beside = Action(f"hi {tag}", (search(origin="JFK"),))
    assert judge(action(search(origin="JFK")), beside)["well_formed"] == 0


def test_a_row_that_says_so_is_compared_in_order() -> None:
    expert, turned = [action(search(origin=a), search(origin=b)) for a, b in ("AB", "BA")]
    ordered = Context(tools=(FLIGHTS,), facts={"ordered": True})
    assert judge(expert, turned)["exact"] == 1
    assert judge(expert, turned, ordered)["exact"] == 0
    assert judge(expert, expert, ordered)["exact"] == 1
