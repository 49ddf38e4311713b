"""Rows cut from a trajectory fold back into it, in whatever order they come."""

import dataclasses
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivotrl_jax.trajectories import (
    EVERY_TURN,
    Message,
    ToolCall,
    Trajectory,
    candidates,
    fold,
    read,
)
from pivotrl_jax.trajectories.fold import Sharing

DATA = Path(__file__).parents[2] / "experiments" / "data"
CARRIED = (
    "swe/sweagent_demonstrations",
    "tool_use/tau2_success",
    "tool_use/apibank_dialogues",
    "search/webdancer_sample_traj",
    "terminal/openthoughts_terminus2_trajectories",
)


def cut(trajectory: Trajectory, name: str | None = None) -> list[Trajectory]:
    """A row per assistant turn, as a published file has them: without its own reasoning."""
    rows = []
    for index, message in enumerate(trajectory.messages):
        if message.role == "assistant" and index > 0:
            expert = dataclasses.replace(message, reasoning=None)
            facts = {"trajectory_id": name or trajectory.id, "turn": index}
            rows.append(
                dataclasses.replace(
                    trajectory,
                    id=f"{trajectory.id}:{index}",
                    messages=(*trajectory.messages[:index], expert),
                    pivots={index: facts},
                )
            )
    return rows


def ending_with_a_turn(trajectory: Trajectory) -> Trajectory:
    """What rows can tell of a trajectory: nothing after its last turn."""
    last = max(i for i, m in enumerate(trajectory.messages) if m.role == "assistant")
    expert = dataclasses.replace(trajectory.messages[last], reasoning=None)
    messages = (*trajectory.messages[:last], expert)
    pivots = {
        i: {"trajectory_id": trajectory.id, "turn": i}
        for i, m in enumerate(messages)
        if m.role == "assistant" and i > 0
    }
    return dataclasses.replace(trajectory, messages=messages, pivots=pivots)


@pytest.mark.parametrize("name", CARRIED)
def test_real_trajectories_come_back(name: str) -> None:
    whole = read(DATA / f"{name}.jsonl.gz")[0][:60]
    rows = [row for each in whole for row in cut(each)]
    random.Random(name).shuffle(rows)
    folded, sharing = fold(rows)
    expected = {each.id: ending_with_a_turn(each) for each in whole}
    assert sharing.trajectories == len(whole)
    assert sharing.rows == len(rows)
    assert sharing.row_messages == sum(len(row.messages) for row in rows)
    assert sharing.kept_messages == sum(len(each.messages) for each in expected.values())
    # Also where two demonstrations share their first turns.
    assert {each.id: each for each in folded} == expected
    assert sharing.repeated == 0


def test_published_rows_fold_into_the_trajectories_they_were_cut_from() -> None:
    folded, audit = read(DATA / "terminal" / "openthoughts_terminus2_pivots.jsonl.gz")
    whole, _ = read(DATA / "terminal" / "openthoughts_terminus2_trajectories.jsonl.gz")
    assert audit.sharing == Sharing(225, 43, 0, 1880, 458)
    by_task = {each.task_id: each for each in folded}
    assert len(by_task) == 43
    for each in whole:
        other = by_task[each.task_id]
        assert [m.content.strip() for m in other.messages] == [
            m.content.strip() for m in each.messages
        ]
        own = candidates(each, EVERY_TURN, "train")[0]
        assert set(other.pivots or {}) == {candidate.message for candidate in own}
        turns = [facts["metadata"]["turn_index"] for facts in (other.pivots or {}).values()]
        assert turns == sorted(turns)


USER, ANSWER = Message("user", "Go."), Message("assistant", "Done.")
LOOK_AT = Message("assistant", "", (ToolCall("ls", {"path": "a"}),))
LOOK = Message("assistant", "", (ToolCall("ls", {}),))
THINK = Message("assistant", "", LOOK.calls, reasoning="So.")
SEEN = Message("tool", "a")
of = dataclasses.replace


def row(*messages: Message, name: str = "r", **facts: Any) -> Trajectory:
    pivots = {len(messages) - 1: facts}
    return Trajectory(name, messages, "task", "d", "a:1", pivots=pivots)


def test_each_turn_keeps_its_own_facts() -> None:
    rows = [row(USER, LOOK, name="1", rate=0.5), row(USER, LOOK, SEEN, ANSWER, name="2", rate=1)]
    (found,), sharing = fold(rows)
    assert found.messages == (USER, LOOK, SEEN, ANSWER)
    assert [found.before(i).facts for i in (1, 3)] == [{"rate": 0.5}, {"rate": 1}]
    assert sharing == Sharing(2, 1, 0, 6, 4)


