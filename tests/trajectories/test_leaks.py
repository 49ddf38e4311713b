"""What two parts share is found by content."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivotrl_jax.errors import UserError
from pivotrl_jax.trajectories import (
    Message,
    ToolCall,
    Trajectory,
    check_leaks,
    join_tasks,
    read,
    split,
)

DATA = Path(__file__).parents[2] / "experiments" / "data"
SYSTEM, GREETING = Message("system", "Be kind."), Message("assistant", "Hi!")
USER, LOOK = Message("user", "Fix it."), Message("assistant", "I look.")
CALL = Message("assistant", "", (ToolCall("ls", {}),))
SEEN, DONE = Message("user", "a"), Message("assistant", "Done.")


def story(*messages: Message, task: str = "t") -> Trajectory:
    return Trajectory(task, messages, task, "d", f"{task}.jsonl:1")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((USER, LOOK, SEEN, DONE), (USER, LOOK, SEEN, DONE)),
        # A row and a longer row that were cut from one trajectory.
        ((USER, LOOK), (USER, LOOK, SEEN, DONE)),
        ((USER, LOOK, SEEN, DONE), (USER, LOOK, SEEN, Message("assistant", "No."))),
        ((SYSTEM, GREETING, USER, LOOK), (SYSTEM, GREETING, USER, LOOK, SEEN, DONE)),
        ((USER, dataclasses.replace(LOOK, reasoning="So.")), (USER, LOOK)),
        ((USER, dataclasses.replace(LOOK, content="I look.\n")), (USER, LOOK)),
        # A label has the call only.
        ((USER, CALL), (USER, dataclasses.replace(CALL, content="I look."), SEEN, DONE)),
    ],
)
def test_leaks(one: tuple[Message, ...], other: tuple[Message, ...]) -> None:
    for train, heldout in ((one, other), (other, one)):
        with pytest.raises(UserError, match=r"tasks 'a' and 'b' must stay together") as found:
            check_leaks([story(*train, task="a")], [story(*heldout, task="b")])
        assert "a.jsonl:1 (trained on) and b.jsonl:1 (held out)" in str(found.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((USER, LOOK), (USER, DONE)),
        ((USER, CALL), (USER, dataclasses.replace(CALL, calls=(ToolCall("cd", {}),)))),
        ((USER, LOOK), (Message("user", "Fix this."), LOOK)),
        ((SYSTEM, GREETING, USER, LOOK), (SYSTEM, GREETING, SEEN, LOOK)),
        ((SYSTEM, USER, LOOK), (USER, LOOK)),
    ],
)
def test_a_shared_prompt_or_greeting_is_no_leak(
    one: tuple[Message, ...], other: tuple[Message, ...]
) -> None:
    check_leaks([story(*one, task="a")], [story(*other, task="b")])
    assert [t.task_id for t in join_tasks([story(*one, task="a"), story(*other, task="b")])] == [
        "a",
        "b",
    ]


def test_rows_split_by_row_leak_and_by_task_do_not() -> None:
    trajectories, _ = read(DATA / "terminal" / "openthoughts_terminus2_pivots.jsonl.gz")
    rows = [
        dataclasses.replace(each, messages=each.messages[: pivot + 1], pivots={pivot: {}})
        for each in trajectories
        for pivot in each.pivots or {}
    ]
    with pytest.raises(UserError, match="must stay together"):
        check_leaks(rows[::2], rows[1::2])
    part = split((row.task_id for row in rows), 0.3, seed=0)
    check_leaks(
        [row for row in rows if part[row.task_id] == "train"],
        [row for row in rows if part[row.task_id] == "heldout"],
    )


def test_tasks_are_joined_by_way_of_others() -> None:
    a = story(USER, LOOK, SEEN, DONE, task="a")
    b = story(USER, LOOK, task="b")
    c = story(USER, DONE, SEEN, LOOK, task="c")
    d = story(USER, DONE, task="b")
    e = story(SEEN, DONE, task="e")
    assert [each.task_id for each in join_tasks([c, e, b, d, a])] == ["a", "e", "a", "a", "a"]


TURNS = st.lists(st.sampled_from("ab"), min_size=1, max_size=4)


@given(st.lists(st.tuples(TURNS, st.sampled_from("pqrst")), min_size=2), st.integers(0, 9))
def test_joined_tasks_never_leak(stories: list[tuple[list[str], str]], seed: int) -> None:
    found = [
        story(Message("user", turns[0]), *(Message("assistant", t) for t in turns), task=task)
        for turns, task in stories
    ]
    joined = join_tasks(found)
    assert [dataclasses.replace(j, task_id="") for j in joined] == [
        dataclasses.replace(f, task_id="") for f in found
    ]
    before = {f.task_id: j.task_id for f, j in zip(found, joined, strict=True)}
    assert all(before[f.task_id] == j.task_id for f, j in zip(found, joined, strict=True))
    if len({j.task_id for j in joined}) < 2:
        return
    part = split((j.task_id for j in joined), 0.5, seed)
    check_leaks(
        [j for j in joined if part[j.task_id] == "train"],
        [j for j in joined if part[j.task_id] == "heldout"],
    )
