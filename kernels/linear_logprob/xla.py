"""Vocabulary blocks in plain XLA: runs on every backend and never holds a [T, V] array."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from kernels.backend import transposed_dot
from kernels.linear_logprob.partials import NEGATIVE, Partials, merge, of_block
from kernels.linear_logprob.reference import LogProbs, logits

Residuals = tuple[Array, Array, Array, Array, Array]


def _rows(vocab: int, block: int, i: Int[Array, ""]) -> tuple[Int[Array, "V"], Bool[Array, "V"]]:
    """The vocabulary indices of block `i`, and which of them no earlier block holds.

    The last block is moved back to end at the vocabulary's end, so it overlaps the one before.
    """
    rows_V = jnp.minimum(i * block, vocab - block) + jnp.arange(block)
    return rows_V, rows_V >= i * block


def partials(
    hidden_TD: Float[Array, "T D"],
    head_VD: Float[Array, "V D"],
    labels_T: Int[Array, "T"],
    temperature: float,
    soft_cap: float | None,
    block: int,
) -> Partials:
    """Partials of the whole head, with temporary memory of a few [T, block] arrays.

    Labels outside [0, V) match no row.
    """
    vocab = head_VD.shape[0]
    block = min(block, vocab)

    def step(i: Int[Array, ""], carry: Partials) -> Partials:
        rows_V, fresh_V = _rows(vocab, block, i)
        weights_VD = lax.dynamic_slice_in_dim(head_VD, rows_V[0], block)
        z_TV = logits(hidden_TD, weights_VD, temperature, soft_cap)
        z_TV = jnp.where(fresh_V, z_TV, NEGATIVE)
        hit_TV = fresh_V & (rows_V == labels_T[:, None])
        return merge(carry, of_block(z_TV, hit_TV, axis=1))

    zero_T = jnp.zeros(hidden_TD.shape[:1], jnp.float32)
    nothing = Partials(jnp.full_like(zero_T, NEGATIVE), zero_T, zero_T, zero_T)
    return lax.fori_loop(0, math.ceil(vocab / block), step, nothing)


def _slope(
    z: Float[Array, "..."], temperature: float, soft_cap: float | None
) -> Float[Array, "..."] | float:
    """The derivative of `reference.scale`, by its value: tanh' = 1 - tanh^2."""
    if soft_cap is None:
        return 1 / temperature
    return (1 - jnp.square(z * (temperature / soft_cap))) / temperature


def gradients(
    residuals: Residuals,
    cotangents: LogProbs,
    temperature: float,
    soft_cap: float | None,
    block: int,
) -> tuple[Float[Array, "T D"], Float[Array, "V D"]]:
    """Gradients of hidden states (float32) and head (its own dtype), whatever the forward form.

    `residuals` are hidden states, head, labels, log-sum-exp and entropy; the last two are those of
    the whole vocabulary when the head is a slice of it. Recomputes the logits block by block and
    writes each block of the head's gradient in place. With p the softmax and H the entropy,
    dlogp/dz = onehot - p, dlse/dz = p and dH/dz = -p (z - lse + H).
    """
    hidden_TD, head_VD, labels_T, lse_T, entropy_T = residuals
    vocab = head_VD.shape[0]
    block = min(block, vocab)
    d_logp_T1, d_lse_T1, d_entropy_T1 = (g_T[:, None] for g_T in cotangents)

    def step(i: Int[Array, ""], carry: tuple[Array, Array]) -> tuple[Array, Array]:
        d_hidden_TD, d_head_VD = carry
        rows_V, fresh_V = _rows(vocab, block, i)
        weights_VD = lax.dynamic_slice_in_dim(head_VD, rows_V[0], block)
        z_TV = logits(hidden_TD, weights_VD, temperature, soft_cap)
        logp_TV = z_TV - lse_T[:, None]
        d_z_TV = jnp.exp(logp_TV) * (
            d_lse_T1 - d_logp_T1 - d_entropy_T1 * (logp_TV + entropy_T[:, None])
        )
        d_z_TV += jnp.where(rows_V == labels_T[:, None], d_logp_T1, 0)
        d_z_TV = (d_z_TV * _slope(z_TV, temperature, soft_cap)).astype(hidden_TD.dtype)
        # Overlapped rows have given to d_hidden already; in d_head they are rewritten unchanged.
        fresh_VD = jnp.where(fresh_V[:, None], weights_VD, 0)
        d_hidden_TD += jnp.einsum("TV,VD->TD", d_z_TV, fresh_VD, preferred_element_type=jnp.float32)
        d_block_VD = transposed_dot(d_z_TV, hidden_TD)
        return d_hidden_TD, lax.dynamic_update_slice_in_dim(
            d_head_VD, d_block_VD.astype(d_head_VD.dtype), rows_V[0], axis=0
        )

    zeros = (jnp.zeros(hidden_TD.shape, jnp.float32), jnp.zeros_like(head_VD))
    return lax.fori_loop(0, math.ceil(vocab / block), step, zeros)
