"""Vocabulary blocks in plain XLA: runs on every backend and never holds a [T, V] array."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from kernels.linear_logprob.reference import LogProbs, logits

# Finite, because (-inf) - (-inf) and 0 * inf are NaN.
NEGATIVE = -1e30

Residuals = tuple[Array, Array, Array, Array, Array]


def _rows(vocab: int, block: int, i: Int[Array, ""]) -> tuple[Int[Array, "V"], Bool[Array, "V"]]:
    """The vocabulary indices of block `i`, and which of them no earlier block holds.

    The last block is moved back to end at the vocabulary's end, so it overlaps the one before.
    """
    rows_V = jnp.minimum(i * block, vocab - block) + jnp.arange(block)
    return rows_V, rows_V >= i * block


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def linear_logprob(
    hidden_TD: Float[Array, "T D"],
    head_VD: Float[Array, "V D"],
    labels_T: Int[Array, "T"],
    temperature: float,
    block: int,
) -> LogProbs:
    """As `reference.linear_logprob`, with temporary memory of a few [T, block] arrays."""
    vocab = head_VD.shape[0]
    block = min(block, vocab)

    def step(i: Int[Array, ""], carry: tuple[Array, ...]) -> tuple[Array, ...]:
        max_T, sum_T, moment_T, label_T = carry
        rows_V, fresh_V = _rows(vocab, block, i)
        weights_VD = lax.dynamic_slice_in_dim(head_VD, rows_V[0], block)
        z_TV = jnp.where(fresh_V, logits(hidden_TD, weights_VD, temperature), NEGATIVE)
        top_T = jnp.maximum(max_T, z_TV.max(axis=1))
        exp_TV = jnp.exp(z_TV - top_T[:, None])
        scale_T = jnp.exp(max_T - top_T)
        moment_T = (moment_T + (max_T - top_T) * sum_T) * scale_T
        return (
            top_T,
            sum_T * scale_T + exp_TV.sum(axis=1),
            moment_T + jnp.sum(exp_TV * (z_TV - top_T[:, None]), axis=1),
            label_T + jnp.sum(jnp.where(fresh_V & (rows_V == labels_T[:, None]), z_TV, 0), axis=1),
        )

    zero_T = jnp.zeros(hidden_TD.shape[:1], jnp.float32)
    carry = (jnp.full_like(zero_T, NEGATIVE), zero_T, zero_T, zero_T)
    max_T, sum_T, moment_T, label_T = lax.fori_loop(0, math.ceil(vocab / block), step, carry)
    lse_T = max_T + jnp.log(sum_T)
    return LogProbs(label_T - lse_T, lse_T, jnp.log(sum_T) - moment_T / sum_T)


def _forward(
    hidden_TD: Float[Array, "T D"],
    head_VD: Float[Array, "V D"],
    labels_T: Int[Array, "T"],
    temperature: float,
    block: int,
) -> tuple[LogProbs, Residuals]:
    out = linear_logprob(hidden_TD, head_VD, labels_T, temperature, block)
    return out, (hidden_TD, head_VD, labels_T, out.lse_T, out.entropy_T)


def _backward(
    temperature: float, block: int, residuals: Residuals, cotangents: LogProbs
) -> tuple[Float[Array, "T D"], Float[Array, "V D"], None]:
    """Recomputes the logits block by block and writes each block of the head's gradient in place.

    With p the softmax and H the entropy, dlogp/dz = onehot - p, dlse/dz = p and
    dH/dz = -p (z - lse + H).
    """
    hidden_TD, head_VD, labels_T, lse_T, entropy_T = residuals
    vocab = head_VD.shape[0]
    block = min(block, vocab)
    d_logp_T1, d_lse_T1, d_entropy_T1 = (g_T[:, None] for g_T in cotangents)

    def step(i: Int[Array, ""], carry: tuple[Array, Array]) -> tuple[Array, Array]:
        d_hidden_TD, d_head_VD = carry
        rows_V, fresh_V = _rows(vocab, block, i)
        weights_VD = lax.dynamic_slice_in_dim(head_VD, rows_V[0], block)
        logp_TV = logits(hidden_TD, weights_VD, temperature) - lse_T[:, None]
        d_z_TV = jnp.exp(logp_TV) * (
            d_lse_T1 - d_logp_T1 - d_entropy_T1 * (logp_TV + entropy_T[:, None])
        )
        d_z_TV += jnp.where(rows_V == labels_T[:, None], d_logp_T1, 0)
        d_z_TV = (d_z_TV / temperature).astype(hidden_TD.dtype)
        # Overlapped rows have given to d_hidden already; in d_head they are rewritten unchanged.
        fresh_VD = jnp.where(fresh_V[:, None], weights_VD, 0)
        d_hidden_TD += jnp.einsum("TV,VD->TD", d_z_TV, fresh_VD, preferred_element_type=jnp.float32)
        d_block_VD = jnp.einsum("TV,TD->VD", d_z_TV, hidden_TD, preferred_element_type=jnp.float32)
        return d_hidden_TD, lax.dynamic_update_slice_in_dim(
            d_head_VD, d_block_VD.astype(d_head_VD.dtype), rows_V[0], axis=0
        )

    zeros = (jnp.zeros(hidden_TD.shape, jnp.float32), jnp.zeros_like(head_VD))
    d_hidden_TD, d_head_VD = lax.fori_loop(0, math.ceil(vocab / block), step, zeros)
    return d_hidden_TD.astype(hidden_TD.dtype), d_head_VD, None


linear_logprob.defvjp(_forward, _backward)
