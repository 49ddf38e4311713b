"""Group statistics and advantages against written-out loops and published figures."""

import numpy as np
import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.objectives import advantages, group_statistics, override

EPSILON = 1e-6


def std_by_hand(group: list[float], reward: float, _: int) -> float:
    return (reward - np.mean(group)) / (np.std(group) + EPSILON)


def mean_by_hand(group: list[float], reward: float, _: int) -> float:
    return reward - np.mean(group)


def leave_one_out_by_hand(group: list[float], reward: float, index: int) -> float:
    others = group[:index] + group[index + 1 :]
    std = np.std(others, ddof=1) if len(set(others)) > 1 else 0.0
    return (reward - np.mean(others)) / (std + EPSILON if std > 0 else 1.0)


BY_HAND = {"std": std_by_hand, "mean": mean_by_hand, "leave_one_out": leave_one_out_by_hand}


def groups(graded: bool) -> tuple[np.ndarray, np.ndarray]:
    """Random groups of 8 with holes, then: all equal, one valid, none valid."""
    rng = np.random.default_rng(1)
    rewards_PK = rng.random((40, 8)) if graded else rng.integers(0, 2, (40, 8))
    valid_PK = rng.random((40, 8)) < 0.8
    rewards_PK[-3] = 0.1 if graded else 1
    valid_PK[-2] = np.arange(8) == 3
    valid_PK[-1] = False
    return rewards_PK.astype(np.float32), valid_PK


@pytest.mark.parametrize("graded", [False, True])
def test_statistics_match_loops(graded):
    rewards_PK, valid_PK = groups(graded)
    stats = group_statistics(np.where(valid_PK, rewards_PK, np.nan), valid_PK)
    for p, (rewards_K, valid_K) in enumerate(zip(rewards_PK, valid_PK, strict=True)):
        group = [float(r) for r, v in zip(rewards_K, valid_K, strict=True) if v]
        assert stats.count_P[p] == len(group)
        mean = sum(group) / len(group) if group else 0.0
        variance = sum((r - mean) ** 2 for r in group) / len(group) if group else 0.0
        np.testing.assert_allclose(stats.mean_P[p], mean, atol=1e-6)
        np.testing.assert_allclose(stats.variance_P[p], variance, atol=1e-6)
    assert stats.variance_P[-3] == 0  # exactly, or eq. 5 would select it


@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("min_valid", [2, 5])
@pytest.mark.parametrize("normalisation", sorted(BY_HAND))
def test_advantages_match_loops(normalisation, min_valid, graded):
    rewards_PK, valid_PK = groups(graded)
    got_PK = advantages(
        np.where(valid_PK, rewards_PK, np.nan),
        valid_PK,
        normalisation=normalisation,
        epsilon=EPSILON,
        min_valid=min_valid,
    )
    expected_PK = np.zeros(rewards_PK.shape)
    for p in range(len(rewards_PK)):
        members = np.flatnonzero(valid_PK[p])
        group = [float(rewards_PK[p, k]) for k in members]
        if len(group) < min_valid or len(set(group)) < 2:
            continue
        for index, k in enumerate(members):
            expected_PK[p, k] = BY_HAND[normalisation](group, group[index], index)
    np.testing.assert_allclose(got_PK, expected_PK, rtol=2e-4, atol=1e-5)
    assert np.count_nonzero(got_PK) > 40
    assert not np.any(np.asarray(got_PK)[expected_PK == 0])


@pytest.mark.parametrize(
    ("successes", "positive", "negative"),
    [(1, 1.0, -0.258), (2, 3.615, -0.379), (4, 1.932, -0.583), (8, 1.033, -1.033), (15, 0.258, -1)],
)
def test_leave_one_out_has_nemo_rls_figures(successes, positive, negative):
    rewards_PK = np.float32(np.arange(16) < successes)[None]
    got_PK = advantages(rewards_PK, rewards_PK >= 0, normalisation="leave_one_out")
    expected_K = [positive] * successes + [negative] * (16 - successes)
    np.testing.assert_allclose(got_PK[0], expected_K, atol=5.1e-4)


def test_std_gives_a_lone_success_of_sixteen_its_published_advantage():
    rewards_PK = np.float32(np.arange(16) == 0)[None]
    got_PK = advantages(rewards_PK, rewards_PK >= 0, normalisation="std")
    np.testing.assert_allclose(got_PK[0, 0], 3.87, atol=5e-3)


def test_malformed_actions_are_overridden_even_in_an_equal_group():
    advantages_PK = np.array([[1.0, -1.0], [0.0, 0.0]])
    malformed_PK = np.array([[False, True], [True, False]])
    got_PK = override(advantages_PK, malformed_PK, -5.0)
    np.testing.assert_array_equal(got_PK, [[1.0, -5.0], [-5.0, 0.0]])
    np.testing.assert_array_equal(override(advantages_PK, malformed_PK, None), advantages_PK)


def test_unknown_normalisation_names_the_nearest():
    ones_PK = np.ones((1, 2))
    with pytest.raises(UserError, match="did you mean 'leave_one_out'"):
        advantages(ones_PK, ones_PK > 0, normalisation="leave_on_out")
