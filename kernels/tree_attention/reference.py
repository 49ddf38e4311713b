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
) -> Float[Array, "R T H G E"]:
    """Materialises the scores [R, H, G, T, T] and lets JAX differentiate them."""
    length, width = q_RTHGE.shape[1], q_RTHGE.shape[-1]
    f32 = {"preferred_element_type": jnp.float32}
    scores = jnp.einsum("rqhge,rkhe->rhgqk", q_RTHGE, k_RTHE, **f32) * width**-0.5
    mask_RQK = visible(tree, slice(0, length), np.arange(length), window)
    probs = jax.nn.softmax(jnp.where(mask_RQK[:, None, None], scores, MASKED), axis=-1)
    return jnp.einsum("rhgqk,rkhe->rqhge", probs.astype(v_RTHE.dtype), v_RTHE)
