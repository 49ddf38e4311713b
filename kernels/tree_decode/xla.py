"""Trunk and own tokens in plain XLA: two partial softmaxes, merged by their log-sum-exps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels.tree_attention import MASKED


class Partial(NamedTuple):
    """Attention to some of the keys, float32: two of these make the softmax over both."""

    largest: Float[Array, "*B Q 1"]  # score
    total: Float[Array, "*B Q 1"]  # of the exponentials of scores less the largest
    out: Float[Array, "*B Q E"]  # sum of the values, not yet divided by the total


def tree_decode(
    q_RBHGE: Float[Array, "R B H G E"],
    trunk_k_RHEL: Float[Array, "R H E L"],
    trunk_v_RHLE: Float[Array, "R H L E"],
    own_k_RBHES: Float[Array, "R B H E S"],
    own_v_RBHSE: Float[Array, "R B H S E"],
    start_RB: Int[Array, "R B"],
    step_RB: Int[Array, "R B"],
    first_RB: Int[Array, "R B"],
    keys: int,
) -> Float[Array, "R B H G E"]:
    """As `reference.tree_decode`; one read of the trunk serves all slots.

    The trunk is read in blocks of `keys` tokens, those that no slot of a row sees not at all; as
    one matrix product where a block would hold it whole.
    """
    q_RHQE, runs_RQ2 = together(q_RBHGE), runs(start_RB, first_RB, q_RBHGE.shape[3])
    if keys < trunk_v_RHLE.shape[2]:
        on_trunk = _in_blocks(q_RHQE, trunk_k_RHEL, trunk_v_RHLE, runs_RQ2, keys)
    else:
        mask = _within(jnp.arange(trunk_v_RHLE.shape[2]), runs_RQ2)
        on_trunk = _attend(q_RHQE, trunk_k_RHEL, trunk_v_RHLE, mask[:, None])
    own = (own_k_RBHES, own_v_RBHSE, first_RB - start_RB, step_RB)
    return with_own(on_trunk, q_RBHGE, *own)


def together(q_RBHGE: Float[Array, "R B H G E"]) -> Float[Array, "R H Q E"]:
    """The queries of all slots as Q = B * G rows per key head."""
    rows, slots, heads, groups, width = q_RBHGE.shape
    return q_RBHGE.swapaxes(1, 2).reshape(rows, heads, slots * groups, width)


def runs(
    start_RB: Int[Array, "R B"], first_RB: Int[Array, "R B"], groups: int
) -> Int[Array, "R Q 2"]:
    """The trunk tokens [first, start) that every query of `together` sees."""
    return jnp.repeat(jnp.stack([first_RB, start_RB], axis=-1), groups, axis=1)


def spans(runs_RQ2: Int[Array, "R Q 2"]) -> tuple[Int[Array, "R"], Int[Array, "R"]]:
    """From where up to where some query of a row sees the trunk; from 0 up to 0 if none does."""
    first_RQ, end_RQ = runs_RQ2[..., 0], runs_RQ2[..., 1]
    some_RQ = first_RQ < end_RQ
    end_R = jnp.where(some_RQ, end_RQ, 0).max(axis=1)
    return jnp.where(some_RQ, first_RQ, end_R[:, None]).min(axis=1), end_R


def _within(place_T: Int[Array, "T"], runs_Q2: Int[Array, "*R Q 2"]) -> Bool[Array, "*R Q T"]:
    return (place_T >= runs_Q2[..., :1]) & (place_T < runs_Q2[..., 1:])


def _in_blocks(
    q_RHQE: Float[Array, "R H Q E"],
    k_RHEL: Float[Array, "R H E L"],
    v_RHLE: Float[Array, "R H L E"],
    runs_RQ2: Int[Array, "R Q 2"],
    keys: int,
) -> Partial:
    """One block after the other: scores stay in cache, and the work follows the spans."""
    _, heads, _, width = q_RHQE.shape
    first_R, end_R = spans(runs_RQ2)
    stop_R = -(-end_R // keys)
    ends_R = jnp.cumsum(stop_R - first_R // keys)

    def add(number: jax.Array, so_far: Partial) -> Partial:
        row = jnp.sum(ends_R <= number)
        first = (number - ends_R[row] + stop_R[row]) * keys
        # The trunk's last block reaches back where it is not full.
        at = jnp.minimum(first, v_RHLE.shape[2] - keys)
        index = at + jnp.arange(keys)
        k = jax.lax.dynamic_slice(k_RHEL, (row, 0, 0, at), (1, heads, width, keys))[0]
        v = jax.lax.dynamic_slice(v_RHLE, (row, 0, at, 0), (1, heads, keys, width))[0]
        block = _attend(q_RHQE[row], k, v, (index >= first) & _within(index, runs_RQ2[row]))
        found = _both(jax.tree.map(lambda x: x[row], so_far), block)
        return jax.tree.map(lambda x, y: x.at[row].set(y), so_far, found)

    zeros = jnp.zeros((*q_RHQE.shape[:3], 1), jnp.float32)
    nothing = Partial(zeros + MASKED, zeros, jnp.zeros(q_RHQE.shape, jnp.float32))
    return jax.lax.fori_loop(0, ends_R[-1], add, nothing)


def with_own(
    on_trunk: Partial,
    q_RBHGE: Float[Array, "R B H G E"],
    own_k_RBHES: Float[Array, "R B H E S"],
    own_v_RBHSE: Float[Array, "R B H S E"],
    first_RB: Int[Array, "R B"],
    step_RB: Int[Array, "R B"],
) -> Float[Array, "R B H G E"]:
    """Attention of the queries `together` to the trunk, and then each slot's to its own tokens.

    Of these it sees those from number `first` to number `step`.
    """
    rows, slots, heads, groups, _ = q_RBHGE.shape
    own_RB12 = jnp.stack([first_RB, step_RB + 1], axis=-1)[:, :, None]
    seen = _within(jnp.arange(own_v_RBHSE.shape[3]), jnp.repeat(own_RB12, heads, axis=1))
    seen = seen.reshape(-1, 1, seen.shape[-1])
    on_own = _attend(_merge(q_RBHGE), _merge(own_k_RBHES), _merge(own_v_RBHSE), seen)

    def from_trunk(x: jax.Array) -> jax.Array:
        return x.reshape(rows, heads, slots, groups, -1).swapaxes(1, 2)

    of_trunk = jax.tree.map(from_trunk, on_trunk)
    of_own = jax.tree.map(lambda x: x.reshape(*q_RBHGE.shape[:4], -1), on_own)
    found = _both(of_trunk, of_own)
    return (found.out / found.total).astype(q_RBHGE.dtype)


def _attend(
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


def _both(a: Partial, b: Partial) -> Partial:
    """Attention to the keys of `a` and of `b`."""
    largest = jnp.maximum(a.largest, b.largest)
    scale_a, scale_b = jnp.exp(a.largest - largest), jnp.exp(b.largest - largest)
    return Partial(
        largest, scale_a * a.total + scale_b * b.total, scale_a * a.out + scale_b * b.out
    )


def _merge(x: jax.Array) -> jax.Array:
    """[R, B, H, ...] to one batch axis: XLA:CPU is three times slower with several."""
    return x.reshape(-1, *x.shape[3:])
