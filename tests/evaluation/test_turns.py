"""Held-out reward and differences of candidate tables, against hand-computed means."""

import json

import numpy as np
import pyarrow as pa
import pytest

from pivotrl_jax.evaluation import clustered_mean, heldout_difference, heldout_reward


def table(means: dict[str, float], empty: tuple[str, ...] = ()) -> pa.Table:
    """Candidates called "<trajectory>.<turn>"; those of `empty` have no valid sample."""
    names = [*means, *empty]
    return pa.table(
        {
            "candidate_id": names,
            "trajectory_id": [name.split(".")[0] for name in names],
            "n": [8] * len(means) + [0] * len(empty),
            "mean": [*means.values(), *[float("nan")] * len(empty)],
        }
    )


BEFORE = {"a.0": 0.25, "a.3": 0.5, "b.1": 0.0, "c.0": 1.0, "c.2": 0.75}
AFTER = {"a.0": 0.5, "a.3": 0.5, "b.1": 0.5, "c.0": 1.0, "d.9": 0.0}


def test_the_mean_is_over_candidates_and_the_interval_over_trajectories():
    scores = heldout_reward(table(BEFORE, empty=("e.0",)), seed=3)
    assert scores["mean"] == pytest.approx(0.5)
    assert (scores["n_candidates"], scores["n_trajectories"]) == (5, 3)
    interval = clustered_mean(list(BEFORE.values()), ["a", "a", "b", "c", "c"], seed=3)
    assert (scores["low"], scores["high"]) == (interval.low, interval.high)


def test_only_the_named_candidates_count():
    scores = heldout_reward(table(BEFORE), 0, only={"a.0", "c.2", "z.0"})
    assert scores["mean"] == pytest.approx(0.5)
    assert (scores["n_candidates"], scores["n_trajectories"]) == (2, 2)


def test_differences_pair_the_candidates_that_both_have():
    after, before = table(AFTER, empty=("c.2",)), table(BEFORE, empty=("d.9",))
    scores = heldout_difference(after, before, seed=0)
    assert scores["n_candidates"] == 4
    assert scores["mean"] == pytest.approx((0.25 + 0 + 0.5 + 0) / 4)
    assert heldout_difference(before, after, seed=0)["mean"] == pytest.approx(-scores["mean"])
    only = heldout_difference(after, before, 0, only={"b.1", "c.2"})
    assert (only["mean"], only["n_candidates"]) == (0.5, 1)
    interval = clustered_mean([0.25, 0, 0.5, 0], ["a", "a", "b", "c"], seed=0)
    assert (scores["low"], scores["high"]) == (interval.low, interval.high)


def test_the_order_of_the_tables_does_not_matter():
    rows = np.random.default_rng(0).permutation(len(BEFORE))
    shuffled = table(BEFORE).take(rows)
    ours = heldout_difference(table(AFTER), shuffled, 0)
    assert ours == heldout_difference(table(AFTER), table(BEFORE), 0)


def test_what_does_not_exist_is_none_and_json_can_write_it():
    nothing = heldout_reward(table(BEFORE), 0, only=())
    assert nothing["mean"] is None
    assert nothing["n_candidates"] == 0
    none_shared = heldout_difference(table({"a.0": 1.0}), table({"b.0": 1.0}), 0)
    assert none_shared == {"mean": None, "low": None, "high": None, "n_candidates": 0}
    one_trajectory = heldout_reward(table({"a.0": 1.0, "a.1": 0.0}), 0)
    assert (one_trajectory["mean"], one_trajectory["low"]) == (0.5, None)
    json.dumps([nothing, none_shared, one_trajectory], allow_nan=False)
