"""Loops over blocks in plain XLA.

Scores of one block of queries and one of keys stay in a processor's cache, and what nobody sees is
not multiplied: other trees of the row, branches of others, and most of what is masked.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.backend import transposed_dot
from kernels.tree_attention import blocked
from kernels.tree_attention.blocks import Blocks
from kernels.tree_attention.reference import MASKED
from kernels.tree_attention.sights import seen, visits
from pivotrl_jax.trees import TokenTree

# The G query heads of a key head are rows of one matrix: Q is G times a block's queries, K are a
# block's keys.
Carry = TypeVar("Carry")
F32 = {"preferred_element_type": jnp.float32}


def tree_attention(
    q_RTHGE: Float[Array, "R T H G E"],
    k_RTHE: Float[Array, "R T H E"],
    v_RTHE: Float[Array, "R T H E"],
    tree: TokenTree,
    blocks: Blocks,
    window: Int[Array, ""] | None = None,
    sinks_HG: Float[Array, "H G"] | None = None,
) -> Float[Array, "R T H G E"]:
    """As `reference.tree_attention`."""
    passes = blocked.Passes(attend, differentiate)
    return blocked.tree_attention(q_RTHGE, k_RTHE, v_RTHE, tree, window, sinks_HG, passes, blocks)


def attend(
    q_RHGTE: Float[Array, "R H G T E"],
    k_RHTE: Float[Array, "R H T E"],
    v_RHTE: Float[Array, "R H T E"],
    sights_R14T: Int[Array, "R 1 4 T"],
    blocks: Blocks,
) -> tuple[Float[Array, "R H G T E"], Float[Array, "R H G T"]]:
    """A running softmax for one block of queries after the other (Milakov and Gimelshein 2018)."""
    count_RI, order_RIJ = visits(seen(sights_R14T, blocks, k_RHTE.shape[2]))

    def of_block(row: jax.Array, i: jax.Array, done: tuple[Array, Array]) -> tuple[Array, Array]:
        q = _block(q_RHGTE, row, i, blocks.queries)

        def visit(n: jax.Array, so_far: tuple[Array, ...]) -> tuple[Array, ...]:
            largest, total, out = so_far
            j = order_RIJ[row, i, n]
            k, v = (_block(x, row, j, blocks.keys) for x in (k_RHTE, v_RHTE))
            scores = _scores(q, k, sights_R14T[row, 0], i, j, blocks)
            # A query that has seen nothing yet sums up ones; its first key scales them to zero.
            new = jnp.maximum(largest, scores.max(axis=-1, keepdims=True))
            weights, scale = jnp.exp(scores - new), jnp.exp(largest - new)
            total = scale * total + weights.sum(axis=-1, keepdims=True)
            own = jnp.einsum("hqk,hke->hqe", weights.astype(v.dtype), v, **F32)
            return new, total, scale * out + own

        zeros = jnp.zeros((*q.shape[:2], 1), jnp.float32)
        start = (zeros + MASKED, zeros, jnp.zeros(q.shape, jnp.float32))
        largest, total, out = jax.lax.fori_loop(0, count_RI[row, i], visit, start)
        found = (out / total, largest + jnp.log(total))
        put = (_put(x, y, row, i, blocks.queries) for x, y in zip(done, found, strict=True))
        new_out, new_lse = put
        return new_out, new_lse

    # Float32 until all blocks are in: XLA:CPU puts one into bfloat16 by converting the whole.
    out_RHGTE = jnp.zeros(q_RHGTE.shape, jnp.float32)
    lse_RHGT1 = jnp.zeros((*q_RHGTE.shape[:-1], 1), jnp.float32)
    out_RHGTE, lse_RHGT1 = _each(of_block, count_RI.shape, (out_RHGTE, lse_RHGT1))
    return out_RHGTE.astype(q_RHGTE.dtype), lse_RHGT1[..., 0]


def differentiate(
    q_RHGTE: Float[Array, "R H G T E"],
    k_RHTE: Float[Array, "R H T E"],
    v_RHTE: Float[Array, "R H T E"],
    sights_R14T: Int[Array, "R 1 4 T"],
    d_out_RHGTE: Float[Array, "R H G T E"],
    lse_RHGT: Float[Array, "R H G T"],
    delta_RHGT: Float[Array, "R H G T"],
    blocks: Blocks,
) -> tuple[Float[Array, "R H G T E"], Float[Array, "R H T E"], Float[Array, "R H T E"]]:
    """Gradients of queries block by block; those of keys and values grow with every visit."""
    count_RI, order_RIJ = visits(seen(sights_R14T, blocks, k_RHTE.shape[2]))
    of_queries = (q_RHGTE, d_out_RHGTE, lse_RHGT[..., None], delta_RHGT[..., None])

    def of_block(row: jax.Array, i: jax.Array, done: tuple[Array, ...]) -> tuple[Array, ...]:
        q, d_out, lse, delta = (_block(x, row, i, blocks.queries) for x in of_queries)

        def visit(n: jax.Array, so_far: tuple[Array, ...]) -> tuple[Array, ...]:
            d_q, *d_kv = so_far
            j = order_RIJ[row, i, n]
            k, v = (_block(x, row, j, blocks.keys) for x in (k_RHTE, v_RHTE))
            probs = jnp.exp(_scores(q, k, sights_R14T[row, 0], i, j, blocks) - lse)
            d_probs = jnp.einsum("hqe,hke->hqk", d_out, v, **F32)
            d_scores = (probs * (d_probs - delta)).astype(q.dtype)
            probs = probs.astype(v.dtype)
            new = transposed_dot(d_scores, q), transposed_dot(probs, d_out)
            grown = [
                _put(x, _block(x, row, j, blocks.keys) + y, row, j, blocks.keys)
                for x, y in zip(d_kv, new, strict=True)
            ]
            return d_q + jnp.einsum("hqk,hke->hqe", d_scores, k, **F32), *grown

        d_q, *d_kv = done
        start = (jnp.zeros(q.shape, jnp.float32), *d_kv)
        own, *d_kv = jax.lax.fori_loop(0, count_RI[row, i], visit, start)
        return _put(d_q, own, row, i, blocks.queries), *d_kv

    zeros = (jnp.zeros(x.shape, jnp.float32) for x in (q_RHGTE, k_RHTE, v_RHTE))
    d_q_RHGTE, d_k_RHTE, d_v_RHTE = _each(of_block, count_RI.shape, tuple(zeros))
    return d_q_RHGTE, d_k_RHTE, d_v_RHTE


def _each(step: Callable[..., Carry], shape: tuple[int, ...], start: Carry) -> Carry:
    """`step(row, block, carry)` for all blocks of all rows."""
    rows, blocks = shape
    return jax.lax.fori_loop(
        0, rows * blocks, lambda n, carry: step(n // blocks, n % blocks, carry), start
    )


def _block(
    x: Float[Array, "R H *G T E"], row: jax.Array, number: jax.Array, size: int
) -> Float[Array, "H Q E"]:
    """Tokens `number * size` and on of a row, those of all query heads below each other."""
    block = jax.lax.dynamic_slice_in_dim(x[row], number * size, size, axis=-2)
    return block.reshape(block.shape[0], -1, block.shape[-1])


def _put(
    x: Float[Array, "R H *G T E"],
    block: Float[Array, "H Q E"],
    row: jax.Array,
    number: jax.Array,
    size: int,
) -> Float[Array, "R H *G T E"]:
    """x with that block in the place that `_block` takes it from."""
    block = block.reshape(1, *x.shape[1:-2], size, x.shape[-1]).astype(x.dtype)
    zero = jnp.zeros_like(row)
    at = (row, *[zero] * (x.ndim - 3), number * size, zero)
    return jax.lax.dynamic_update_slice(x, block, at)


def _scores(
    q: Float[Array, "H Q E"],
    k: Float[Array, "H K E"],
    sights_4T: Int[Array, "4 T"],
    i: jax.Array,
    j: jax.Array,
    blocks: Blocks,
) -> Float[Array, "H Q K"]:
    """Masked and scaled scores, float32."""
    sights = jax.lax.dynamic_slice_in_dim(sights_4T, i * blocks.queries, blocks.queries, axis=1)
    first, prefix, own, end = sights[:, :, None]
    key = j * blocks.keys + jnp.arange(blocks.keys)
    mask = ((key >= first) & (key < prefix)) | ((key >= own) & (key < end))
    mask = jnp.tile(mask, (q.shape[1] // blocks.queries, 1))
    scores = jnp.einsum("hqe,hke->hqk", q, k, **F32) * q.shape[-1] ** -0.5
    return jnp.where(mask, scores, MASKED)