@pytest.mark.parametrize(
    "history",
    [
        dataclasses.replace(LOOK, content="I look."),
        dataclasses.replace(LOOK, reasoning="So."),
        dataclasses.replace(LOOK, content="\n"),
    ],
)
def test_the_history_says_more_of_a_turn_than_its_row(history: Message) -> None:
    (found,), _ = fold([row(USER, LOOK), row(USER, history, SEEN, ANSWER)])
    assert found.messages == (USER, history, SEEN, ANSWER)
    assert set(found.pivots or {}) == {1, 3}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (row(USER, LOOK), row(Message("user", "go."), LOOK, SEEN, ANSWER)),
        (row(USER, LOOK), row(USER, LOOK_AT, SEEN, ANSWER)),
        (row(USER, dataclasses.replace(LOOK, content="x")), row(USER, LOOK, SEEN, ANSWER)),
        (row(USER, LOOK, SEEN, ANSWER), row(USER, THINK, SEEN, ANSWER)),
        (row(USER, LOOK), of(row(USER, LOOK, SEEN, ANSWER), tools=({"name": "ls"},))),
        (row(USER, LOOK), of(row(USER, LOOK, SEEN, ANSWER), task_id="other")),
        (row(USER, ANSWER), row(USER, LOOK)),
        (row(USER, LOOK, SEEN, ANSWER), row(USER, LOOK, of(SEEN, answers=1), ANSWER)),
        (row(USER, LOOK, trajectory_id=1), row(USER, LOOK, trajectory_id=2)),
        (row(USER, LOOK, trajectory_id=1), row(USER, LOOK, SEEN, ANSWER)),
        (
            row(USER, LOOK, metadata={"source_trajectory_uid": "a"}),
            row(USER, LOOK, SEEN, ANSWER, metadata={"source_trajectory_uid": "b"}),
        ),
    ],
)  # fmt: skip
def test_other_histories_stay_apart(one: Trajectory, other: Trajectory) -> None:
    folded, sharing = fold([one, other])
    assert [of(each, id="r") for each in folded] == [one, other]
    assert sharing.repeated == 0


def test_repeated_rows_are_counted() -> None:
    folded, sharing = fold([row(USER, LOOK, name="1"), row(USER, LOOK, name="2")])
    assert [each.id for each in folded] == ["1"]
    assert sharing.repeated == 1


def test_whole_trajectories_pass_in_their_place() -> None:
    whole = Trajectory("w", (USER, LOOK, SEEN, ANSWER), "task", "d", "a:1")
    rows = [row(USER, LOOK, name="1"), row(USER, LOOK, SEEN, ANSWER, name="2")]
    folded, sharing = fold([rows[1], whole, rows[0]])
    assert [each.id for each in folded] == ["2", "w"]
    assert folded[1] == whole
    assert sharing.rows == 2


def test_names_that_two_trajectories_claim_are_not_used() -> None:
    rows = [
        row(USER, LOOK, name="1", trajectory_id=7),
        row(USER, ANSWER, name="2", trajectory_id=7),
    ]
    assert [each.id for each in fold(rows)[0]] == ["1", "2"]
    assert [each.id for each in fold(rows[:1])[0]] == ["7"]


TURNS = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy")), min_size=1, max_size=5)


@given(
    st.lists(TURNS, min_size=1, max_size=5, unique_by=str),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_no_row_is_lost_and_nothing_is_stored_twice(
    stories: list[list[tuple[str, str]]], rng: random.Random, named: bool
) -> None:
    def own(row: Trajectory) -> Any:
        """The trajectory that a row states, if it states one."""
        (name,) = {facts.get("trajectory_id") for facts in (row.pivots or {}).values()}
        return name

    whole = [
        Trajectory(
            str(number),
            (USER, *(m for a, u in story for m in (Message("assistant", a), Message("user", u)))),
            "task", "d", "a:1",
        )
        for number, story in enumerate(stories)
    ]  # fmt: skip
    rows = [each for one in whole for each in cut(one)]
    if not named:
        rows = [of(row, pivots={len(row.messages) - 1: {}}) for row in rows]
    rng.shuffle(rows)
    folded, sharing = fold(rows)
    distinct = {(own(each), each.messages) for each in rows}
    found = [(own(each), each.messages[: i + 1]) for each in folded for i in each.pivots or {}]
    assert len(found) == len(set(found))
    assert set(found) == distinct
    assert sharing.repeated == len(rows) - len(distinct)
    assert sharing.repeated == 0 or not named
    # A trajectory is the beginning of no other one.
    for one in folded if not named else []:
        assert not any(
            one.messages == other.messages[: len(one.messages)]
            for other in folded
            if other is not one
        )


def test_work_is_linear_in_the_text_of_the_rows() -> None:
    def calls(rows: list[Trajectory]) -> int:
        count = 0

        def counted(frame: Any, event: str, argument: Any) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(counted)
        try:
            fold(rows)
        finally:
            sys.setprofile(None)
        return count

    def stories(count: int) -> list[Trajectory]:
        return [
            row(Message("user", f"{n // 10}"), *[LOOK, SEEN] * (n % 10), ANSWER)
            for n in range(count)
        ]

    calls(stories(10))  # What is compiled or cached at first use.
    assert calls(stories(2_000)) < 11 * calls(stories(200))
