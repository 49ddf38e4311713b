"""Decayed counts, retirement and the draw, against closed forms and simulation."""

import collections
import dataclasses
import itertools
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivotrl_jax.errors import UserError
from pivotrl_jax.pivots.online import (
    OnlineSettings,
    OnlineState,
    choose,
    mean,
    mixed_probability,
    observe,
    retired,
    start,
    summary,
)

SETTINGS = OnlineSettings(half_life=10.0)


def known(*passed_of: tuple[float, float]) -> OnlineState:
    passed, total = np.array(passed_of, np.float64).T
    return start(total, passed / np.maximum(total, 1))


def test_counts_decay_by_half_in_a_half_life() -> None:
    state = known((4, 8), (0, 0))
    rewards, valid = np.array([[1.0, 0.5, 1.0]]), np.array([[True, True, False]])
    state = observe(state, 10, np.array([1]), rewards, valid, SETTINGS)
    np.testing.assert_allclose(state.passed_P, [2, 1.5])
    np.testing.assert_allclose(state.total_P, [4, 2])
    state = observe(state, 15, np.array([0]), rewards, valid, SETTINGS)
    np.testing.assert_allclose(state.passed_P, [2 / 2**0.5 + 1.5, 1.5 / 2**0.5], rtol=1e-6)
    assert state.step == 15


def test_the_posterior_mean_has_the_prior_in_it() -> None:
    state = known((4, 8), (0, 0), (8, 8))
    np.testing.assert_allclose(mean(state, SETTINGS), [0.5, 0.5, 0.9])
    prior = dataclasses.replace(SETTINGS, passes=1.0, failures=3.0)
    np.testing.assert_allclose(mean(state, prior), [5 / 12, 0.25, 0.75])


def test_a_pivot_that_was_never_judged_starts_from_the_prior() -> None:
    state = start(np.array([0, 4]), np.array([np.nan, 0.25]))
    np.testing.assert_array_equal(state.passed_P, [0, 1])
    np.testing.assert_array_equal(state.total_P, [0, 4])


def test_observing_changes_no_other_state() -> None:
    state = known((4, 8))
    observe(state, 5, np.array([0]), np.ones((1, 2)), np.ones((1, 2), bool), SETTINGS)
    np.testing.assert_array_equal(state.passed_P, [4])


@pytest.mark.parametrize(
    ("passed", "total", "status"),
    [
        (16, 16, "solved"),
        (15, 16, "active"),  # 16 / 18 is not above 0.9
        (8, 8, "active"),  # 9 / 10 is not, either
        (0, 16, "active"),  # 1 / 18 is not below 0.05
        (0, 20, "hopeless"),
        (8, 16, "active"),
        (0, 0, "active"),
    ],
)
def test_retirement(passed: float, total: float, status: str) -> None:
    solved, hopeless = retired(known((passed, total)), SETTINGS)
    assert ("solved" if solved else "hopeless" if hopeless else "active") == status


def test_retirement_needs_evidence_and_fades_with_it() -> None:
    narrow = dataclasses.replace(SETTINGS, hopeless=0.3, solved=0.6)
    for counts in ((7, 7), (0, 7)):
        assert not np.any(retired(known(counts), narrow))
    state = known((16, 16))
    nothing = np.zeros((0, 2))
    later = [
        observe(state, step, np.zeros(0, int), nothing, nothing.astype(bool), SETTINGS)
        for step in (9, 11)
    ]
    assert [bool(retired(each, SETTINGS)[0]) for each in later] == [True, False]


# Two solved, one hopeless, and four active ones.
POOL = known((64, 64), (64, 64), (0, 64), (4, 8), (1, 8), (7, 8), (0, 0))
RETIRED = {0, 1, 2}


def draws(n: int, count: int, **changes: float) -> list[list[int]]:
    chosen_by = dataclasses.replace(SETTINGS, **changes)
    return [choose(POOL, chosen_by, 3, step, n).tolist() for step in range(count)]


def test_the_first_place_goes_by_mu_times_one_minus_mu() -> None:
    mean_P = mean(POOL, SETTINGS)
    weights = mean_P * (1 - mean_P)
    expected = np.where([i in RETIRED for i in range(7)], 0, weights)
    drawn = collections.Counter(step[0] for step in draws(1, 8_000, readmit=1e-9))
    frequencies = [drawn[i] / 8_000 for i in range(7)]
    np.testing.assert_allclose(frequencies, expected / expected.sum(), atol=0.02)


def test_retired_pivots_return_with_the_stated_probability() -> None:
    drawn = draws(2, 8_000, readmit=0.1)
    counts = collections.Counter(i for step in drawn for i in step if i in RETIRED)
    assert sum(counts.values()) / 16_000 == pytest.approx(0.1, abs=0.008)
    assert all(counts[i] / 16_000 == pytest.approx(0.1 / 3, abs=0.006) for i in RETIRED)


