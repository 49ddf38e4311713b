"""The dense form: what the other implementations are tested against."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pivotrl_jax.trees import TokenTree, visible

# Finite, because (-inf) - (-inf) is NaN.
MASKED = -1e30


def tree_attention(
    q_RTHGE: Float[Array, "R T H G E"],
    k_RTHE: Float[Array, "R T H E"],
    v_RTHE: Float[Array, "R T H E"],
    tree: TokenTree,
    window: Int[Array, ""] | None = None,
    sinks_HG: Float[Array, "H G"] | None = None,
) -> Float[Array, "R T H G E"]:
    """Materialises the scores [R, H, G, T, T] and lets JAX differentiate them."""
    length, width = q_RTHGE.shape[1], q_RTHGE.shape[-1]
    f32 = {"preferred_element_type": jnp.float32}
    scores = jnp.einsum("rqhge,rkhe->rhgqk", q_RTHGE, k_RTHE, **f32) * width**-0.5
    mask_RQK = visible(tree, slice(0, length), np.arange(length), window)
    scores = jnp.where(mask_RQK[:, None, None], scores, MASKED)
    probs = softmax(scores, None if sinks_HG is None else sinks_HG[..., None])
    return jnp.einsum("rhgqk,rkhe->rqhge", probs.astype(v_RTHE.dtype), v_RTHE)


def softmax(scores: Float[Array, "*B T"], sinks: Float[Array, "*#B"] | None) -> jax.Array:
    """Of the last axis. A sink takes part in each, and what it gets is left out."""
    if sinks is None:
        return jax.nn.softmax(scores, axis=-1)
    sinks = jnp.broadcast_to(sinks, scores.shape[:-1]).astype(scores.dtype)
    return jax.nn.softmax(jnp.append(scores, sinks[..., None], axis=-1), axis=-1)[..., :-1]
