"""The trunk's part in plain XLA, in blocks of keys or as one product."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.tree_attention import MASKED
from kernels.tree_decode import partials
from kernels.tree_decode.partials import Partial, Whole, attend, both, within


def tree_decode(*operands: Array, keys: int, whole: Whole | None = None) -> Array:
    """As `partials.tree_decode`.

    The trunk is read in blocks of `keys` tokens, those that no slot of a row sees not at all; as
    one matrix product where a block would hold it whole.
    """
    return partials.tree_decode(functools.partial(_attend_trunk, keys=keys), *operands, whole=whole)


def _attend_trunk(
    q_RHQE: Float[Array, "R H Q E"],
    k_RHEL: Float[Array, "R H E L"],
    v_RHLE: Float[Array, "R H L E"],
    runs_RQ2: Int[Array, "R Q 2"],
    keys: int,
) -> Partial:
    if keys < v_RHLE.shape[2]:
        return _in_blocks(q_RHQE, k_RHEL, v_RHLE, runs_RQ2, keys)
    mask = within(jnp.arange(v_RHLE.shape[2]), runs_RQ2)
    return attend(q_RHQE, k_RHEL, v_RHLE, mask[:, None])


def spans(runs_RQ2: Int[Array, "R Q 2"]) -> tuple[Int[Array, "R"], Int[Array, "R"]]:
    """From where up to where some query of a row sees the trunk; from 0 up to 0 if none does."""
    first_RQ, end_RQ = runs_RQ2[..., 0], runs_RQ2[..., 1]
    some_RQ = first_RQ < end_RQ
    end_R = jnp.where(some_RQ, end_RQ, 0).max(axis=1)
    return jnp.where(some_RQ, first_RQ, end_R[:, None]).min(axis=1), end_R


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
        block = attend(q_RHQE[row], k, v, (index >= first) & within(index, runs_RQ2[row]))
        found = both(jax.tree.map(lambda x: x[row], so_far), block)
        return jax.tree.map(lambda x, y: x.at[row].set(y), so_far, found)

    zeros = jnp.zeros((*q_RHQE.shape[:3], 1), jnp.float32)
    nothing = Partial(zeros + MASKED, zeros, jnp.zeros(q_RHQE.shape, jnp.float32))
    return jax.lax.fori_loop(0, ends_R[-1], add, nothing)