def test_a_batch_is_filled_whoever_is_left() -> None:
    for n in range(10):
        assert all(len(set(step)) == len(step) == min(n, 7) for step in draws(n, 50))
    assert all(set(step) >= {3, 4, 5, 6} for step in draws(6, 50, readmit=1e-9))
    eager = dataclasses.replace(SETTINGS, readmit=0.99)
    for state in (known(*[(64, 64)] * 5), known(*[(0, 0)] * 5)):
        assert sorted(choose(state, SETTINGS, 0, 0, 5)) == [0, 1, 2, 3, 4]
        assert sorted(choose(state, eager, 0, 0, 5)) == [0, 1, 2, 3, 4]


def test_places_after_the_first_go_by_the_weights_of_those_left() -> None:
    state = known((4, 8), (1, 8), (0, 8))
    mean_P = mean(state, SETTINGS)
    weights = mean_P * (1 - mean_P)
    pairs = collections.Counter(
        tuple(choose(state, SETTINGS, 5, step, 2).tolist()) for step in range(8_000)
    )
    for first, second in itertools.permutations(range(3), 2):
        rest = weights.sum() - weights[first]
        expected = weights[first] / weights.sum() * weights[second] / rest
        assert pairs[first, second] / 8_000 == pytest.approx(expected, abs=0.02)


GROUPS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=30)


@given(GROUPS, st.integers(0, 2**32), st.integers(0, 10**6), st.data())
def test_a_draw_is_different_pivots_and_a_function_of_seed_and_step(groups, seed, step, data):
    state = known(*((p, p + q) for p, q in groups))
    n = data.draw(st.integers(0, len(groups)))
    chosen = choose(state, SETTINGS, seed, step, n)
    assert len(set(chosen.tolist())) == len(chosen) == n
    assert set(chosen.tolist()) <= set(range(len(groups)))
    np.testing.assert_array_equal(chosen, choose(state, SETTINGS, seed, step, n))


def test_steps_and_seeds_draw_differently() -> None:
    state = known(*[(4, 8)] * 100)
    drawn = {
        tuple(choose(state, SETTINGS, seed, step, 5)) for seed in range(5) for step in range(5)
    }
    assert len(drawn) == 25


@pytest.mark.parametrize(("passed", "total"), [(0, 0), (3, 8), (8, 8), (0, 30)])
def test_the_mixed_probability_is_the_posterior_average(passed: int, total: int) -> None:
    alpha, beta, samples = 1 + passed, 1 + total - passed, 6
    rate = (np.arange(200_000) + 0.5) / 200_000
    density = rate ** (alpha - 1) * (1 - rate) ** (beta - 1)
    mixed = 1 - rate**samples - (1 - rate) ** samples
    expected = (density * mixed).sum() / density.sum()
    found = mixed_probability(known((passed, total)), SETTINGS, samples)
    np.testing.assert_allclose(found, [expected], rtol=1e-6)
    np.testing.assert_allclose(
        mixed_probability(known((passed, total)), SETTINGS, 1), [0], atol=1e-12
    )


def test_the_summary_counts() -> None:
    found = summary(POOL, SETTINGS, np.array([0, 3, 6]), 8)
    expected = float(mixed_probability(POOL, SETTINGS, 8)[[0, 3, 6]].mean())
    assert found == {
        "online_active": 4,
        "online_solved": 2,
        "online_hopeless": 1,
        "online_readmitted": 1,
        "online_expected_mixed_share": pytest.approx(expected),
    }


def learn(state: OnlineState, steps: range) -> tuple[OnlineState, np.ndarray]:
    """Ten pivots of pass rates 0, 0.1, ... 0.9 in training, three a step; and how often each."""
    counts = np.zeros(10, int)
    for step in steps:
        chosen = choose(state, SETTINGS, 1, step, 3)
        counts[chosen] += 1
        drawn = np.random.default_rng(step).random((3, 16)) < chosen[:, None] / 10
        valid = np.ones_like(drawn)
        state = observe(state, step + 1, chosen, drawn.astype(float), valid, SETTINGS)
    return state, counts


def test_a_restored_state_goes_on_as_if_never_interrupted(tmp_path: Path) -> None:
    half, _ = learn(known(*[(0, 0)] * 10), range(20))
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "state", jax.device_put(half))
        saver.wait_until_finished()
        restored = saver.restore(tmp_path / "state", jax.device_put(half))
    (whole, _), (resumed, _) = (learn(state, range(20, 40)) for state in (half, restored))
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)


def test_sampling_moves_to_the_undecided_and_forgets_nobody() -> None:
    _, counts = learn(known(*[(0, 0)] * 10), range(300))
    assert counts[4:7].mean() > 2 * counts[0]
    assert counts.min() > 0


@pytest.mark.parametrize(
    "wrong",
    [{"half_life": 0.0}, {"passes": 0.0}, {"solved": 0.01}, {"solved": 1.5}, {"readmit": 0.0},
     {"readmit": 1.0}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match="online"):
        OnlineSettings(**wrong)
