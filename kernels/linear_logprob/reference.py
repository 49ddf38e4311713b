"""The dense form: what the other implementations are tested against."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class LogProbs(NamedTuple):
    """Per token, in nats and float32; all of the distribution softmax(z) over the vocabulary.

    `logp_T` is the label's log-probability, `lse_T` the log-sum-exp of the logits z (tempered and
    capped) and `entropy_T` the entropy.
    """

    logp_T: Float[Array, "T"]
    lse_T: Float[Array, "T"]
    entropy_T: Float[Array, "T"]


def scale(
    product: Float[Array, "..."], temperature: float, soft_cap: float | None
) -> Float[Array, "..."]:
    """The logit of a product of hidden state and head row: cap * tanh(x / cap) / temperature."""
    if soft_cap is not None:
        product = soft_cap * jnp.tanh(product / soft_cap)
    return product / temperature


def logits(
    hidden_TD: Float[Array, "T D"],
    head_VD: Float[Array, "V D"],
    temperature: float,
    soft_cap: float | None = None,
) -> Float[Array, "T V"]:
    """Capped and tempered logits, float32 whatever the operands are."""
    z_TV = jnp.einsum("TD,VD->TV", hidden_TD, head_VD, preferred_element_type=jnp.float32)
    return scale(z_TV, temperature, soft_cap)


def linear_logprob(
    hidden_TD: Float[Array, "T D"],
    head_VD: Float[Array, "V D"],
    labels_T: Int[Array, "T"],
    temperature: float,
    soft_cap: float | None = None,
) -> LogProbs:
    """Materialises the [T, V] logits and lets JAX differentiate them."""
    z_TV = logits(hidden_TD, head_VD, temperature, soft_cap)
    lse_T = jax.nn.logsumexp(z_TV, axis=1)
    log_probs_TV = z_TV - lse_T[:, None]
    logp_T = jnp.take_along_axis(log_probs_TV, labels_T[:, None], axis=1)[:, 0]
    entropy_T = -jnp.sum(jnp.exp(log_probs_TV) * log_probs_TV, axis=1)
    return LogProbs(logp_T, lse_T, entropy_T)
