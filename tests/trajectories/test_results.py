"""Each tool result stays with the call that it answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivotrl_jax.trajectories import Message, ToolCall, read
from pivotrl_jax.trajectories.parsing import messages
from pivotrl_jax.trajectories.responses import to_items, to_messages
from pivotrl_jax.trajectories.results import answered_calls, in_call_order
from pivotrl_jax.trajectories.writers import _entries

Write = Callable[..., Path]
USER, DONE = Message("user", "Go."), Message("assistant", "Done.")


def turn(*names: str) -> Message:
    return Message("assistant", "", tuple(ToolCall(name, {}) for name in names))


def chat(*called: Any, answered: Any) -> dict[str, Any]:
    """A row whose one turn makes calls of these ids, and whose results have those."""
    calls = [{"id": name, "function": {"name": str(name), "arguments": "{}"}} for name in called]
    results = [{"role": "tool", "tool_call_id": x, "content": str(x)} for x in answered]
    asked = {"role": "assistant", "content": "", "tool_calls": calls}
    return {"messages": [{"role": "user", "content": "Go."}, asked, *results]}


@pytest.mark.parametrize(
    ("called", "answered", "results"),
    [
        ("AB", "AB", [("A", None), ("B", None)]),
        ("AB", "BA", [("A", None), ("B", None)]),
        ("ABC", "CAB", [("A", None), ("B", None), ("C", None)]),
        # The first call has no result.
        ("AB", "B", [("B", 1)]),
        ("ABC", "CA", [("A", None), ("C", 2)]),
        # An id that no call has.
        ("AB", "BXA", [("A", None), ("X", 2), ("B", None)]),
        ("AB", "XA", [("X", 1), ("A", 0)]),
        ("A", "AA", [("A", None), ("A", None)]),
        ("AA", "AA", [("A", None), ("A", None)]),
        ([None, None], [None, None], [("None", None), ("None", None)]),
        ([{}, []], [[], {}], [("{}", None), ("[]", None)]),
    ],
)
def test_results_stand_in_the_order_of_the_calls(
    called: Any, answered: Any, results: list[tuple[str, int | None]], write: Write
) -> None:
    (found,), _ = read(write(chat(*called, answered=answered)))
    assert [(m.content, m.answers) for m in found.messages[2:]] == results


def test_every_reader_looks_at_the_ids(write: Write) -> None:
    swapped = chat("A", "B", answered="BA")
    asked, *results = swapped["messages"][1:]
    flat = [{"id": each["id"], **each["function"]} for each in asked["tool_calls"]]
    several = {"role": "tool", "tool_messages": [{**r, "id": r["tool_call_id"]} for r in results]}
    steps = [
        {"source": "user", "message": "Go."},
        {
            "source": "agent",
            "tool_calls": [{"tool_call_id": x, "function_name": x} for x in "AB"],
            "observation": {"results": [{"source_call_id": x, "content": x} for x in "BA"]},
        },
    ]
    rows = {
        "openai_chat": swapped,
        "openhands": swapped,
        "mini_swe_agent": swapped,
        "swe_agent": swapped,
        "tau2": {"messages": [USER_ENTRY, {**asked, "tool_calls": flat}, several]},
        "atif": {"steps": steps},
        "nemo_gym_rollout": {
            "input": "Go.",
            "output": [
                *({"type": "function_call", "name": x, "call_id": x} for x in "AB"),
                *({"type": "function_call_output", "output": x, "call_id": x} for x in "BA"),
            ],
        },
    }
    for fmt, row in rows.items():
        (found,), _ = read(write(row), fmt)
        assert [m.content for m in found.messages[2:]] == ["A", "B"], fmt


USER_ENTRY = {"role": "user", "content": "Go."}


@st.composite
def dialogues(draw: st.DrawFn) -> list[Message]:
    """Turns of several calls, some of which have results, in any order and parted by users."""
    entries: list[tuple[Message, list[Any]]] = []
    for _ in range(draw(st.integers(1, 3))):
        called = draw(st.lists(st.sampled_from("ABC"), max_size=3))
        entries += [(USER, []), (turn(*called) if called else DONE, list(called))]
        for name in draw(st.lists(st.sampled_from("ABCX"), max_size=4)):
            entries.append((Message("tool", name), [name]))
            if draw(st.booleans()):
                entries.append((USER, []))
    return in_call_order(entries)


def answers(said: list[Message]) -> list[tuple[str, str]]:
    """Each call that has a result, with that."""
    names = answered_calls(said)
    return sorted((name, m.content) for m, name in zip(said, names, strict=True) if name)


@given(dialogues())
def test_writers_keep_the_call_of_each_result(said: list[Message]) -> None:
    for copy in (messages(_entries(tuple(said))), to_messages(to_items(said))):
        assert answers(copy) == answers(said)
        assert [m.calls for m in copy] == [m.calls for m in said]


@pytest.mark.parametrize("file", ["tau2_success", "apibank_dialogues"])
def test_carried_results_stood_in_order(file: str) -> None:
    data = Path(__file__).parents[2] / "experiments" / "data" / "tool_use"
    found, _ = read(data / f"{file}.jsonl.gz")
    assert {m.answers for each in found for m in each.messages} == {None}
