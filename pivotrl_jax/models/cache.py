"""Prefill of trunks and one decode step for all branches that leave them."""

import operator
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels.tree_attention import MASKED, tree_attention
from pivotrl_jax.models.config import ModelConfig
from pivotrl_jax.models.params import LayerParams, Params
from pivotrl_jax.models.transformer import layer, rms_norm
from pivotrl_jax.parallel.sharding import constrain
from pivotrl_jax.trees.tree import causal


@flax.struct.dataclass
class LayerCache:
    """Keys and values of one layer: [R, H, L, E] of trunks or [R, B, H, S, E] of branches."""

    k: jax.Array
    v: jax.Array


Layers = list[LayerParams]
Cache = list[LayerCache]


def unstack(stacked: Any, layers: int) -> list[Any]:
    """One tree per layer. Done outside the decode loop: inside, XLA would copy every slice at
    every token (SkyRL PR 1363 measured 1.65x)."""
    return [jax.tree.map(operator.itemgetter(i), stacked) for i in range(layers)]


def prefill(
    params: Params, cfg: ModelConfig, tokens_RL: Int[Array, "R L"]
) -> tuple[Float[Array, "R L D"], Cache]:
    """Final normed hidden states of causal trunks, and their keys and values."""
    tree = causal(tokens_RL)
    x = constrain(params.embed[tokens_RL], "rows", None, None)

    def body(x: jax.Array, p: LayerParams) -> tuple[jax.Array, LayerCache]:
        kept = []

        def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            # Heads before tokens: the decode step then reads both without a transpose.
            kept.append(LayerCache(k.swapaxes(1, 2), v.swapaxes(1, 2)))
            return tree_attention(q, k, v, tree)

        x = layer(p, cfg, x, tree.positions, attend)
        cache = jax.tree.map(lambda a: constrain(a, "rows", "kv_heads", None, None), kept[0])
        return constrain(x, "rows", None, None), cache

    x, stacked = jax.lax.scan(body, x, params.layers)
    return rms_norm(x, params.final_norm, cfg.norm_eps), unstack(stacked, cfg.layers)


def trunk_cache(cfg: ModelConfig, rows: int, length: int) -> Cache:
    """Room for the keys and values of trunks of `length` tokens."""
    shape = (rows, cfg.kv_heads, length, cfg.head_dim)

    def empty() -> jax.Array:
        return constrain(jnp.zeros(shape, cfg.dtype), "rows", "kv_heads", None, None)

    return [LayerCache(empty(), empty()) for _ in range(cfg.layers)]


def branch_cache(cfg: ModelConfig, rows: int, branches: int, size: int) -> Cache:
    """Empty caches for `size` tokens of every branch."""
    shape = (rows, branches, cfg.kv_heads, size, cfg.head_dim)

    def empty() -> jax.Array:
        return constrain(jnp.zeros(shape, cfg.dtype), "rows", None, "kv_heads", None, None)

    return [LayerCache(empty(), empty()) for _ in range(cfg.layers)]


def branch_attention(
    q: Float[Array, "R B H G E"],
    trunk: LayerCache,
    own: LayerCache,
    start_RB: Int[Array, "R B"],
    step_RB: Int[Array, "R B"],
) -> Float[Array, "R B H G E"]:
    """Attention of one token per branch to `trunk[:start]` and its own tokens up to `step`.

    All branches of a row read the trunk's keys and values once, as one matrix product.
    """
    rows, branches, heads, groups, width = q.shape
    together = q.swapaxes(1, 2).reshape(rows, heads, branches * groups, width)
    before = jnp.arange(trunk.k.shape[2]) < jnp.repeat(start_RB, groups, axis=1)[:, None, :, None]
    so_far = jnp.arange(own.k.shape[3]) <= jnp.repeat(step_RB, heads)[:, None, None]
    on_trunk = _partial_attention(together, trunk.k, trunk.v, before)
    on_own = _partial_attention(_merge(q), _merge(own.k), _merge(own.v), so_far)

    def from_trunk(x: jax.Array) -> jax.Array:
        return x.reshape(rows, heads, branches, groups, -1).swapaxes(1, 2)

    max_a, sum_a, out_a = map(from_trunk, on_trunk)
    max_b, sum_b, out_b = (x.reshape(*q.shape[:4], -1) for x in on_own)
    scale_a, scale_b = (jnp.exp(m - jnp.maximum(max_a, max_b)) for m in (max_a, max_b))
    out = (scale_a * out_a + scale_b * out_b) / (scale_a * sum_a + scale_b * sum_b)
    return out.astype(q.dtype)


def _partial_attention(
    q: Float[Array, "*B Q E"],
    k: Float[Array, "*B T E"],
    v: Float[Array, "*B T E"],
    mask: Bool[Array, "*#B #Q T"],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Largest score, sum of exponentials and unnormalised output [*B, Q, 1 or E], float32.

    Two parts of one softmax merge by these (log-sum-exp).
    """
    to_f32 = {"preferred_element_type": jnp.float32}
    scores = jnp.einsum("...qe,...ke->...qk", q, k, **to_f32) * q.shape[-1] ** -0.5
    scores = jnp.where(mask, scores, MASKED)
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    out = jnp.einsum("...qk,...ke->...qe", weights.astype(v.dtype), v, **to_f32)
    return largest, weights.sum(axis=-1, keepdims=True), out


def _merge(x: jax.Array) -> jax.Array:
    """[R, B, H, ...] to one batch axis: XLA:CPU is three times slower with several."""
    return x.reshape(-1, *x.shape[3:])


def decode_step(
    params: Params,
    layers: Layers,
    cfg: ModelConfig,
    tokens_RB: Int[Array, "R B"],
    step_RB: Int[Array, "R B"],
    start_RB: Int[Array, "R B"],
    trunk: Cache,
    own: Cache,
) -> tuple[Float[Array, "R B D"], Cache]:
    """Feeds token number `step` of every branch; returns final hidden states and grown caches."""
    x = constrain(params.embed[tokens_RB], "rows", None, None)
    row, branch = jnp.indices(tokens_RB.shape, sparse=True)
    grown: Cache = []

    def attend(index: int, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        cache = LayerCache(
            own[index].k.at[row, branch, :, step_RB].set(k),
            own[index].v.at[row, branch, :, step_RB].set(v),
        )
        grown.append(cache)
        return branch_attention(q, trunk[index], cache, start_RB, step_RB)

    for index, p in enumerate(layers):
        x = layer(p, cfg, x, start_RB + step_RB, partial(attend, index))
    return rms_norm(x, params.final_norm, cfg.norm_eps), grown
