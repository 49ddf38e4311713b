"""The clipped policy objective with a penalty for leaving the profiled policy (paper eq. 7)."""

import dataclasses
import functools
from typing import Literal, get_args

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pivotrl_jax.objectives.names import require

Ratio = Literal["token", "sequence", "sequence_mean"]
Aggregation = Literal["token", "sequence"]
KlEstimator = Literal["k1", "k2", "k3"]

# exp(20) is far outside any clip range; beyond it, 0 advantage * inf ratio would be NaN.
MAX_LOG_RATIO = 20.0


@dataclasses.dataclass(frozen=True)
class PolicySettings:
    """How eq. 7 is read.

    `ratio` is that of one token, of the whole action ("sequence", as the paper prints it) or its
    geometric mean over the action's tokens ("sequence_mean", GSPO). `aggregation` gives every
    token or every sample the same weight.

    `kl_estimator` with d = logp - ref_logp: k1 is d, k2 is d^2 / 2, k3 is exp(-d) - 1 + d. On
    samples of the current policy the gradient of k2 has the expectation of eq. 7's,
    grad KL(pi || pi_0); that of k3 has grad KL(pi_0 || pi)'s and that of k1 is 0 on average.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    ratio: Ratio = "token"
    aggregation: Aggregation = "token"
    kl_coef: float = 0.0
    kl_estimator: KlEstimator = "k2"

    def __post_init__(self) -> None:
        require("objective.ratio", self.ratio, get_args(Ratio))
        require("objective.aggregation", self.aggregation, get_args(Aggregation))
        require("objective.kl_estimator", self.kl_estimator, get_args(KlEstimator))


@flax.struct.dataclass
class PolicyStats:
    """Sums (`tokens`, `clipped`, `kl`) and maxima over valid tokens, so that micro-batches combine.

    `kl` sums the estimator; `clipped` the tokens without gradient because of the clip;
    `ratio_max` is the largest importance ratio and `logp_gap` the largest |logp - old_logp|.
    """

    tokens: Float[Array, ""]
    clipped: Float[Array, ""]
    kl: Float[Array, ""]
    ratio_max: Float[Array, ""]
    logp_gap: Float[Array, ""]


def policy_loss(
    logp_RA: Float[Array, "R A"],
    old_logp_RA: Float[Array, "R A"],
    ref_logp_RA: Float[Array, "R A"] | None,
    advantage_RA: Float[Array, "R A"],
    weight_RA: Float[Array, "R A"],
    sample_RA: Int[Array, "R A"],
    normaliser: Float[Array, ""],
    settings: PolicySettings,
    samples: int,
) -> tuple[Float[Array, ""], PolicyStats]:
    """Minus eq. 7: kl_coef * KL - min(w A, clip(w, 1 - clip_low, 1 + clip_high) A), aggregated.

    `logp_RA` carries the gradient; `old_logp_RA` is of the policy that sampled, `ref_logp_RA` of
    the profiled one (None: no KL). `sample_RA` numbers each token's sample within its row, below
    the static `samples`; no sample spans two rows. Tokens of weight 0 are padding and may hold
    anything. `normaliser` is `loss_count` of the whole batch, so that the losses of its
    micro-batches add up to that of the batch.
    """
    if settings.kl_coef and ref_logp_RA is None:
        raise ValueError("kl_coef is not 0, so policy_loss needs ref_logp_RA")
    by_sample = functools.partial(
        _by_sample, valid_RA=weight_RA > 0, sample_RA=sample_RA, samples=samples
    )
    gap_RA = jnp.where(weight_RA > 0, logp_RA - old_logp_RA, 0)
    ratio_RA = _exp(gap_RA if settings.ratio == "token" else by_sample(gap_RA, settings.ratio))
    gain_RA, clipped_RA = _clipped_gain(
        ratio_RA, jnp.where(weight_RA > 0, advantage_RA, 0), settings
    )
    kl_RA = jnp.zeros_like(gain_RA)
    if ref_logp_RA is not None:
        drift_RA = jnp.where(weight_RA > 0, logp_RA - ref_logp_RA, 0)
        # Like its ratio, the KL that the paper prints is of whole actions.
        kl_RA = _kl(
            by_sample(drift_RA, "sequence") if settings.ratio == "sequence" else drift_RA,
            settings.kl_estimator,
        )
    stats = PolicyStats(
        tokens=jnp.sum(weight_RA),
        clipped=jnp.sum(weight_RA * clipped_RA),
        kl=jnp.sum(weight_RA * kl_RA),
        ratio_max=jnp.max(jnp.where(weight_RA > 0, ratio_RA, 0)),
        logp_gap=jnp.max(jnp.abs(gap_RA)),
    )
    loss_RA = settings.kl_coef * kl_RA - gain_RA
    total = _total(loss_RA, weight_RA, sample_RA, settings.aggregation, samples)
    return total / jnp.maximum(normaliser, 1), stats


def loss_count(
    weight_RA: Float[Array, "R A"],
    sample_RA: Int[Array, "R A"],
    aggregation: Aggregation,
    samples: int,
) -> Float[Array, ""]:
    """What the loss is a mean over: the number of valid tokens or of samples that have any.

    Add it up over micro-batches and devices for the `normaliser` of `policy_loss`. (Dr. GRPO's
    constant, samples times the token cap, is a `normaliser` too, under "token" aggregation.)
    """
    return _total(jnp.ones_like(weight_RA), weight_RA, sample_RA, aggregation, samples)


def _total(
    x_RA: Float[Array, "R A"],
    weight_RA: Float[Array, "R A"],
    sample_RA: Int[Array, "R A"],
    aggregation: Aggregation,
    samples: int,
) -> Float[Array, ""]:
    """The weighted sum over tokens, or the sum over samples of the weighted mean over tokens."""
    if aggregation == "token":
        return jnp.sum(x_RA * weight_RA)
    sums_RB = _segment_sum(x_RA * weight_RA, sample_RA, samples)
    weights_RB = _segment_sum(weight_RA, sample_RA, samples)
    return jnp.sum(sums_RB / jnp.where(weights_RB > 0, weights_RB, 1))


def _clipped_gain(
    ratio_RA: Float[Array, "R A"], advantage_RA: Float[Array, "R A"], settings: PolicySettings
) -> tuple[Float[Array, "R A"], Bool[Array, "R A"]]:
    """The clipped surrogate, and where the clip took its gradient."""
    bounded_RA = jnp.clip(ratio_RA, 1 - settings.clip_low, 1 + settings.clip_high) * advantage_RA
    plain_RA = ratio_RA * advantage_RA
    return jnp.minimum(plain_RA, bounded_RA), bounded_RA < plain_RA


def _by_sample(
    x_RA: Float[Array, "R A"],
    how: Literal["sequence", "sequence_mean"],
    valid_RA: Bool[Array, "R A"],
    sample_RA: Int[Array, "R A"],
    samples: int,
) -> Float[Array, "R A"]:
    """The sum or mean of `x_RA` (0 at padding) over each token's sample, at every token of it."""
    totals_RB = _segment_sum(x_RA, sample_RA, samples)
    if how == "sequence_mean":
        lengths_RB = _segment_sum(valid_RA.astype(x_RA.dtype), sample_RA, samples)
        totals_RB /= jnp.maximum(lengths_RB, 1)
    return jnp.take_along_axis(totals_RB, sample_RA, axis=1)


def _segment_sum(
    x_RA: Float[Array, "R A"], sample_RA: Int[Array, "R A"], samples: int
) -> Float[Array, "R B"]:
    return jax.vmap(functools.partial(jax.ops.segment_sum, num_segments=samples))(x_RA, sample_RA)


def _kl(drift_RA: Float[Array, "R A"], estimator: KlEstimator) -> Float[Array, "R A"]:
    """Schulman's estimators of KL(pi || pi_0) from drift = log pi - log pi_0."""
    if estimator == "k1":
        return drift_RA
    if estimator == "k2":
        return 0.5 * jnp.square(drift_RA)
    return _exp(-drift_RA) - 1 + drift_RA


def _exp(x_RA: Float[Array, "R A"]) -> Float[Array, "R A"]:
    return jnp.exp(jnp.clip(x_RA, -MAX_LOG_RATIO, MAX_LOG_RATIO))
