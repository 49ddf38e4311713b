"""Supervised fine-tuning on expert actions: the warm start, and the baseline of the report."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float


@flax.struct.dataclass
class SupervisedStats:
    """Sums over valid tokens, so that micro-batches combine by addition.

    `hits` sums the label's probability: how many tokens a draw from the policy would get right.
    """

    tokens: Float[Array, ""]
    nll: Float[Array, ""]
    hits: Float[Array, ""]


def supervised_loss(
    logp_RA: Float[Array, "R A"], weight_RA: Float[Array, "R A"], normaliser: Float[Array, ""]
) -> tuple[Float[Array, ""], SupervisedStats]:
    """-log pi(a* | s) summed over weighted tokens, over `normaliser`: the batch's total weight.

    Tokens of weight 0 are padding and may hold anything.
    """
    logp_RA = jnp.where(weight_RA > 0, logp_RA, 0)
    nll = -jnp.sum(weight_RA * logp_RA)
    hits = jnp.sum(weight_RA * jnp.exp(logp_RA))
    return nll / jnp.maximum(normaliser, 1), SupervisedStats(jnp.sum(weight_RA), nll, hits)
