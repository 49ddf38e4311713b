"""The trunk's part on TPU: keys and values stream once through VMEM, scores never leave it.

All slots' queries of a key head are one block of rows, and blocks of keys that no slot of a row
sees, before all their windows or beyond their largest start, are neither read nor multiplied. The
slots' own tokens stay with XLA: nothing is shared there that one read could serve, and few of them
are there to be read.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from kernels.tree_attention import MASKED
from kernels.tree_decode import partials
from kernels.tree_decode.partials import Partial, Whole
from kernels.tree_decode.xla import spans


def tree_decode(
    *operands: Array, keys: int, interpret: bool = False, whole: Whole | None = None
) -> Array:
    """As `partials.tree_decode`, with the trunk read in blocks of `keys` tokens."""
    attend_trunk = functools.partial(_attend_trunk, keys=keys, interpret=interpret)
    return partials.tree_decode(attend_trunk, *operands, whole=whole)


def _attend_trunk(
    q_RHQE: Float[Array, "R H Q E"],
    k_RHEL: Float[Array, "R H E L"],
    v_RHLE: Float[Array, "R H L E"],
    runs_RQ2: Int[Array, "R Q 2"],
    keys: int,
    interpret: bool,
) -> Partial:
    """Every query's attention to the keys of its run."""
    rows, heads, queries, width = q_RHQE.shape
    length = v_RHLE.shape[2]
    keys = min(keys, length)

    def of_row(r: int, h: int, i: int, block_R: Array, end_R: Array) -> tuple:
        return r, 0, 0

    def of_head(r: int, h: int, i: int, block_R: Array, end_R: Array) -> tuple:
        return r, h, 0, 0

    def seen(r: int, i: int, block_R: Array, end_R: Array) -> Array:
        # Beyond the last block that is seen stands that block again: it is not fetched twice.
        last = jnp.maximum(pl.cdiv(end_R[r], keys) - 1, 0)
        return jnp.minimum(block_R[r] + i, last)

    def of_keys(r: int, h: int, i: int, block_R: Array, end_R: Array) -> tuple:
        return r, h, 0, seen(r, i, block_R, end_R)

    def of_values(r: int, h: int, i: int, block_R: Array, end_R: Array) -> tuple:
        return r, h, seen(r, i, block_R, end_R), 0

    number, vector = (pl.BlockSpec((None, None, queries, n), of_head) for n in (1, width))
    k_block = pl.BlockSpec((None, None, width, keys), of_keys)
    v_block = pl.BlockSpec((None, None, keys, width), of_values)
    shapes = [(rows, heads, queries, n) for n in (1, 1, width)]
    first_R, end_R = spans(runs_RQ2)
    return Partial(
        *pl.pallas_call(
            _kernel,
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=2,
                grid=(rows, heads, pl.cdiv(length, keys)),
                in_specs=[pl.BlockSpec((None, queries, 2), of_row), vector, k_block, v_block],
                out_specs=[number, number, vector],
            ),
            out_shape=[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary")
            ),
            interpret=interpret,
            name="tree_decode",
        )(first_R // keys, end_R, runs_RQ2, q_RHQE, k_RHEL, v_RHLE)
    )


def _kernel(
    block_ref: jax.Ref,
    end_ref: jax.Ref,
    runs_ref: jax.Ref,
    q_ref: jax.Ref,
    k_ref: jax.Ref,
    v_ref: jax.Ref,
    max_ref: jax.Ref,
    sum_ref: jax.Ref,
    out_ref: jax.Ref,
) -> None:
    """Adds one block of keys to the running softmax that the outputs hold."""
    row, visit = pl.program_id(0), pl.program_id(2)
    first = (block_ref[row] + visit) * v_ref.shape[0]
    end = end_ref[row]

    @pl.when(visit == 0)
    def _() -> None:
        max_ref[...] = jnp.full_like(max_ref, MASKED)
        sum_ref[...] = jnp.zeros_like(sum_ref)
        out_ref[...] = jnp.zeros_like(out_ref)

    @pl.when(first < end)
    def _() -> None:
        scores = _dot(q_ref[...], k_ref[...]) * q_ref.shape[-1] ** -0.5
        index = first + lax.broadcasted_iota(jnp.int32, scores.shape, 1)
        mask = (index >= runs_ref[:, :1]) & (index < runs_ref[:, 1:])
        scores = jnp.where(mask, scores, MASKED)
        largest = jnp.maximum(max_ref[...], scores.max(axis=1, keepdims=True))
        weights, scale = jnp.exp(scores - largest), jnp.exp(max_ref[...] - largest)
        # What lies beyond the trunk's end in the last block may be NaN, and 0 * NaN is.
        token = first + lax.broadcasted_iota(jnp.int32, v_ref.shape, 0)
        values = jnp.where(token < end, v_ref[...], 0)
        max_ref[...] = largest
        sum_ref[...] = scale * sum_ref[...] + weights.sum(axis=1, keepdims=True)
        out_ref[...] = scale * out_ref[...] + _dot(weights.astype(values.dtype), values)


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.dot(x, y, preferred_element_type=jnp.float32)
