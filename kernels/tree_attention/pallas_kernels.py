"""The three kernels of tree attention: outputs, gradients of queries, gradients of keys and values.

Queries lie on the 128 lanes: scores are [keys, queries], and what there is one of per query is a
row. As a column it would be padded to 128. All G query heads of a key head share its blocks.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float

from kernels.tree_attention.reference import MASKED


def attend(
    count_ref: jax.Ref,
    order_ref: jax.Ref,
    sights_ref: jax.Ref,
    q_ref: jax.Ref,
    k_ref: jax.Ref,
    v_ref: jax.Ref,
    out_ref: jax.Ref,
    lse_ref: jax.Ref,
    max_ref: jax.Ref,
    sum_ref: jax.Ref,
    acc_ref: jax.Ref,
) -> None:
    """Adds one block of keys to the running softmax of a block of queries."""
    row, query_block, visit = (pl.program_id(axis) for axis in (0, 2, 3))
    last = pl.num_programs(3) - 1

    @pl.when(visit == 0)
    def _() -> None:
        max_ref[...] = jnp.full_like(max_ref, MASKED)
        sum_ref[...] = jnp.zeros_like(sum_ref)
        acc_ref[...] = jnp.zeros_like(acc_ref)

    @pl.when(visit < count_ref[row, query_block])
    def _() -> None:
        key_block = order_ref[row, query_block, visit]
        mask = _mask(sights_ref, key_block, keys=k_ref.shape[0])
        for g in range(q_ref.shape[0]):
            own = slice(g, g + 1)
            scores = jnp.where(mask, _scores(k_ref, q_ref, g), MASKED)
            largest = jnp.maximum(max_ref[own, :], scores.max(axis=0, keepdims=True))
            # A query that has seen nothing yet sums up ones; its first key scales them to zero.
            weights, scale = jnp.exp2(scores - largest), jnp.exp2(max_ref[own, :] - largest)
            max_ref[own, :] = largest
            sum_ref[own, :] = scale * sum_ref[own, :] + weights.sum(axis=0, keepdims=True)
            out = _dot(v_ref[...], weights.astype(v_ref.dtype), (0, 0))
            acc_ref[g] = scale * acc_ref[g] + out

    @pl.when(visit == last)
    def _() -> None:
        lse_ref[...] = max_ref[...] * math.log(2) + jnp.log(sum_ref[...])
        for g in range(q_ref.shape[0]):
            out_ref[g] = (acc_ref[g] / sum_ref[g : g + 1, :]).astype(out_ref.dtype)


def differentiate_queries(
    count_ref: jax.Ref, order_ref: jax.Ref, sights_ref: jax.Ref, *refs: jax.Ref
) -> None:
    """Adds what one block of keys gives to the gradient of a block of queries."""
    *operands, d_q_ref = refs
    k_ref = operands[1]
    row, query_block, visit = (pl.program_id(axis) for axis in (0, 2, 3))

    @pl.when(visit == 0)
    def _() -> None:
        d_q_ref[...] = jnp.zeros_like(d_q_ref)

    @pl.when(visit < count_ref[row, query_block])
    def _() -> None:
        key_block = order_ref[row, query_block, visit]
        mask = _mask(sights_ref, key_block, keys=k_ref.shape[0])
        for g in range(d_q_ref.shape[0]):
            _, d_scores = _probs_and_d_scores(g, mask, *operands)
            d_q_ref[g] += _dot(k_ref[...], d_scores, (0, 0))


def differentiate_keys(
    count_ref: jax.Ref, order_ref: jax.Ref, sights_ref: jax.Ref, *refs: jax.Ref
) -> None:
    """Adds what one block of queries gives to the gradients of a block of keys and values."""
    *operands, d_k_ref, d_v_ref = refs
    q_ref, d_out_ref = operands[0], operands[3]
    row, key_block, visit = (pl.program_id(axis) for axis in (0, 2, 3))

    @pl.when(visit == 0)
    def _() -> None:
        d_k_ref[...] = jnp.zeros_like(d_k_ref)
        d_v_ref[...] = jnp.zeros_like(d_v_ref)

    @pl.when(visit < count_ref[row, key_block])
    def _() -> None:
        mask = _mask(sights_ref, key_block, keys=d_k_ref.shape[0])
        for g in range(q_ref.shape[0]):
            probs, d_scores = _probs_and_d_scores(g, mask, *operands)
            d_k_ref[...] += _dot(d_scores, q_ref[g], (1, 0))
            d_v_ref[...] += _dot(probs, d_out_ref[g], (1, 0))


def _probs_and_d_scores(
    g: int,
    mask: Bool[Array, "K Q"],
    q_ref: jax.Ref,
    k_ref: jax.Ref,
    v_ref: jax.Ref,
    d_out_ref: jax.Ref,
    lse_ref: jax.Ref,
    delta_ref: jax.Ref,
) -> tuple[Float[Array, "K Q"], Float[Array, "K Q"]]:
    """One query head's softmax and the gradient of its scores, in the operands' dtype."""
    own = slice(g, g + 1)
    lse = lse_ref[own, :] * math.log2(math.e)
    probs = jnp.where(mask, jnp.exp2(_scores(k_ref, q_ref, g) - lse), 0)
    d_probs = _dot(v_ref[...], d_out_ref[g], (1, 1))
    d_scores = probs * (d_probs - delta_ref[own, :])
    return probs.astype(v_ref.dtype), d_scores.astype(k_ref.dtype)


def _scores(k_ref: jax.Ref, q_ref: jax.Ref, g: int) -> Float[Array, "K Q"]:
    """One query head's scaled scores in units of log 2, which spares exp a product per score."""
    scale = q_ref.shape[-1] ** -0.5 * math.log2(math.e)
    return _dot(k_ref[...], q_ref[g], (1, 1)) * scale


def _mask(sights_ref: jax.Ref, key_block: Array, keys: int) -> Bool[Array, "K Q"]:
    shape = (keys, sights_ref.shape[1])
    key = key_block * shape[0] + lax.broadcasted_iota(jnp.int32, shape, 0)
    first, prefix, own, end = (sights_ref[i : i + 1, :] for i in range(4))
    return ((key >= first) & (key < prefix)) | ((key >= own) & (key < end))


def _dot(x: Array, y: Array, contract: tuple[int, int]) -> Array:
    """Product of two matrices over an axis of each, float32."""
    axes = ((contract[:1], contract[1:]), ((), ()))
    return lax.dot_general(x, y, axes, preferred_element_type=jnp.float32)
