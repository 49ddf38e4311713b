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
    trunk_k_RHLE: Float[Array, "R H L E"],
    trunk_v_RHLE: Float[Array, "R H L E"],
    own_k_RBHSE: Float[Array, "R B H S E"],
    own_v_RBHSE: Float[Array, "R B H S E"],
    start_RB: Int[Array, "R B"],
    step_RB: Int[Array, "R B"],
) -> Float[Array, "R B H G E"]:
    """As `reference.tree_decode`; the trunk is read once for all slots, as one matrix product."""
    starts_RQ1 = repeated(start_RB, q_RBHGE.shape[3])
    before = jnp.arange(trunk_k_RHLE.shape[2]) < starts_RQ1[:, None]
    on_trunk = _attend(together(q_RBHGE), trunk_k_RHLE, trunk_v_RHLE, before)
    return with_own(on_trunk, q_RBHGE, own_k_RBHSE, own_v_RBHSE, step_RB)


def together(q_RBHGE: Float[Array, "R B H G E"]) -> Float[Array, "R H Q E"]:
    """The queries of all slots as Q = B * G rows per key head."""
    rows, slots, heads, groups, width = q_RBHGE.shape
    return q_RBHGE.swapaxes(1, 2).reshape(rows, heads, slots * groups, width)


def repeated(start_RB: Int[Array, "R B"], groups: int) -> Int[Array, "R Q 1"]:
    """A number per slot as one per query of `together`."""
    return jnp.repeat(start_RB, groups, axis=1)[:, :, None]


def with_own(
    on_trunk: Partial,
    q_RBHGE: Float[Array, "R B H G E"],
    own_k_RBHSE: Float[Array, "R B H S E"],
    own_v_RBHSE: Float[Array, "R B H S E"],
    step_RB: Int[Array, "R B"],
) -> Float[Array, "R B H G E"]:
    """Attention of the queries `together` to the trunk, and then each slot's to its own tokens."""
    rows, slots, heads, groups, _ = q_RBHGE.shape
    so_far = jnp.arange(own_k_RBHSE.shape[3]) <= jnp.repeat(step_RB, heads)[:, None, None]
    on_own = _attend(_merge(q_RBHGE), _merge(own_k_RBHSE), _merge(own_v_RBHSE), so_far)

    def from_trunk(x: jax.Array) -> jax.Array:
        return x.reshape(rows, heads, slots, groups, -1).swapaxes(1, 2)

    max_a, sum_a, out_a = map(from_trunk, on_trunk)
    max_b, sum_b, out_b = (x.reshape(*q_RBHGE.shape[:4], -1) for x in on_own)
    scale_a, scale_b = (jnp.exp(m - jnp.maximum(max_a, max_b)) for m in (max_a, max_b))
    out = (scale_a * out_a + scale_b * out_b) / (scale_a * sum_a + scale_b * sum_b)
    return out.astype(q_RBHGE.dtype)


def _attend(
    q: Float[Array, "*B Q E"],
    k: Float[Array, "*B T E"],
    v: Float[Array, "*B T E"],
    mask: Bool[Array, "*#B #Q T"],
) -> Partial:
    to_f32 = {"preferred_element_type": jnp.float32}
    scores = jnp.einsum("...qe,...ke->...qk", q, k, **to_f32) * q.shape[-1] ** -0.5
    scores = jnp.where(mask, scores, MASKED)
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    out = jnp.einsum("...qk,...ke->...qe", weights.astype(v.dtype), v, **to_f32)
    return Partial(largest, weights.sum(axis=-1, keepdims=True), out)


def _merge(x: jax.Array) -> jax.Array:
    """[R, B, H, ...] to one batch axis: XLA:CPU is three times slower with several."""
    return x.reshape(-1, *x.shape[3:])
