"""Prefill of trunks, more tokens behind them, one decode step for all branches that leave them."""

import operator
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.backend import on_mesh
from kernels.tree_attention import tree_attention
from kernels.tree_decode import TRUNK_K, TRUNK_V, append, tree_decode
from pivotrl_jax.models.config import ModelConfig
from pivotrl_jax.models.experts import likeliest, recording
from pivotrl_jax.models.params import LayerParams, Params
from pivotrl_jax.models.transformer import LayerKind, embedded, final_hidden, layer, layer_kinds
from pivotrl_jax.parallel.sharding import Axes, constrain, unmerged
from pivotrl_jax.trees.tree import causal


@flax.struct.dataclass
class LayerCache:
    """Keys and values of one layer: of trunks [R, H, E, L] and [R, H, L, E], of branches
    [R, B, H, E, S] and [R, B, H, S, E]."""

    k: jax.Array
    v: jax.Array


Layers = list[LayerParams]
Cache = list[LayerCache]
# Of pieces of trunks [Q, N, H, ...].
PIECES: Axes = ("rows", None, "kv_heads")


def unstack(stacked: Any, layers: int) -> list[Any]:
    """One tree per layer. Done outside the decode loop: inside, XLA would copy every slice at
    every token (SkyRL PR 1363 measured 1.65x)."""
    return [jax.tree.map(operator.itemgetter(i), stacked) for i in range(layers)]


def prefill(
    params: Params, cfg: ModelConfig, tokens_RL: Int[Array, "R L"], *, routes: bool = False
) -> tuple[Float[Array, "R L D"], Cache, Int[Array, "R L N J"] | None]:
    """Final normed hidden states of causal trunks, and their keys and values.

    With `routes` also the experts that every token went through; the model must have some.
    """
    tree = causal(tokens_RL)
    x = embedded(params, cfg, tokens_RL)

    def body(
        x: jax.Array, own: tuple[LayerParams, LayerKind]
    ) -> tuple[jax.Array, tuple[LayerCache, list[jax.Array]]]:
        p, kind = own
        kept: list[LayerCache] = []
        chosen: list[jax.Array] = []
        pick = recording(chosen) if routes else likeliest

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, sinks: jax.Array | None) -> jax.Array:
            # As the decode step multiplies them: it then reads both without a transpose.
            kept.append(LayerCache(k.transpose(0, 2, 3, 1), v.swapaxes(1, 2)))
            return tree_attention(q, k, v, tree, kind.window, sinks)

        x = layer(p, cfg, x, tree.positions, kind.freqs, attend, pick)
        cache = LayerCache(constrain(kept[0].k, *TRUNK_K), constrain(kept[0].v, *TRUNK_V))
        return constrain(x, "rows", "places", None), (cache, chosen)

    x, (stacked, chosen) = jax.lax.scan(body, x, (params.layers, layer_kinds(cfg)))
    routes_RLNJ = None
    if routes:
        own = [unmerged(layer_TJ, tokens_RL.shape) for layer_TJ in chosen[0]]
        routes_RLNJ = jnp.stack(own, axis=2)
    return final_hidden(params, cfg, x), unstack(stacked, cfg.layers), routes_RLNJ


def trunk_cache(cfg: ModelConfig, rows: int, length: int) -> Cache:
    """Room for the keys and values of trunks of `length` tokens."""

    def empty(axes: Axes, *shape: int) -> jax.Array:
        return constrain(jnp.zeros((rows, cfg.kv_heads, *shape), cfg.operand_dtype), *axes)

    return [
        LayerCache(empty(TRUNK_K, cfg.head_dim, length), empty(TRUNK_V, length, cfg.head_dim))
        for _ in range(cfg.layers)
    ]


def branch_cache(cfg: ModelConfig, rows: int, branches: int, size: int) -> Cache:
    """Empty caches for `size` tokens of every branch."""

    def empty(*shape: int) -> jax.Array:
        # Not `operand_dtype`: XLA:CPU writes into bfloat16 by way of float32, at every token all.
        zeros = jnp.zeros((rows, branches, cfg.kv_heads, *shape), cfg.dtype)
        return constrain(zeros, "rows", "places", "kv_heads", None, None)

    return [
        LayerCache(empty(cfg.head_dim, size), empty(size, cfg.head_dim)) for _ in range(cfg.layers)
    ]


