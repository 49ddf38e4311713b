"""Reward on held-out candidates, with intervals over trajectories."""

import dataclasses
import math
from collections.abc import Collection
from typing import Literal

import pyarrow as pa

from pivotrl_jax.evaluation.bootstrap import Interval, clustered_mean, paired_difference


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """`samples` actions per held-out candidate; `ood_texts` texts of each set in `ood_path`.

    `truncated` is "fail" here: a policy that does not end its turn has not acted, and leaving
    such samples out would score each policy on other candidates.
    """

    samples: int = 8
    truncated: Literal["exclude", "fail"] = "fail"
    ood_path: str = "experiments/data/ood"
    ood_texts: int | None = None
    ood_tokens: int = 512


Scores = dict[str, float | int | None]


def heldout_reward(table: pa.Table, seed: int, only: Collection[str] | None = None) -> Scores:
    """Mean reward over candidates of `pivots.candidate_table`, with its 95 % interval.

    `only` restricts it to those candidate ids. A candidate without a valid sample has no reward
    and is not counted. All values are None when no candidate is left.
    """
    kept = [row for row in table.to_pylist() if row["n"] and _chosen(row, only)]
    if not kept:
        return {"mean": None, "low": None, "high": None, "n_candidates": 0, "n_trajectories": 0}
    clusters = [row["trajectory_id"] for row in kept]
    interval = clustered_mean([row["mean"] for row in kept], clusters, seed)
    return _scores(interval) | {"n_candidates": len(kept), "n_trajectories": len(set(clusters))}


def heldout_difference(
    after: pa.Table, before: pa.Table, seed: int, only: Collection[str] | None = None
) -> Scores:
    """Mean of after - before over the candidates that both policies have a reward for, paired."""
    mean_before = {row["candidate_id"]: row["mean"] for row in before.to_pylist() if row["n"]}
    kept = [
        row
        for row in after.to_pylist()
        if row["n"] and row["candidate_id"] in mean_before and _chosen(row, only)
    ]
    if not kept:
        return {"mean": None, "low": None, "high": None, "n_candidates": 0}
    interval = paired_difference(
        [row["mean"] for row in kept],
        [mean_before[row["candidate_id"]] for row in kept],
        [row["trajectory_id"] for row in kept],
        seed,
    )
    return _scores(interval) | {"n_candidates": len(kept)}


def _chosen(row: dict, only: Collection[str] | None) -> bool:
    return only is None or row["candidate_id"] in only


def _scores(interval: Interval) -> Scores:
    """JSON has no NaN: bounds that do not exist are None."""
    bounds = {"low": interval.low, "high": interval.high}
    return {"mean": interval.mean} | {k: None if math.isnan(x) else x for k, x in bounds.items()}
