"""Attention to some of the keys, and how such parts make the softmax over all of them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from kernels.tree_attention import MASKED


class Partial(NamedTuple):
    """Attention to some of the keys, float32: two of these make the softmax over both."""

    largest: Float[Array, "*B Q 1"]  # score
    total: Float[Array, "*B Q 1"]  # of the exponentials of scores less the largest
    out: Float[Array, "*B Q E"]  # sum of the values, not yet divided by the total


# From queries [R, H, Q, E], a trunk's keys [R, H, E, L] and values [R, H, L, E], and the tokens
# [R, Q, 2] that every query sees.
AttendTrunk = Callable[[Array, Array, Array, Array], Partial]


class Whole(NamedTuple):
    """Slots of a row and tokens of its trunk, of which a device may have a part."""

    slots: int
    trunk: int


def tree_decode(
    attend_trunk: AttendTrunk,
    q_RBHGE: Float[Array, "R B H G E"],
    trunk_k_RHEL: Float[Array, "R H E L"],
    trunk_v_RHLE: Float[Array, "R H L E"],
    own_k_RBHES: Float[Array, "R B H E S"],
    own_v_RBHSE: Float[Array, "R B H S E"],
    start_RB: Int[Array, "R B"],
    step_RB: Int[Array, "R B"],
    first_RB: Int[Array, "R B"],
    sinks_HG: Float[Array, "H G"] | None = None,
    *,
    whole: Whole | None,
) -> Float[Array, "R B H G E"]:
    """As `reference.tree_decode`; one read of the trunk serves all slots.

    Under `shard_map` over the mesh axis `context` of a `whole`, the trunk and the slots are this
    device's. Every device then attends to its part of the trunk for the slots of all, and what they
    find is merged by its log-sum-exps; the slots' own tokens never leave theirs.
    """
    slots, length = q_RBHGE.shape[1], trunk_v_RHLE.shape[2]
    whole = whole or Whole(slots, length)
    asking = (q_RBHGE, start_RB, first_RB)
    if length < whole.trunk and slots < whole.slots:
        asking = tuple(lax.all_gather(x, "context", axis=1, tiled=True) for x in asking)
    q_all, start_all, first_all = asking
    runs_RQ2 = runs(start_all, first_all, q_RBHGE.shape[3])
    if length < whole.trunk:
        runs_RQ2 = jnp.clip(runs_RQ2 - lax.axis_index("context") * length, 0, length)
    on_trunk = attend_trunk(together(q_all), trunk_k_RHEL, trunk_v_RHLE, runs_RQ2)
    if length < whole.trunk:
        on_trunk = _of_all_devices(on_trunk, scattered=slots < whole.slots)
    own = q_RBHGE, own_k_RBHES, own_v_RBHSE, first_RB - start_RB, step_RB
    found = _with_own(on_trunk, *own)
    if sinks_HG is not None:
        sinks = sinks_HG[..., None].astype(jnp.float32)
        found = both(found, Partial(sinks, jnp.ones_like(sinks), jnp.zeros_like(sinks)))
    return (found.out / found.total).astype(q_RBHGE.dtype)


def _of_all_devices(own: Partial, *, scattered: bool) -> Partial:
    """Attention to the keys of all devices; `scattered`, of a device's own queries."""
    largest = lax.pmax(own.largest, "context")
    scale = jnp.exp(own.largest - largest)

    def summed(x: jax.Array) -> jax.Array:
        if scattered:
            return lax.psum_scatter(x, "context", scatter_dimension=2, tiled=True)
        return lax.psum(x, "context")

    total, out = summed(scale * own.total), summed(scale * own.out)
    at = lax.axis_index("context") * total.shape[2] if scattered else 0
    return Partial(lax.dynamic_slice_in_dim(largest, at, total.shape[2], axis=2), total, out)


def together(q_RBHGE: Float[Array, "R B H G E"]) -> Float[Array, "R H Q E"]:
    """The queries of all slots as Q = B * G rows per key head."""
    rows, slots, heads, groups, width = q_RBHGE.shape
    return q_RBHGE.swapaxes(1, 2).reshape(rows, heads, slots * groups, width)


def runs(
    start_RB: Int[Array, "R B"], first_RB: Int[Array, "R B"], groups: int
) -> Int[Array, "R Q 2"]:
    """The trunk tokens [first, start) that every query of `together` sees."""
    return jnp.repeat(jnp.stack([first_RB, start_RB], axis=-1), groups, axis=1)


def within(place_T: Int[Array, "T"], runs_Q2: Int[Array, "*R Q 2"]) -> Bool[Array, "*R Q T"]:
    return (place_T >= runs_Q2[..., :1]) & (place_T < runs_Q2[..., 1:])


def _with_own(
    on_trunk: Partial,
    q_RBHGE: Float[Array, "R B H G E"],
    own_k_RBHES: Float[Array, "R B H E S"],
    own_v_RBHSE: Float[Array, "R B H S E"],
    first_RB: Int[Array, "R B"],
    step_RB: Int[Array, "R B"],
) -> Partial:
    """Attention of the queries `together` to the trunk, and then each slot's to its own tokens.

    Of these it sees those from number `first` to number `step`.
    """
    rows, slots, heads, groups, _ = q_RBHGE.shape
    own_RB12 = jnp.stack([first_RB, step_RB + 1], axis=-1)[:, :, None]
    seen = within(jnp.arange(own_v_RBHSE.shape[3]), jnp.repeat(own_RB12, heads, axis=1))
    seen = seen.reshape(-1, 1, seen.shape[-1])
    on_own = attend(_merge(q_RBHGE), _merge(own_k_RBHES), _merge(own_v_RBHSE), seen)

    def from_trunk(x: jax.Array) -> jax.Array:
        return x.reshape(rows, heads, slots, groups, -1).swapaxes(1, 2)

    of_trunk = jax.tree.map(from_trunk, on_trunk)
    of_own = jax.tree.map(lambda x: x.reshape(*q_RBHGE.shape[:4], -1), on_own)
    return both(of_trunk, of_own)


def attend(
    q: Float[Array, "*B Q E"],
    k: Float[Array, "*B E T"],
    v: Float[Array, "*B T E"],
    mask: Bool[Array, "*#B #Q T"],
) -> Partial:
    to_f32 = {"preferred_element_type": jnp.float32}
    scores = jnp.einsum("...qe,...ek->...qk", q, k, **to_f32) * q.shape[-1] ** -0.5
    scores = jnp.where(mask, scores, MASKED)
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    out = jnp.einsum("...qk,...ke->...qe", weights.astype(v.dtype), v, **to_f32)
    return Partial(largest, weights.sum(axis=-1, keepdims=True), out)


def both(a: Partial, b: Partial) -> Partial:
    """Attention to the keys of `a` and of `b`."""
    largest = jnp.maximum(a.largest, b.largest)
    scale_a, scale_b = jnp.exp(a.largest - largest), jnp.exp(b.largest - largest)
    return Partial(
        largest, scale_a * a.total + scale_b * b.total, scale_a * a.out + scale_b * b.out
    )


def _merge(x: jax.Array) -> jax.Array:
    """[R, B, H, ...] to one batch axis: XLA:CPU is three times slower with several."""
    return x.reshape(-1, *x.shape[3:])
