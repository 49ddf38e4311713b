"""Blocks of queries in plain XLA, with a backward pass of its own.

A block of trunk tokens reads the trunk up to its own end. A block of branch tokens reads the whole
trunk and, of the branches, only as far back as one branch reaches: the cost grows with the number
of branches, not with its square. The forward pass keeps outputs and log-sum-exps, and the backward
pass recomputes the scores of one block at a time.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from kernels.tree_attention.reference import MASKED
from pivotrl_jax.trees import Layout, TokenTree, visible

QUERY_BLOCK = 256
# What a remat policy keeps so that the backward pass need not attend again.
RESIDUALS = ("tree_attention_out", "tree_attention_lse")

# Inside, heads come before tokens, and the G query heads of a key head are rows of one matrix.
Spans = list[slice]
F32 = {"preferred_element_type": jnp.float32}


@jax.custom_vjp
def tree_attention(
    q_RTHGE: Float[Array, "R T H G E"],
    k_RTHE: Float[Array, "R T H E"],
    v_RTHE: Float[Array, "R T H E"],
    tree: TokenTree,
) -> Float[Array, "R T H G E"]:
    """As `reference.tree_attention`, with one block of scores in memory at a time."""
    return _forward(q_RTHGE, k_RTHE, v_RTHE, tree)[0]


def _blocks(layout: Layout) -> Iterator[tuple[slice, Spans]]:
    """Blocks of queries and the spans of keys that they may see."""
    for first, last in ((0, layout.trunk), (layout.trunk, layout.size)):
        for start in range(first, last, QUERY_BLOCK):
            stop = min(start + QUERY_BLOCK, last)
            if first == 0:
                yield slice(start, stop), [slice(0, stop)]
            else:
                back = max(layout.trunk, start - layout.reach)
                yield slice(start, stop), [slice(0, layout.trunk), slice(back, stop)]


def _take(x: Float[Array, "R H T E"], spans: Spans) -> Float[Array, "R H K E"]:
    return jnp.concatenate([x[:, :, span] for span in spans], axis=2)


def _add(
    total: Float[Array, "R H T E"], x: Float[Array, "R H K E"], spans: Spans
) -> Float[Array, "R H T E"]:
    """Adds to the places that `_take` took from."""
    at = 0
    for span in spans:
        n = span.stop - span.start
        total = total.at[:, :, span].add(x[:, :, at : at + n])
        at += n
    return total


def _scores(
    q: Float[Array, "R H Q E"],
    k: Float[Array, "R H K E"],
    tree: TokenTree,
    own: slice,
    spans: Spans,
) -> Float[Array, "R H Q K"]:
    """Masked scores of scaled queries, float32."""
    keys = np.concatenate([np.arange(span.start, span.stop) for span in spans])
    groups = q.shape[2] // (own.stop - own.start)
    mask = jnp.tile(visible(tree, own, keys), (1, groups, 1))[:, None]
    return jnp.where(mask, jnp.einsum("rhqe,rhke->rhqk", q, k, **F32), MASKED)


def _rows(x: Float[Array, "R H G T E"], own: slice) -> Float[Array, "R H Q E"]:
    return x[:, :, :, own].reshape(*x.shape[:2], -1, x.shape[-1])


def _forward(
    q_RTHGE: Float[Array, "R T H G E"],
    k_RTHE: Float[Array, "R T H E"],
    v_RTHE: Float[Array, "R T H E"],
    tree: TokenTree,
) -> tuple[Float[Array, "R T H G E"], tuple]:
    rows, _, heads, groups, width = q_RTHGE.shape
    q = (q_RTHGE * width**-0.5).transpose(0, 2, 3, 1, 4)
    k, v = k_RTHE.swapaxes(1, 2), v_RTHE.swapaxes(1, 2)
    outs, lses = [], []
    for own, spans in _blocks(tree.layout):
        scores = _scores(_rows(q, own), _take(k, spans), tree, own, spans)
        largest = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = weights.sum(axis=-1, keepdims=True)
        out = jnp.einsum("rhqk,rhke->rhqe", weights.astype(v.dtype), _take(v, spans), **F32) / total
        outs.append(out.astype(q.dtype).reshape(rows, heads, groups, -1, width))
        lses.append((largest + jnp.log(total)).reshape(rows, heads, groups, -1, 1))
    out = jnp.concatenate(outs, axis=3).transpose(0, 3, 1, 2, 4)
    out = checkpoint_name(out, RESIDUALS[0])
    lse = checkpoint_name(jnp.concatenate(lses, axis=3), RESIDUALS[1])
    return out, (q_RTHGE, k_RTHE, v_RTHE, tree, out, lse)


def _backward(
    residuals: tuple, d_out_RTHGE: Float[Array, "R T H G E"]
) -> tuple[Array, Array, Array, None]:
    """With P the softmax: dV = P^T dO, dS = P (dO V^T - sum(dO O)), dQ = dS K, dK = dS^T Q.

    The row sums of P dP come from outputs, over E rather than over all keys (Dao et al. 2022).
    """
    q_RTHGE, k_RTHE, v_RTHE, tree, out_RTHGE, lse = residuals
    rows, _, heads, groups, width = q_RTHGE.shape
    heads_first = (0, 2, 3, 1, 4)
    q = (q_RTHGE * width**-0.5).transpose(heads_first)
    k, v = k_RTHE.swapaxes(1, 2), v_RTHE.swapaxes(1, 2)
    d_out = d_out_RTHGE.transpose(heads_first)
    products = d_out_RTHGE.astype(jnp.float32) * out_RTHGE.astype(jnp.float32)
    delta = products.sum(axis=-1, keepdims=True).transpose(heads_first)
    d_qs, d_k, d_v = [], jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    for own, spans in _blocks(tree.layout):
        queries, d_rows = _rows(q, own), _rows(d_out, own)
        scores = _scores(queries, _take(k, spans), tree, own, spans)
        probs = jnp.exp(scores - _rows(lse, own))
        d_probs = jnp.einsum("rhqe,rhke->rhqk", d_rows, _take(v, spans), **F32)
        d_scores = (probs * (d_probs - _rows(delta, own))).astype(q.dtype)
        d_q = jnp.einsum("rhqk,rhke->rhqe", d_scores, _take(k, spans), **F32)
        d_qs.append(d_q.reshape(rows, heads, groups, -1, width))
        d_k = _add(d_k, jnp.einsum("rhqk,rhqe->rhke", d_scores, queries, **F32), spans)
        probs = probs.astype(v.dtype)
        d_v = _add(d_v, jnp.einsum("rhqk,rhqe->rhke", probs, d_rows, **F32), spans)
    d_q = (jnp.concatenate(d_qs, axis=3) * width**-0.5).transpose(0, 3, 1, 2, 4)
    return (
        d_q.astype(q.dtype),
        d_k.swapaxes(1, 2).astype(k.dtype),
        d_v.swapaxes(1, 2).astype(v.dtype),
        None,
    )


tree_attention.defvjp(_forward, _backward)
