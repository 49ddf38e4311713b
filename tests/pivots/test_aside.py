"""Verdicts in a thread: the same, in order, and made while others are sampled."""

import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pivotrl_jax.pivots import (
    Grading,
    Judging,
    Rollouts,
    Turn,
    joined,
    judge,
    judged_aside,
    verdict_thread,
)
from pivotrl_jax.sampling import Sample
from pivotrl_jax.text import ParsedAction
from pivotrl_jax.trajectories import Action
from pivotrl_jax.verifiers import Verdict
from pivotrl_jax.verifiers.recipe import Recipe


class Digits:
    """Tokens are digits, and an action is what its digits say."""

    ends = ()
    name = "digits"

    def decode(self, ids: list[int]) -> str:
        return "".join(map(str, ids))

    def parse(self, text: str) -> ParsedAction:
        return ParsedAction(Action(text), ("zero",) if text == "0" else ())


@dataclasses.dataclass
class Equal:
    """Same text; notes on whose samples it was asked in `asked`."""

    asked: list[str]
    about: threading.Event
    name = "equal"
    criteria = ("equal",)

    def __call__(self, expert: Action, sampled: ParsedAction, context: Any = None) -> Verdict:
        if sampled.action.text == "9":
            raise ZeroDivisionError("nine")
        self.asked.append(expert.text)
        self.about.set()
        return Verdict({"equal": float(expert.text == sampled.action.text)}, "compared")


@pytest.fixture
def verifier() -> Equal:
    return Equal([], threading.Event())


@pytest.fixture
def judging(verifier: Equal) -> Judging:
    recipe = Recipe("equal", accept=(("equal", 1.0),))
    return Judging(Digits(), {"swe": Grading(Digits(), verifier, recipe, "exclude")})


def part(*experts: int) -> Rollouts:
    """Of each expert, the samples 0, 1 and 2, the last of them cut."""
    turns = [Turn(str(e), "t", "swe", e, 0, 1, 2, Action(str(e))) for e in experts]
    none = np.zeros(1)
    group = [Sample(np.array([k]), none, none, truncated=k == 2) for k in range(3)]
    return Rollouts(turns, [group] * len(turns))


PARTS = [part(1, 0), part(2), part(1), part(0)]


@pytest.mark.parametrize("ahead", [0, 1, 9])
def test_parts_are_judged_as_alone_and_in_order(judging: Judging, ahead: int) -> None:
    with verdict_thread() as thread:
        found = list(judged_aside(iter(PARTS), judging, thread, ahead))
    assert [own for own, _ in found] == PARTS
    for own, judged in found:
        expected = judge(own, judging)
        for field in dataclasses.fields(expected):
            np.testing.assert_array_equal(
                getattr(judged, field.name), getattr(expected, field.name)
            )
    np.testing.assert_array_equal(found[0][1].rewards_PK, [[0, 1, 0], [1, 0, 0]])


def test_a_part_is_verified_while_the_next_is_sampled(judging: Judging, verifier: Equal) -> None:
    def sampled() -> Iterator[Rollouts]:
        yield PARTS[0]
        assert verifier.about.wait(60)
        assert set(verifier.asked) <= {"1", "0"}
        yield PARTS[1]

    with verdict_thread() as thread:
        found = list(judged_aside(sampled(), judging, thread, ahead=1))
    assert len(found) == 2


def test_so_many_parts_are_ahead_of_what_is_given(judging: Judging) -> None:
    taken = []

    def sampled() -> Iterator[Rollouts]:
        for number, own in enumerate(PARTS):
            taken.append(number)
            yield own

    with verdict_thread() as thread:
        seen = [taken[-1] for _ in judged_aside(sampled(), judging, thread, ahead=2)]
    assert seen == [2, 3, 3, 3]


def test_what_a_verifier_raises_is_raised_at_its_part(judging: Judging) -> None:
    nine = dataclasses.replace(
        PARTS[1], samples=[[Sample(np.array([9]), *np.zeros((2, 1)), False)]]
    )
    with verdict_thread() as thread:
        found = judged_aside([PARTS[0], nine, PARTS[2]], judging, thread, ahead=2)
        assert next(found)[0] is PARTS[0]
        with pytest.raises(ZeroDivisionError, match="nine"):
            next(found)


def test_what_has_not_begun_is_dropped_at_the_end(judging: Judging, verifier: Equal) -> None:
    begun, go = threading.Event(), threading.Event()
    with verdict_thread() as thread:
        in_hand = thread.submit(lambda: begun.set() or go.wait(60))
        left = thread.submit(judge, PARTS[0], judging)
        left.add_done_callback(lambda _: go.set())
        assert begun.wait(60)
    assert in_hand.result()
    assert left.cancelled()
    assert verifier.asked == []


def test_joined_parts_keep_their_order() -> None:
    whole = joined(PARTS)
    assert [turn.id for turn in whole.turns] == ["1", "0", "2", "1", "0"]
    assert len(whole.samples) == 5
