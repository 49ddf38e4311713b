"""The jitted half of the sampler: trunks resident in memory, slots that decode from them.

R trunks lie in memory with their keys and values; each has B slots, and every slot decodes one
sample. All slots of a trunk read it once per step. Slots end and start at different times: a slot
carries its own step, so that the host can refill the ended ones between chunks of steps.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels.backend import on_mesh
from kernels.tree_decode import TRUNK_K, TRUNK_V
from pivotrl_jax.models.cache import (
    LayerCache,
    decode_step,
    extend,
    own_places,
    prefill,
    unstack,
)
from pivotrl_jax.models.config import ModelConfig
from pivotrl_jax.models.lora import rounded_projections
from pivotrl_jax.models.params import LayerParams, Params, decoding_axes, head, head_logits
from pivotrl_jax.parallel.sharding import Axes, constrain, merged, parts, unmerged
from pivotrl_jax.sampling.slots import HIDDEN, Drawn, Refill, Slots
from pivotrl_jax.sampling.tokens import SamplingSettings, draw


@partial(jax.jit, static_argnames="cfg", donate_argnames="slots")
def load_trunks(
    params: Params,
    cfg: ModelConfig,
    slots: Slots,
    trunks_QL: Int[Array, "Q L"],
    rows_Q: Int[Array, "Q"],
) -> tuple[Slots, Float[Array, "Q L D"], Int[Array, "Q L N J"] | None]:
    """Prefills Q trunks, each into the row `rows_Q[q]`, counted from the first on its own device;
    one beyond the device's rows is dropped. They may be shorter than the rows have room.

    Returns their final hidden states as well, and the experts of their tokens where the slots
    record routes.
    """
    routes = slots.routes_RBSNJ is not None
    with jax.named_scope("prefill"):
        hidden_QLD, trunk, routes_QLNJ = prefill(params, cfg, trunks_QL, routes=routes)

    trunk = jax.tree.map(_as_roomy, trunk, slots.trunk)
    hidden_QLD = constrain(_as_roomy(hidden_QLD, slots.trunk_hidden_RLD), *HIDDEN)

    def put(axes: Axes, old: jax.Array, new: jax.Array) -> jax.Array:
        write = on_mesh(_set_rows, (axes, axes, ("rows",)))
        return write(old, new, rows_Q)

    caches = [
        LayerCache(put(TRUNK_K, old.k, new.k), put(TRUNK_V, old.v, new.v))
        for old, new in zip(slots.trunk, trunk, strict=True)
    ]
    hidden_RLD = put(HIDDEN, slots.trunk_hidden_RLD, hidden_QLD)
    filled = dataclasses.replace(slots, trunk=caches, trunk_hidden_RLD=hidden_RLD)
    return filled, hidden_QLD, routes_QLNJ


def _as_roomy(x: jax.Array, rows: jax.Array) -> jax.Array:
    """x with zeros behind what it holds, of as many tokens as the rows have room for."""
    room = [(0, n - m) for n, m in zip(rows.shape[1:], x.shape[1:], strict=True)]
    return jnp.pad(x, [(0, 0), *room])


def _set_rows(old: jax.Array, new: jax.Array, rows_Q: Int[Array, "Q"]) -> jax.Array:
    """Row by row: for a scatter XLA:CPU would make all of bfloat16 trunks float32, and back."""
    for row, own in zip(rows_Q, new, strict=True):
        kept = jax.lax.dynamic_index_in_dim(old, row, keepdims=False)
        own = jnp.where(row < len(old), own, kept)
        old = jax.lax.dynamic_update_index_in_dim(old, own, row, axis=0)
    return old


@partial(jax.jit, static_argnames="cfg", donate_argnames="slots")
def extend_trunks(
    params: Params,
    layers: list[LayerParams],
    cfg: ModelConfig,
    slots: Slots,
    tokens_QN: Int[Array, "Q N"],
    rows_Q: Int[Array, "Q"],
    places_QN: Int[Array, "Q N"],
) -> Slots:
    """Prefills pieces of text behind what their rows hold already, as `cache.extend` does."""
    with jax.named_scope("prefill"):
        hidden_QND, trunk = extend(params, layers, cfg, tokens_QN, rows_Q, places_QN, slots.trunk)

    hidden_RLD = slots.trunk_hidden_RLD
    whole = hidden_RLD.shape[1]

    def put(old: jax.Array, new: jax.Array, rows: jax.Array, places: jax.Array) -> jax.Array:
        places = own_places(places, old.shape[1], whole)
        return old.at[rows[:, None], places].set(new, mode="drop")

    put_on_mesh = on_mesh(put, (("rows", "places"), *[("rows",)] * 3))
    hidden_RLD = put_on_mesh(hidden_RLD, hidden_QND, rows_Q, places_QN)
    return dataclasses.replace(slots, trunk=trunk, trunk_hidden_RLD=hidden_RLD)


@partial(jax.jit, static_argnames="cfg")
def decoding_layers(params: Params, cfg: ModelConfig) -> list[LayerParams]:
    """The layers one by one: a copy, made once per run of the engine rather than per chunk, in the
    dtype that they are multiplied in.

    Experts are divided over the devices anew, where their number allows: gathered for
    every token, as for updates, they would cost more than all the rest.
    """
    stacked, mesh = rounded_projections(params.layers, cfg), jax.sharding.get_abstract_mesh()
    layers = unstack(stacked, cfg.layers)
    if cfg.experts is None or mesh.empty or cfg.experts.number % parts("spread_experts"):
        return layers
    axes = decoding_axes(cfg)

    def spread(layer: LayerParams) -> LayerParams:
        placed = jax.tree.map(lambda x, names: constrain(x, *names), layer, axes)
        return placed.replace(spread=True)

    return [spread(layer) for layer in layers]


@partial(jax.jit, static_argnames=("cfg", "settings", "ends", "steps"), donate_argnames="slots")
def advance(
    params: Params,
    layers: list[LayerParams],
    cfg: ModelConfig,
    slots: Slots,
    refill: Refill,
    settings: SamplingSettings,
    ends: tuple[int, ...],
    steps: int,
) -> Slots:
    """Refills slots, then decodes up to `steps` tokens in every running one.

    A slot stops at any of the tokens `ends`; no slot running ends the chunk. Token t of a slot is
    drawn with `fold_in(key, t)`: a sample depends on its key and history, not on its slot, its
    neighbours or the time it started. `layers` are `decoding_layers` of `params`.
    """
    slots = _refilled(slots, refill)
    head_VD = head(params, slots.hidden_RBD.dtype)

    def going(carry: tuple[jax.Array, Slots]) -> jax.Array:
        return (carry[0] < steps) & carry[1].running_RB.any()

    def step(carry: tuple[jax.Array, Slots]) -> tuple[jax.Array, Slots]:
        count, slots = carry
        with jax.named_scope("draw"):
            tokens_RB, slots = _draw(head_VD, slots, settings, ends)
        with jax.named_scope("decode"):
            hidden_RBD, own, routes_RBNJ = decode_step(
                params,
                layers,
                cfg,
                tokens_RB,
                slots.length_RB - slots.drafted_RB - 1,
                # An idle slot has no trunk to read.
                jnp.where(slots.running_RB, slots.start_RB, 0),
                slots.trunk,
                slots.own,
                routes=slots.routes_RBSNJ is not None,
            )
        slots = dataclasses.replace(_recorded(slots, routes_RBNJ), hidden_RBD=hidden_RBD, own=own)
        return count + 1, slots

    return jax.lax.while_loop(going, step, (jnp.int32(0), slots))[1]


def _refilled(slots: Slots, refill: Refill) -> Slots:
    fresh, cap = refill.fresh_RB, slots.drawn.tokens_RBS.shape[-1]
    before = jnp.maximum(refill.start_RB - 1, 0)[..., None]
    first_RBD = jnp.take_along_axis(slots.trunk_hidden_RLD, before, axis=1)
    return dataclasses.replace(
        slots,
        drawn=jax.tree.map(partial(jnp.where, fresh[..., None]), refill.drawn, slots.drawn),
        start_RB=jnp.where(fresh, refill.start_RB, slots.start_RB),
        drafted_RB=jnp.where(fresh, refill.drafted_RB, slots.drafted_RB),
        length_RB=jnp.where(fresh, refill.drafted_RB, slots.length_RB),
        # A draft may have reached the cap.
        running_RB=jnp.where(fresh, refill.drafted_RB < cap, slots.running_RB),
        hidden_RBD=jnp.where(fresh[..., None], first_RBD, slots.hidden_RBD),
        keys_RB=jnp.where(fresh, refill.keys_RB, slots.keys_RB),
    )


def _draw(
    head_VD: Float[Array, "V D"], slots: Slots, settings: SamplingSettings, ends: tuple[int, ...]
) -> tuple[Int[Array, "R B"], Slots]:
    """Draws the next token of every slot; idle slots record nothing."""
    running, length = slots.running_RB, slots.length_RB
    logits_RBV = head_logits(slots.hidden_RBD, head_VD)
    logits = merged(constrain(logits_RBV, "rows", "places", None))
    keys = jax.vmap(jax.random.fold_in)(merged(slots.keys_RB), merged(length))
    tokens, behaviour, plain = (unmerged(x, running.shape) for x in draw(keys, logits, settings))
    here = running[..., None] & (jnp.arange(settings.max_tokens) == length[..., None])
    put = lambda old, new: jnp.where(here, new[..., None], old)  # noqa: E731
    drawn = jax.tree.map(put, slots.drawn, Drawn(tokens, behaviour, plain))
    length = length + running
    running = running & ~_among(tokens, ends) & (length < settings.max_tokens)
    return tokens, dataclasses.replace(slots, drawn=drawn, length_RB=length, running_RB=running)


def _recorded(slots: Slots, routes_RBNJ: Int[Array, "R B N J"] | None) -> Slots:
    """With the experts of the tokens that were read, the last drawn ones of running slots."""
    if slots.routes_RBSNJ is None:
        return slots
    row, branch = jnp.indices(slots.length_RB.shape, sparse=True)
    # An idle slot's place is beyond its tokens.
    place_RB = jnp.where(slots.running_RB, slots.length_RB - 1, slots.routes_RBSNJ.shape[2])
    routes_RBSNJ = slots.routes_RBSNJ.at[row, branch, place_RB].set(routes_RBNJ, mode="drop")
    return dataclasses.replace(slots, routes_RBSNJ=routes_RBSNJ)


def _among(tokens_RB: Int[Array, "R B"], ends: tuple[int, ...]) -> Bool[Array, "R B"]:
    return (tokens_RB[..., None] == jnp.asarray(ends)).any(axis=-1)
