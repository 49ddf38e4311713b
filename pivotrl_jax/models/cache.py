"""Prefill of trunks and one decode step for all branches that leave them."""

import operator
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.tree_attention import tree_attention
from kernels.tree_decode import tree_decode
from pivotrl_jax.models.config import ModelConfig
from pivotrl_jax.models.params import LayerParams, Params
from pivotrl_jax.models.transformer import layer, rms_norm
from pivotrl_jax.parallel.sharding import constrain
from pivotrl_jax.trees.tree import causal


@flax.struct.dataclass
class LayerCache:
    """Keys and values of one layer: of trunks [R, H, E, L] and [R, H, L, E], of branches
    [R, B, H, E, S] and [R, B, H, S, E]."""

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
            # As the decode step multiplies them: it then reads both without a transpose.
            kept.append(LayerCache(k.transpose(0, 2, 3, 1), v.swapaxes(1, 2)))
            return tree_attention(q, k, v, tree)

        x = layer(p, cfg, x, tree.positions, attend)
        cache = jax.tree.map(lambda a: constrain(a, "rows", "kv_heads", None, None), kept[0])
        return constrain(x, "rows", None, None), cache

    x, stacked = jax.lax.scan(body, x, params.layers)
    return rms_norm(x, params.final_norm, cfg.norm_eps), unstack(stacked, cfg.layers)


def trunk_cache(cfg: ModelConfig, rows: int, length: int) -> Cache:
    """Room for the keys and values of trunks of `length` tokens."""

    def empty(*shape: int) -> jax.Array:
        zeros = jnp.zeros((rows, cfg.kv_heads, *shape), cfg.dtype)
        return constrain(zeros, "rows", "kv_heads", None, None)

    return [
        LayerCache(empty(cfg.head_dim, length), empty(length, cfg.head_dim))
        for _ in range(cfg.layers)
    ]


def branch_cache(cfg: ModelConfig, rows: int, branches: int, size: int) -> Cache:
    """Empty caches for `size` tokens of every branch."""

    def empty(*shape: int) -> jax.Array:
        zeros = jnp.zeros((rows, branches, cfg.kv_heads, *shape), cfg.dtype)
        return constrain(zeros, "rows", None, "kv_heads", None, None)

    return [
        LayerCache(empty(cfg.head_dim, size), empty(size, cfg.head_dim)) for _ in range(cfg.layers)
    ]


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
        k = own[index].k.at[row, branch, :, :, step_RB].set(k)
        v = own[index].v.at[row, branch, :, step_RB].set(v)
        grown.append(LayerCache(k, v))
        return tree_decode(q, trunk[index].k, trunk[index].v, k, v, start_RB, step_RB)

    for index, p in enumerate(layers):
        x = layer(p, cfg, x, start_RB + step_RB, partial(attend, index))
    return rms_norm(x, params.final_norm, cfg.norm_eps), grown
