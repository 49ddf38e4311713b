"""The composed form: what the fused one is tested against, and the types of both."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels.linear_logprob import linear_logprob
from pivotrl_jax.objectives import (
    Normalisation,
    PolicySettings,
    PolicyStats,
    advantages,
    override,
    policy_loss,
)


@flax.struct.dataclass
class ScoredTokens:
    """The action tokens of R rows; those of weight 0 are padding and may hold anything."""

    labels_RA: Int[Array, "R A"]
    weight_RA: Float[Array, "R A"]
    sample_RA: Int[Array, "R A"]  # p * K + k for sample k of the row's pivot p
    old_logp_RA: Float[Array, "R A"]  # of the policy that sampled
    ref_logp_RA: Float[Array, "R A"] | None  # of the profiled policy; None: no KL


@flax.struct.dataclass
class Groups:
    """Rewards of the K samples of each of a row's P pivots; invalid ones may hold anything."""

    reward_RPK: Float[Array, "R P K"]
    valid_RPK: Bool[Array, "R P K"]
    malformed_RPK: Bool[Array, "R P K"]


@dataclasses.dataclass(frozen=True)
class AdvantageSettings:
    """How rewards become advantages: see `objectives.advantages` and `objectives.override`."""

    normalisation: Normalisation = "std"
    std_epsilon: float = 1e-6
    min_valid: int = 2
    malformed_penalty: float | None = None


@flax.struct.dataclass
class GrpoStats:
    """`policy` as `policy_loss` has it; `entropy` sums over valid tokens."""

    policy: PolicyStats
    entropy: Float[Array, ""]


def group_advantages(groups: Groups, settings: AdvantageSettings) -> Float[Array, "R B"]:
    """One advantage per sample, B = P * K of a row."""
    rows, _, samples = groups.reward_RPK.shape
    flat = jax.tree.map(lambda x: x.reshape(-1, samples), groups)
    advantage_PK = advantages(
        flat.reward_RPK,
        flat.valid_RPK,
        normalisation=settings.normalisation,
        epsilon=settings.std_epsilon,
        min_valid=settings.min_valid,
    )
    malformed_PK = flat.malformed_RPK & flat.valid_RPK
    return override(advantage_PK, malformed_PK, settings.malformed_penalty).reshape(rows, -1)


def objective(
    logp_RA: Float[Array, "R A"],
    tokens: ScoredTokens,
    groups: Groups,
    normaliser: Float[Array, ""],
    policy: PolicySettings,
    advantage: AdvantageSettings,
) -> tuple[Float[Array, ""], PolicyStats]:
    """Eq. 7 from log-probs and rewards."""
    advantage_RB = group_advantages(groups, advantage)
    return policy_loss(
        logp_RA,
        tokens.old_logp_RA,
        tokens.ref_logp_RA,
        jnp.take_along_axis(advantage_RB, tokens.sample_RA, axis=1),
        tokens.weight_RA,
        tokens.sample_RA,
        normaliser,
        policy,
        advantage_RB.shape[1],
    )


def grpo(
    hidden_RAD: Float[Array, "R A D"],
    head_VD: Float[Array, "V D"],
    tokens: ScoredTokens,
    groups: Groups,
    normaliser: Float[Array, ""],
    policy: PolicySettings,
    advantage: AdvantageSettings,
    temperature: float,
) -> tuple[Float[Array, ""], GrpoStats]:
    """Dense log-probs, then the objective; JAX differentiates all of it."""
    rows, length, width = hidden_RAD.shape
    scores = linear_logprob(
        hidden_RAD.reshape(-1, width),
        head_VD,
        tokens.labels_RA.reshape(-1),
        temperature=temperature,
        implementation="reference",
    )
    logp_RA, entropy_RA = (x.reshape(rows, length) for x in (scores.logp_T, scores.entropy_T))
    loss, stats = objective(logp_RA, tokens, groups, normaliser, policy, advantage)
    return loss, GrpoStats(stats, jnp.sum(entropy_RA * tokens.weight_RA))
