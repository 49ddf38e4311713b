"""Responses items to messages and back."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivotrl_jax.trajectories import Message, ToolCall
from pivotrl_jax.trajectories.parsing import BadRow
from pivotrl_jax.trajectories.responses import from_tools, to_items, to_messages, to_tools

Rows = Callable[[str], list[dict[str, Any]]]
CALL = {"type": "function_call", "name": "ls", "arguments": "{}", "call_id": "1"}
THOUGHT = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "So."}]}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi."}]}
RESULT = {"type": "function_call_output", "call_id": "1", "output": "a"}
LS = ToolCall("ls", {})


@pytest.mark.parametrize(
    ("items", "messages"),
    [
        ("Hi.", [Message("user", "Hi.")]),
        ([{"role": "developer", "content": "x"}], [Message("system", "x")]),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"text": "b"}]}],
            [Message("user", "ab")],
        ),
        ([THOUGHT, SAID, CALL, CALL], [Message("assistant", "Hi.", (LS, LS), "So.")]),
        ([SAID, SAID], [Message("assistant", "Hi."), Message("assistant", "Hi.")]),
        (
            [CALL, SAID],
            [Message("assistant", "", (LS,)), Message("assistant", "Hi.")],
        ),
        (
            [CALL, THOUGHT, CALL],
            [Message("assistant", "", (LS,)), Message("assistant", "", (LS,), "So.")],
        ),
        ([CALL, RESULT, CALL], [
            Message("assistant", "", (LS,)), Message("tool", "a"), Message("assistant", "", (LS,))
        ]),
        ([THOUGHT, THOUGHT, SAID], [Message("assistant", "Hi.", reasoning="So.\nSo.")]),
        (
            [{"type": "reasoning", "summary": [{"text": "<think>\nSo.\n</think>"}]}, SAID],
            [Message("assistant", "Hi.", reasoning="\nSo.\n")],
        ),
        (
            [{"type": "reasoning", "summary": [], "content": [{"text": "So."}]}, SAID],
            [Message("assistant", "Hi.", reasoning="So.")],
        ),
        ([{"role": "assistant", "content": "Hi."}], [Message("assistant", "Hi.")]),
    ],
)  # fmt: skip
def test_items_to_messages(items: Any, messages: list[Message]) -> None:
    assert to_messages(items) == messages


@pytest.mark.parametrize(
    ("reason", "items"),
    [
        ("empty_messages", None),
        ("malformed_message", ["Hi."]),
        ("unknown_item", [{"type": "web_search_call"}]),
        ("unknown_item", [{"role": "critic", "content": "No."}]),
        ("content_not_text", [{"role": "user", "content": [{"type": "input_image"}]}]),
        ("malformed_tool_calls", [{**CALL, "name": None}]),
    ],
)
def test_malformed_items(reason: str, items: Any) -> None:
    with pytest.raises(BadRow, match=reason):
        to_messages(items)


@pytest.mark.parametrize("arguments", ["{", "", '"{}"', "null", "[1]", "[" * 100_000, "NaN"])
def test_arguments_that_are_no_object_come_out_as_they_went_in(arguments: str) -> None:
    first = to_messages([{**CALL, "arguments": arguments}])
    assert to_messages(to_items(first)) == first or arguments == "NaN"
    (written,) = to_items(first)
    if arguments not in ("", '"{}"'):
        assert written["arguments"] == arguments


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
CALLS = st.lists(
    st.builds(ToolCall, st.text("abc", min_size=1), st.dictionaries(TEXT, JSON)), min_size=1
)


@st.composite
def dialogues(draw: st.DrawFn) -> tuple[Message, ...]:
    """Turns of an assistant, each followed by its results or by a user."""
    messages = [Message("system", draw(TEXT)), Message("user", draw(TEXT))]
    for _ in range(draw(st.integers(0, 4))):
        calls = tuple(draw(CALLS)) if draw(st.booleans()) else ()
        reasoning = draw(st.none() | st.text("abc ", min_size=1, max_size=4))
        messages.append(Message("assistant", draw(TEXT), calls, reasoning))
        messages += [Message("tool", draw(TEXT)) for _ in calls] or [Message("user", draw(TEXT))]
    return tuple(messages)


@given(dialogues())
def test_dialogues_come_back(messages: tuple[Message, ...]) -> None:
    items = json.loads(json.dumps(to_items(messages)))
    assert tuple(to_messages(items)) == messages


@given(dialogues())
def test_order_of_items_and_ids_of_results(messages: tuple[Message, ...]) -> None:
    order = ("reasoning", "message", "function_call", "function_call_output")
    items = to_items(messages)
    asked = [item["call_id"] for item in items if item["type"] == "function_call"]
    answered = [item["call_id"] for item in items if item["type"] == "function_call_output"]
    assert asked == answered
    for one, other in itertools.pairwise(items):
        if one["type"] in ("reasoning", "function_call") and other["type"] != "reasoning":
            assert order.index(other["type"]) >= order.index(one["type"])


def test_real_rows_come_back(carried: Rows) -> None:
    for row in carried("nemo_gym_tool_pivot_examples"):
        request = row["responses_create_params"]
        messages = to_messages(request["input"])
        kinds = [item["type"] for item in request["input"]]
        assert [item["type"] for item in to_items(messages)] == kinds
        assert to_messages(to_items(messages)) == messages
        assert to_tools(from_tools(request["tools"])) == request["tools"]


@pytest.mark.parametrize(
    "tool",
    [{"name": "ls"}, {"name": "ls", "parameters": {"type": "object"}}, {"name": "a", "strict": 1}],
)
def test_tools_say_what_responses_asks_for(tool: dict[str, Any]) -> None:
    none = {"type": "object", "properties": {}}
    for schema in (tool, {"type": "function", "function": tool}):
        (written,) = to_tools([schema])
        assert written == {
            "type": "function",
            "name": tool["name"],
            "parameters": tool.get("parameters", none),
            "strict": tool.get("strict", False),
        }


def test_a_result_without_a_call_is_a_users() -> None:
    assert to_items([Message("tool", "a")]) == [{"type": "message", "role": "user", "content": "a"}]
