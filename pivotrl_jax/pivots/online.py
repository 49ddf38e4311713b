"""The cheap form of profiling: pass counts of training's own samples steer what is sampled next.

Pivot i has decayed counts of passes s_i and of valid samples n_i. A count of t steps ago has the
weight 2^(-t / half_life), since it tells of an older policy. With a Beta(a, b) prior the posterior
of the pass rate p_i is Beta(a + s_i, b + n_i - s_i), of mean

    mu_i = (a + s_i) / (a + b + n_i).

A pivot is drawn in proportion to mu_i (1 - mu_i), the variance of a sample's reward at that rate.
One with n_i >= min_evidence is retired while mu_i > solved or mu_i < hopeless. Evidence fades, so a
retired pivot returns by itself in the end; and each place of a batch goes to a retired pivot, any
with equal chance, with probability `readmit`, so that none is out of reach before.
"""

import dataclasses
from collections.abc import Sequence

import flax.struct
import numpy as np
from jaxtyping import Bool, Float, Int

from pivotrl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class OnlineSettings:
    """`half_life` in steps; (`passes`, `failures`) is the Beta prior (a, b).

    A half-life far below the number of steps between two visits of a pivot forgets all that was
    learnt of it, and sampling becomes uniform.
    """

    half_life: float = 500.0
    passes: float = 1.0
    failures: float = 1.0
    solved: float = 0.9
    hopeless: float = 0.05
    min_evidence: float = 8.0
    readmit: float = 0.05

    def __post_init__(self) -> None:
        if min(self.half_life, self.passes, self.failures) <= 0:
            raise UserError("online.half_life, online.passes and online.failures must be positive")
        if not 0 <= self.hopeless < self.solved <= 1:
            raise UserError("online.hopeless must be below online.solved, both between 0 and 1")
        if not 0 < self.readmit < 1:
            raise UserError(
                f"online.readmit is {self.readmit}: give a probability above 0, below 1"
            )


@flax.struct.dataclass
class OnlineState:
    """Decayed counts of P pivots, as they are after `step` steps; part of a checkpoint."""

    passed_P: Float[np.ndarray, "P"]
    total_P: Float[np.ndarray, "P"]
    step: Int[np.ndarray, ""]


def start(n_P: Int[np.ndarray, "P"], mean_P: Float[np.ndarray, "P"]) -> OnlineState:
    """The state before step 0: the profile's valid samples and their mean (NaN if there are none).

    Zeros for both start from the prior alone.
    """
    total_P = np.asarray(n_P, np.float32)
    passed_P = np.nan_to_num(np.asarray(mean_P, np.float32)) * total_P
    return OnlineState(passed_P, total_P, np.asarray(0, np.int32))


def observe(
    state: OnlineState,
    step: int,
    indices: Int[np.ndarray, "R"],
    rewards_RK: Float[np.ndarray, "R K"],
    valid_RK: Bool[np.ndarray, "R K"],
    settings: OnlineSettings,
) -> OnlineState:
    """The state after `step` (not before the state's own) with the samples of pivots `indices`.

    Graded rewards in [0, 1] count as parts of a pass. Samples that are not valid do not count.
    """
    decay = np.float32(0.5 ** ((step - int(state.step)) / settings.half_life))
    passed_P, total_P = np.array(state.passed_P) * decay, np.array(state.total_P) * decay
    np.add.at(passed_P, indices, np.where(valid_RK, rewards_RK, 0).sum(1, dtype=np.float32))
    np.add.at(total_P, indices, np.asarray(valid_RK).sum(1, dtype=np.float32))
    return OnlineState(passed_P, total_P, np.asarray(step, np.int32))


def posterior(
    state: OnlineState, settings: OnlineSettings
) -> tuple[Float[np.ndarray, "P"], Float[np.ndarray, "P"]]:
    """Parameters (alpha, beta) of each pivot's Beta posterior."""
    passed_P = np.asarray(state.passed_P, np.float64)
    # Rounding may leave a little more passes than samples.
    failed_P = np.maximum(np.asarray(state.total_P, np.float64) - passed_P, 0)
    return settings.passes + passed_P, settings.failures + failed_P


def mean(state: OnlineState, settings: OnlineSettings) -> Float[np.ndarray, "P"]:
    """mu, the posterior mean of each pivot's pass rate."""
    alpha_P, beta_P = posterior(state, settings)
    return alpha_P / (alpha_P + beta_P)


def retired(
    state: OnlineState, settings: OnlineSettings
) -> tuple[Bool[np.ndarray, "P"], Bool[np.ndarray, "P"]]:
    """Which pivots are (solved, hopeless) on enough evidence."""
    mean_P = mean(state, settings)
    known_P = np.asarray(state.total_P) >= settings.min_evidence
    return known_P & (mean_P > settings.solved), known_P & (mean_P < settings.hopeless)


def choose(
    state: OnlineState, settings: OnlineSettings, seed: int | Sequence[int], step: int, n: int
) -> Int[np.ndarray, "n"]:
    """`n` different pivots for `step`, or all if there are fewer; a function of its arguments.

    The number of retired ones among them is binomial (n, readmit), as far as there are enough of
    both kinds. The active ones are drawn one after the other, each in proportion to its weight
    among those that are left.
    """
    rng = np.random.default_rng(np.append(seed, step))
    mean_P = mean(state, settings)
    out_P = np.logical_or(*retired(state, settings))
    active, out = np.flatnonzero(~out_P), np.flatnonzero(out_P)
    readmitted = min(max(rng.binomial(n, settings.readmit), n - len(active)), len(out))
    # The first of several exponential clocks to ring is each one in proportion to its rate.
    rings = rng.exponential(size=len(active)) / (mean_P * (1 - mean_P))[active]
    drawn = active[np.argsort(rings)][: n - readmitted]
    return np.concatenate([drawn, rng.choice(out, readmitted, replace=False)])


def mixed_probability(
    state: OnlineState, settings: OnlineSettings, samples: int
) -> Float[np.ndarray, "P"]:
    """Each pivot's probability that its next `samples` (G) samples are neither all 1 nor all 0.

    1 - E[p^G] - E[(1 - p)^G] under the posterior, where E[p^G] is the product over i < G of
    (alpha + i) / (alpha + beta + i).
    """
    alpha_P, beta_P = posterior(state, settings)
    i_G = np.arange(samples)
    of_all = (alpha_P + beta_P)[:, None] + i_G
    all_pass = np.prod((alpha_P[:, None] + i_G) / of_all, axis=1)
    all_fail = np.prod((beta_P[:, None] + i_G) / of_all, axis=1)
    return np.maximum(1 - all_pass - all_fail, 0)


def summary(
    state: OnlineState, settings: OnlineSettings, chosen: Int[np.ndarray, "n"], samples: int
) -> dict[str, float]:
    """Numbers for a step's metrics: of all pivots, and of those `chosen` by `state`."""
    solved_P, hopeless_P = retired(state, settings)
    out_P = solved_P | hopeless_P
    return {
        "online_active": int((~out_P).sum()),
        "online_solved": int(solved_P.sum()),
        "online_hopeless": int(hopeless_P.sum()),
        "online_readmitted": int(out_P[chosen].sum()),
        "online_expected_mixed_share": float(
            mixed_probability(state, settings, samples)[chosen].mean()
        ),
    }
