import numpy as np
import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.evaluation.bootstrap import Interval, clustered_mean, paired_difference


def test_two_clusters_by_hand():
    # Clusters a = {1, 1, 1}, b = {0}: the draws aa, ab, ba, bb have means 1, 3/4, 3/4, 0 with
    # probability 1/4 each, so the 60 % interval runs from 0 to 1 and the 40 % one is 3/4 alone.
    values, clusters = [1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]
    assert clustered_mean(values, clusters, seed=0, level=0.6) == Interval(0.75, 0.0, 1.0)
    assert clustered_mean(values, clusters, seed=0, level=0.4) == Interval(0.75, 0.75, 0.75)


def test_agrees_with_a_loop_that_draws_whole_trajectories():
    rng = np.random.default_rng(1)
    clusters = rng.integers(12, size=90)
    values = rng.random(90) + 0.3 * (clusters % 3)
    rows = [values[clusters == cluster] for cluster in np.unique(clusters)]
    means = [
        np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))]).mean()
        for _ in range(4000)
    ]
    interval = clustered_mean(values, clusters, seed=2, resamples=4000)
    assert interval.mean == pytest.approx(values.mean())
    np.testing.assert_allclose(
        [interval.low, interval.high], np.quantile(means, [0.025, 0.975]), atol=0.015
    )


def test_coverage_counts_clusters_and_not_candidates():
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(40), 8)
    covered, covered_naively = 0, 0
    for trial in range(200):
        values = rng.normal(0.5, 0.2, 40)[clusters] + rng.normal(0, 0.1, 320)
        by_trajectory = clustered_mean(values, clusters, trial, resamples=400)
        by_candidate = clustered_mean(values, np.arange(320), trial, resamples=400)
        covered += by_trajectory.low <= 0.5 <= by_trajectory.high
        covered_naively += by_candidate.low <= 0.5 <= by_candidate.high
    assert 0.90 <= covered / 200 <= 0.98
    assert covered_naively / 200 < 0.75


def test_pairing_sees_a_shift_that_separate_intervals_do_not():
    rng = np.random.default_rng(4)
    clusters = np.repeat(np.arange(20), 5)
    before = rng.random(100)
    after = before + rng.normal(0.05, 0.02, 100)
    difference = paired_difference(after, before, clusters, seed=0)
    assert difference.mean == pytest.approx((after - before).mean())
    assert difference.excludes_zero
    assert clustered_mean(after, clusters, 0).low < clustered_mean(before, clusters, 0).high


def test_same_seed_same_interval():
    values, clusters = np.random.default_rng(5).random(50), np.arange(50) // 5
    assert clustered_mean(values, clusters, seed=7) == clustered_mean(values, clusters, seed=7)
    assert clustered_mean(values, clusters, seed=7) != clustered_mean(values, clusters, seed=8)


def test_one_trajectory_has_no_interval():
    interval = clustered_mean([0.0, 1.0], ["t", "t"], seed=0)
    assert interval.mean == 0.5
    assert np.isnan([interval.low, interval.high]).all()
    assert not interval.excludes_zero


def test_refuses_nothing_and_nonsense():
    with pytest.raises(UserError, match="no reward"):
        clustered_mean([], [], seed=0)
    with pytest.raises(ValueError, match="finite"):
        clustered_mean([0.0, float("nan")], [0, 1], seed=0)
    with pytest.raises(ValueError, match="must both be"):
        clustered_mean([0.0, 1.0], [0], seed=0)
