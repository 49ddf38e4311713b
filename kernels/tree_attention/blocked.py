"""Attention in blocks of queries and keys: what the implementations share.

The forward pass keeps outputs and log-sum-exps, and the backward pass recomputes the scores of one
block at a time. Inside, heads come before tokens, and rows are padded to whole blocks.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from kernels.backend import on_mesh
from kernels.tree_attention.blocks import Blocks, padded
from kernels.tree_attention.sights import sights
from kernels.tree_attention.spread import collected, dealt
from pivotrl_jax.parallel.sharding import Axes, parts
from pivotrl_jax.trees import TokenTree

# What a remat policy keeps so that the backward pass need not attend again.
RESIDUALS = ("tree_attention_out", "tree_attention_lse")
# Where context is divided, a device has blocks of queries from all over its row and all keys of it.
QUERIES: Axes = ("rows", "kv_heads", None, "places")
KEYS: Axes = ("rows", "kv_heads")
SIGHTS: Axes = ("rows", None, None, "places")


class Passes(NamedTuple):
    """The two passes over blocks, on each device's own rows and heads.

    Both take queries [R, H, G, T, E], keys and values [R, H, T, E], of which there may be more,
    what each query sees [R, 1, 4, T] and the blocks, and scale the float32 scores by E^-1/2: scaled
    queries would be rounded once more. `attend` gives outputs [R, H, G, T, E] in the queries' dtype
    and log-sum-exps [R, H, G, T], float32. `differentiate` takes the gradient of the outputs, the
    log-sum-exps and delta [R, H, G, T], the row sums of dO O, before the blocks, and gives dS K,
    dS^T Q and dV, float32: with P the softmax, dV = P^T dO and dS = P (dO V^T - delta). Gradients
    of queries and keys are the first two times E^-1/2 (Dao et al. 2022).
    """

    attend: Callable[..., tuple[Array, Array]]
    differentiate: Callable[..., tuple[Array, Array, Array]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def tree_attention(
    q_RTHGE: Float[Array, "R T H G E"],
    k_RTHE: Float[Array, "R T H E"],
    v_RTHE: Float[Array, "R T H E"],
    tree: TokenTree,
    window: Int[Array, ""] | None,
    sinks_HG: Float[Array, "H G"] | None,
    passes: Passes,
    blocks: Blocks,
) -> Float[Array, "R T H G E"]:
    """As `reference.tree_attention`, with one block of scores in memory at a time."""
    return _forward(q_RTHGE, k_RTHE, v_RTHE, tree, window, sinks_HG, passes, blocks)[0]


def _forward(
    q_RTHGE: Float[Array, "R T H G E"],
    k_RTHE: Float[Array, "R T H E"],
    v_RTHE: Float[Array, "R T H E"],
    tree: TokenTree,
    window: Int[Array, ""] | None,
    sinks_HG: Float[Array, "H G"] | None,
    passes: Passes,
    blocks: Blocks,
) -> tuple[Float[Array, "R T H G E"], tuple]:
    operands = _operands(q_RTHGE, k_RTHE, v_RTHE, tree, window, blocks)
    attend = functools.partial(passes.attend, blocks=blocks)
    out_RHGTE, lse_RHGT = on_mesh(attend, (QUERIES, KEYS, KEYS, SIGHTS))(*operands)
    out_RHGTE, lse_RHGT = _with_sinks(out_RHGTE, lse_RHGT, sinks_HG)
    out_RTHGE = _tokens_second(collected(out_RHGTE, QUERIES, blocks.queries), q_RTHGE.shape[1])
    out_RTHGE = checkpoint_name(out_RTHGE, RESIDUALS[0])
    lse_RHGT = checkpoint_name(lse_RHGT, RESIDUALS[1])
    return out_RTHGE, (q_RTHGE, k_RTHE, v_RTHE, tree, window, sinks_HG, out_RTHGE, lse_RHGT)


def _with_sinks(
    out_RHGTE: Float[Array, "R H G T E"],
    lse_RHGT: Float[Array, "R H G T"],
    sinks_HG: Float[Array, "H G"] | None,
) -> tuple[Array, Array]:
    """What a softmax gives that the head's sink has a part of, and its log-sum-exp.

    Both passes over blocks know a softmax by its log-sum-exp alone, so that sinks are none of
    theirs.
    """
    if sinks_HG is None:
        return out_RHGTE, lse_RHGT
    both_RHGT = jnp.logaddexp(lse_RHGT, sinks_HG[..., None].astype(jnp.float32))
    share_RHGT1 = jnp.exp(lse_RHGT - both_RHGT)[..., None]
    return (out_RHGTE.astype(jnp.float32) * share_RHGT1).astype(out_RHGTE.dtype), both_RHGT


def _backward(
    passes: Passes, blocks: Blocks, residuals: tuple, d_out_RTHGE: Float[Array, "R T H G E"]
) -> tuple[Array, Array, Array, None, None, Array | None]:
    q_RTHGE, k_RTHE, v_RTHE, tree, window, sinks_HG, out_RTHGE, lse_RHGT = residuals
    length, size = q_RTHGE.shape[1], lse_RHGT.shape[-1]
    products = d_out_RTHGE.astype(jnp.float32) * out_RTHGE.astype(jnp.float32)
    of_queries = (
        dealt(_heads_first(x, size), QUERIES, blocks.queries)
        for x in (d_out_RTHGE, products.sum(axis=-1, keepdims=True))
    )
    d_out_RHGTE, delta_RHGT1 = of_queries
    operands = _operands(q_RTHGE, k_RTHE, v_RTHE, tree, window, blocks)
    operands += (d_out_RHGTE, lse_RHGT, delta_RHGT1[..., 0])
    run = on_mesh(
        functools.partial(_differentiate, passes, blocks),
        (QUERIES, KEYS, KEYS, SIGHTS, QUERIES, QUERIES, QUERIES),
        results=((0, QUERIES), (1, (*KEYS, "places")), (2, (*KEYS, "places"))),
    )
    d_q, d_k, d_v = run(*operands)
    scale = q_RTHGE.shape[-1] ** -0.5
    d_q = collected((d_q * scale).astype(q_RTHGE.dtype), QUERIES, blocks.queries)
    d_k, d_v = (d_k * scale).astype(k_RTHE.dtype), d_v.astype(v_RTHE.dtype)
    d_q, d_k, d_v = (_tokens_second(d, length) for d in (d_q, d_k, d_v))
    return d_q, d_k, d_v, None, None, _of_sinks(sinks_HG, lse_RHGT, delta_RHGT1[..., 0])


def _of_sinks(
    sinks_HG: Float[Array, "H G"] | None,
    lse_RHGT: Float[Array, "R H G T"],
    delta_RHGT: Float[Array, "R H G T"],
) -> Float[Array, "H G"] | None:
    """Their gradient: dS as of any score, of a value that is zero."""
    if sinks_HG is None:
        return None
    probs_RHGT = jnp.exp(sinks_HG[..., None].astype(jnp.float32) - lse_RHGT)
    return -(probs_RHGT * delta_RHGT).sum(axis=(0, 3)).astype(sinks_HG.dtype)


tree_attention.defvjp(_forward, _backward)


def _differentiate(passes: Passes, blocks: Blocks, *operands: Array) -> tuple[Array, ...]:
    """Of one device: its own queries, and its places' share of what all add to keys and values."""
    d_q, *d_kv = passes.differentiate(*operands, blocks=blocks)
    if parts("places") == 1:
        return d_q, *d_kv
    return d_q, *(lax.psum_scatter(d, "context", scatter_dimension=2, tiled=True) for d in d_kv)


def _operands(
    q_RTHGE: Float[Array, "R T H G E"],
    k_RTHE: Float[Array, "R T H E"],
    v_RTHE: Float[Array, "R T H E"],
    tree: TokenTree,
    window: Int[Array, ""] | None,
    blocks: Blocks,
) -> tuple[Array, ...]:
    """Queries, keys, values and what each query sees, padded to whole blocks."""
    size = padded(q_RTHGE.shape[1], blocks, parts("places"))
    return (
        dealt(_heads_first(q_RTHGE, size), QUERIES, blocks.queries),
        _heads_first(k_RTHE, size),
        _heads_first(v_RTHE, size),
        dealt(sights(tree, size, window), SIGHTS, blocks.queries),
    )


def _heads_first(x: Float[Array, "R T H *G E"], size: int) -> Float[Array, "R H *G T E"]:
    """Padding is part of the transposition, and spares the kernels the care of ragged ends."""
    x = jnp.moveaxis(x, 1, -2)
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, size - x.shape[-2]), (0, 0)])


def _tokens_second(x: Float[Array, "R H *G T E"], length: int) -> Float[Array, "R T H *G E"]:
    """Undoes `_heads_first`."""
    return jnp.moveaxis(x, -2, 1)[:, :length]