def extend(
    params: Params,
    layers: Layers,
    cfg: ModelConfig,
    tokens_QN: Int[Array, "Q N"],
    rows_Q: Int[Array, "Q"],
    places_QN: Int[Array, "Q N"],
    trunk: Cache,
) -> tuple[Float[Array, "Q N D"], Cache]:
    """Reads more tokens into trunks: Q pieces of up to N tokens, each behind what its row holds.

    Piece q goes to the row `rows_Q[q]`, counted from the first on the piece's own device, its
    tokens to the consecutive places `places_QN[q]`; what lies beyond the row's room is padding.
    Pieces of one row may follow each other. Returns final normed hidden states, those of padding
    without meaning, and the grown trunks.
    """
    x = embedded(params, cfg, tokens_QN)
    # A token is a slot of its row: it sees the trunk before its place, and itself.
    start_QN = jnp.where(places_QN < trunk[0].v.shape[2], places_QN, 0)
    kinds = unstack(layer_kinds(cfg), cfg.layers)
    grown: Cache = []

    def attend(
        index: int, q: jax.Array, k: jax.Array, v: jax.Array, sinks: jax.Array | None
    ) -> jax.Array:
        # All pieces' keys are there before any query looks.
        grown.append(_written(trunk[index], k, v, rows_Q, places_QN))
        found = _rows(grown[-1], rows_Q)
        own = k[..., None], v[..., None, :], start_QN, jnp.zeros_like(start_QN)
        return tree_decode(q, found.k, found.v, *own, kinds[index].window, sinks)

    for index, p in enumerate(layers):
        x = layer(p, cfg, x, places_QN, kinds[index].freqs, partial(attend, index))
    return final_hidden(params, cfg, x), grown


def _written(
    trunk: LayerCache,
    k_QNHE: Float[Array, "Q N H E"],
    v_QNHE: Float[Array, "Q N H E"],
    rows_Q: Int[Array, "Q"],
    places_QN: Int[Array, "Q N"],
) -> LayerCache:
    """The trunks with the pieces' keys and values in their places."""
    whole = trunk.v.shape[2]

    def write(k_RHEL: jax.Array, v_RHLE: jax.Array, *pieces: jax.Array) -> tuple[jax.Array, ...]:
        k_QNHE, v_QNHE, rows_Q, places_QN = pieces
        rows_Q1, places_QN = rows_Q[:, None], own_places(places_QN, v_RHLE.shape[2], whole)
        k_RHEL = k_RHEL.at[rows_Q1, :, :, places_QN].set(k_QNHE, mode="drop")
        return k_RHEL, v_RHLE.at[rows_Q1, :, places_QN].set(v_QNHE, mode="drop")

    axes = (TRUNK_K, TRUNK_V, PIECES, PIECES, PIECES[:1], PIECES[:1])
    run = on_mesh(write, axes, results=((0, TRUNK_K), (1, TRUNK_V)))
    return LayerCache(*run(trunk.k, trunk.v, k_QNHE, v_QNHE, rows_Q, places_QN))


def own_places(places_QN: Int[Array, "Q N"], own: int, whole: int) -> Int[Array, "Q N"]:
    """Under `shard_map`, places of a row of `whole` as this device, which has `own`, counts them.

    Those of other devices are `own`, beyond all that it has: negative ones would count from its
    end.
    """
    if own < whole:
        places_QN = places_QN - jax.lax.axis_index("context") * own
    return jnp.where(places_QN < 0, own, places_QN)


def _rows(trunk: LayerCache, rows_Q: Int[Array, "Q"]) -> LayerCache:
    """The trunk of every piece."""

    def take(x: jax.Array, axes: Axes) -> jax.Array:
        return on_mesh(lambda x, rows: x[rows], (axes, PIECES[:1]))(x, rows_Q)

    return LayerCache(take(trunk.k, TRUNK_K), take(trunk.v, TRUNK_V))


def decode_step(
    params: Params,
    layers: Layers,
    cfg: ModelConfig,
    tokens_RB: Int[Array, "R B"],
    step_RB: Int[Array, "R B"],
    start_RB: Int[Array, "R B"],
    trunk: Cache,
    own: Cache,
    *,
    routes: bool = False,
) -> tuple[Float[Array, "R B D"], Cache, Int[Array, "R B N J"] | None]:
    """Feeds token number `step` of every branch; returns final hidden states and grown caches.

    With `routes` also the experts that the tokens went through; the model must have some.
    """
    x = embedded(params, cfg, tokens_RB)
    kinds = unstack(layer_kinds(cfg), cfg.layers)
    grown: Cache = []
    chosen: list[jax.Array] = []
    pick = recording(chosen) if routes else likeliest

    def attend(
        index: int, q: jax.Array, k: jax.Array, v: jax.Array, sinks: jax.Array | None
    ) -> jax.Array:
        k, v = (x.astype(cfg.dtype) for x in (k, v))
        k, v = append(own[index].k, own[index].v, k, v, step_RB)
        grown.append(LayerCache(k, v))
        of_trunk, window = trunk[index], kinds[index].window
        return tree_decode(q, of_trunk.k, of_trunk.v, k, v, start_RB, step_RB, window, sinks)

    for index, p in enumerate(layers):
        x = layer(p, cfg, x, start_RB + step_RB, kinds[index].freqs, partial(attend, index), pick)
    routes_RBNJ = None
    if routes:
        routes_RBNJ = jnp.stack([unmerged(own, tokens_RB.shape) for own in chosen], axis=2)
    return final_hidden(params, cfg, x), grown, routes_RBNJ
