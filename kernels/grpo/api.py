"""The one entry point; it chooses the implementation."""

import functools
from typing import Literal, get_args

import jax
from jaxtyping import Array, Float, Int

from kernels.grpo import fused, reference
from kernels.grpo.reference import AdvantageSettings, Groups, GrpoStats, ScoredTokens
from kernels.linear_logprob import LogProbs, Shards, linear_logprob
from pivotrl_jax.errors import UserError
from pivotrl_jax.objectives import PolicySettings
from pivotrl_jax.parallel.sharding import merged, unmerged

Implementation = Literal["auto", "fused", "reference"]


def grpo(
    hidden_RAD: Float[Array, "R A D"],
    head_VD: Float[Array, "V D"],
    tokens: ScoredTokens,
    groups: Groups,
    normaliser: Float[Array, ""],
    policy: PolicySettings,
    advantage: AdvantageSettings,
    *,
    temperature: float = 1.0,
    shards: Shards | None = None,
    implementation: Implementation = "auto",
) -> tuple[Float[Array, ""], GrpoStats]:
    """The loss of paper eq. 7 from hidden states and rewards: advantages, ratio, clip and KL.

    `hidden_RAD` are the hidden states before the scored tokens. The log-probs come from
    `linear_logprob`, by its Pallas kernel where there is one; `shards` as it has them. `normaliser`
    is `objectives.loss_count` of the whole batch. Differentiable in `hidden_RAD` and `head_VD`
    through the loss. Raises UserError for an unknown `implementation`.
    """
    if implementation not in get_args(Implementation):
        raise UserError(
            f"grpo: no implementation {implementation!r}; use 'auto', 'fused' or 'reference'."
        )
    operands = (hidden_RAD, head_VD, tokens, groups, normaliser, policy, advantage)
    if implementation == "reference":
        return reference.grpo(*operands, temperature)
    return fused.grpo(*operands, functools.partial(score, temperature=temperature, shards=shards))


def score(
    hidden_RAD: Float[Array, "R A D"],
    head_VD: Float[Array, "V D"],
    labels_RA: Int[Array, "R A"],
    *,
    temperature: float = 1.0,
    shards: Shards | None = None,
) -> LogProbs:
    """`linear_logprob` of rows of tokens: log-prob, log-sum-exp and entropy [R, A]."""
    with jax.named_scope("logprob"):
        flat = linear_logprob(
            merged(hidden_RAD),
            head_VD,
            merged(labels_RA),
            temperature=temperature,
            shards=shards,
        )
    return jax.tree.map(lambda x: unmerged(x, labels_RA.shape), flat)
