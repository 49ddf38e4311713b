"""Pass rate and variance of each candidate's group of samples."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class GroupStatistics:
    """Per group: number of valid rewards, their mean and population variance (NaN if n is 0)."""

    n: Int[np.ndarray, "P"]
    mean: Float[np.ndarray, "P"]
    variance: Float[np.ndarray, "P"]


def wilson(
    passed: Float[np.ndarray, "P"] | float, total: Int[np.ndarray, "P"] | int, z: float = 1.96
) -> tuple[Float[np.ndarray, "P"], Float[np.ndarray, "P"]]:
    """Wilson score interval of a pass rate (Wilson 1927); [0, 1] where `total` is 0.

    `passed` may be a sum of graded rewards in [0, 1]; the interval is then conservative.
    """
    trials = np.maximum(np.asarray(total, np.float64), 1)
    rate = np.clip(np.asarray(passed, np.float64) / trials, 0, 1)
    scale = 1 + z**2 / trials
    centre = (rate + z**2 / (2 * trials)) / scale
    half = z / scale * np.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    empty = np.asarray(total) == 0
    low, high = np.maximum(centre - half, 0), np.minimum(centre + half, 1)
    return np.where(empty, 0.0, low), np.where(empty, 1.0, high)


def group_statistics(
    group: Int[np.ndarray, "S"],
    rewards: Float[np.ndarray, "S"],
    valid: Bool[np.ndarray, "S"],
    groups: int,
) -> GroupStatistics:
    """Mean and population variance of the valid rewards of each group (paper eq. 4).

    `group` holds indices below `groups`; S counts samples. A group of equal rewards has a
    variance of exactly 0, whatever the rounding of its mean.
    """
    group, rewards = group[valid], rewards[valid].astype(np.float64)
    n = np.bincount(group, minlength=groups)
    low, high = np.full(groups, np.inf), np.full(groups, -np.inf)
    np.minimum.at(low, group, rewards)
    np.maximum.at(high, group, rewards)
    total = np.bincount(group, rewards, groups)
    mean = np.where(low == high, low, total / np.maximum(n, 1))
    squares = np.bincount(group, (rewards - mean[group]) ** 2, groups)
    nan = np.where(n == 0, np.nan, 0.0)
    return GroupStatistics(n, mean + nan, squares / np.maximum(n, 1) + nan)


def candidate_table(samples: pa.Table, candidates: pa.Table) -> pa.Table:
    """One row per profiled candidate, ordered by id: provenance and group statistics.

    `samples` needs candidate_id, reward and error; `candidates` candidate_id, trajectory_id,
    domain and turn. A sample with an error or without a reward is not counted: an error is not a
    reward of zero. KeyError if a sampled candidate is unknown.
    """
    ids, group = np.unique(
        np.array(samples["candidate_id"].to_pylist(), object), return_inverse=True
    )
    valid = pc.and_(pc.is_valid(samples["reward"]), pc.is_null(samples["error"]))
    rewards = pc.fill_null(samples["reward"], 0.0).to_numpy()
    stats = group_statistics(group, rewards, valid.to_numpy().astype(bool), len(ids))
    low, high = wilson(np.nan_to_num(stats.mean) * stats.n, stats.n)
    row_of = {name: row for row, name in enumerate(candidates["candidate_id"].to_pylist())}
    known = candidates.take([row_of[name] for name in ids])
    columns = ("candidate_id", "trajectory_id", "domain", "turn")
    return pa.table(
        {name: known[name] for name in columns}
        | {
            "n": stats.n,
            "mean": stats.mean,
            "variance": stats.variance,
            "wilson_low": low,
            "wilson_high": high,
        }
    )
