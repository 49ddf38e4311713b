"""Percentile bootstrap over trajectories.

Candidates of one trajectory share its history, so they are not independent: whole trajectories
are drawn with replacement, never single candidates.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pivotrl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its confidence interval, in the unit of the values.

    `low` and `high` are NaN where one cluster alone leaves nothing to resample.
    """

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def clustered_mean(
    values: npt.ArrayLike,
    clusters: npt.ArrayLike,
    seed: int,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Mean of `values` [P] and its percentile bootstrap interval over `clusters` [P] (any labels).

    Every candidate weighs the same, so a long trajectory weighs more than a short one. Raises
    UserError when there is nothing to average, ValueError on a shape mismatch or a value that is
    not finite: drop the candidates without a reward first.
    """
    values_P, clusters_P = np.asarray(values, np.float64), np.asarray(clusters)
    if values_P.ndim != 1 or values_P.shape != clusters_P.shape:
        raise ValueError(
            f"values {values_P.shape} and clusters {clusters_P.shape} must both be [P]"
        )
    if not np.isfinite(values_P).all():
        raise ValueError("every value must be finite")
    if not values_P.size:
        raise UserError("There is no reward to average; check the share of verifier errors.")
    _, cluster_of_P = np.unique(clusters_P, return_inverse=True)
    sums, counts = np.bincount(cluster_of_P, values_P), np.bincount(cluster_of_P)
    mean = float(values_P.mean())
    if len(counts) == 1:
        return Interval(mean, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    return _interval(mean, _resampled_means(sums, counts, rng, resamples), level)


def stratified_mean(
    strata: Sequence[npt.ArrayLike], seed: int, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """The mean of the means of `strata`, each [P] with a P of its own, and its percentile interval.

    Every stratum weighs the same, whatever its size, and values are drawn within their own, so that
    the interval stays within the range of the values. It has no width for single values.
    """
    rng = np.random.default_rng(seed)
    values = [np.asarray(own, np.float64) for own in strata]
    means_NB = [_resampled_means(own, np.ones(len(own)), rng, resamples) for own in values]
    mean = float(np.mean([own.mean() for own in values]))
    return _interval(mean, np.mean(means_NB, axis=0), level)


def paired_difference(
    after: npt.ArrayLike,
    before: npt.ArrayLike,
    clusters: npt.ArrayLike,
    seed: int,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Mean of `after - before` [P], two policies on the same candidates, as `clustered_mean`.

    Pairing removes the spread between easy and hard candidates, so this interval is narrower than
    what the intervals of the two policies suggest.
    """
    after_P, before_P = np.asarray(after, np.float64), np.asarray(before, np.float64)
    if after_P.shape != before_P.shape:
        raise ValueError(f"after {after_P.shape} and before {before_P.shape} must match")
    return clustered_mean(after_P - before_P, clusters, seed, resamples, level)


def _interval(mean: float, resampled: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high))


def _resampled_means(
    sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator, resamples: int
) -> np.ndarray:
    """Means of `resamples` draws of as many clusters as there are, with replacement."""
    number = len(counts)
    # How often each cluster is drawn is all that a mean depends on: one matrix product does it.
    draws = rng.multinomial(number, np.full(number, 1 / number), size=resamples)
    return (draws @ sums) / (draws @ counts)
