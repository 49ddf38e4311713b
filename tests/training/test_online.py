"""Pivots chosen by training's own samples: the choice resumes, and what is learnt steers it."""

import json

import numpy as np

from pivotrl_jax.pivots import OnlineSettings, Turn, start
from pivotrl_jax.training import OnlineBatches
from pivotrl_jax.trajectories import Action

SETTINGS = OnlineSettings(half_life=50.0, min_evidence=8.0, readmit=0.01)
TURNS = [Turn(f"t{i}", "0", "swe", i, 0, 10 * i, 10 * i + 5, Action()) for i in range(6)]


def batches() -> OnlineBatches:
    state = start(np.full(6, 4), np.array([0.5, 0.5, 0.25, 0.75, 0.5, 0.5]))
    return OnlineBatches(TURNS, state, SETTINGS, {"swe": 1.0}, batch=3, seed=7)


def take(chosen: OnlineBatches, rate: dict[int, float]) -> list[int]:
    """One step in which pivot i passes with `rate[i]` of its eight samples (half by default)."""
    indices = next(chosen)
    rewards = np.array([np.arange(8) < 8 * rate.get(int(i), 0.5) for i in indices], np.float32)
    # Groups come in the order of rows, not in that of the choice.
    order = np.argsort(indices)
    numbers = chosen.observe(
        [TURNS[indices[i]] for i in order], rewards[order], np.ones((3, 8), bool)
    )
    assert numbers["online_active"] + numbers["online_solved"] + numbers["online_hopeless"] == 6
    return sorted(indices.tolist())


def test_every_step_takes_different_pivots_and_repeats_from_the_seed() -> None:
    one, other = batches(), batches()
    steps = [take(one, {}) for _ in range(12)]
    assert steps == [take(other, {}) for _ in range(12)]
    assert all(len(set(step)) == 3 for step in steps)
    assert len({tuple(step) for step in steps}) > 3


def test_a_restored_state_goes_on_with_the_same_pivots() -> None:
    whole = batches()
    before = [take(whole, {1: 1.0}) for _ in range(5)]
    kept = json.loads(json.dumps(whole.get_state()))
    after = [take(whole, {1: 1.0}) for _ in range(5)]
    resumed = batches()
    resumed.set_state(kept)
    assert [take(resumed, {1: 1.0}) for _ in range(5)] == after
    assert resumed.get_state() == whole.get_state()
    assert before != after


def test_a_step_may_be_taken_before_the_one_before_it_is_observed() -> None:
    ahead, in_turn = batches(), batches()
    first, second = next(ahead), next(ahead)
    np.testing.assert_array_equal(first, next(in_turn))
    assert set(first.tolist()) != set(second.tolist())
    ahead.observe([TURNS[i] for i in first], np.ones((3, 80)), np.ones((3, 80), bool))
    resumed = batches()
    resumed.set_state(json.loads(json.dumps(ahead.get_state())))
    # All of the first step's are solved; the second's are not known yet.
    third = next(ahead)
    assert set(third.tolist()).isdisjoint(first.tolist())
    np.testing.assert_array_equal(next(resumed), third)
    assert resumed.get_state() == ahead.get_state()


def test_solved_and_hopeless_pivots_make_room() -> None:
    chosen = batches()
    steps = [take(chosen, {0: 1.0, 1: 0.0}) for _ in range(60)]
    late = np.bincount(np.concatenate(steps[20:]), minlength=6)
    assert late[:2].max() < 5
    assert late[2:].min() > 15


def test_every_domain_gets_its_share() -> None:
    turns = [
        Turn(f"t{i}", "0", "swe" if i < 8 else "sql", i, 0, 10 * i, 10 * i + 5, Action())
        for i in range(12)
    ]
    state = start(np.full(12, 4), np.full(12, 0.5))
    chosen = OnlineBatches(turns, state, SETTINGS, {"swe": 1.0, "sql": 3.0}, batch=2, seed=7)
    steps = []
    for _ in range(20):
        indices = next(chosen)
        steps += indices.tolist()
        chosen.observe([turns[i] for i in indices], np.ones((2, 8)), np.ones((2, 8), bool))
    assert sum(i >= 8 for i in steps) == 30
