"""The one entry point; it chooses the implementation."""

import contextlib
import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Float, Int

from kernels.backend import device
from kernels.grouped_dot import xla

# Bytes of one group's matrix.
LARGEST = 4 * 2**20


@jax.custom_vjp
def grouped_dot(
    x_ID: Float[Array, "I D"], w_XDF: Float[Array, "X D F"], sizes_X: Int[Array, "X"]
) -> Float[Array, "I F"]:
    """Each row times the matrix of its group: the first `sizes_X[0]` rows times `w_XDF[0]`, and so
    on.

    Rows behind the last group give zeros. Operands are bfloat16 or float32, and so are the result
    and the gradients; sums are float32. Differentiable in `x_ID` and `w_XDF`. On TPU it is
    `jax.lax.ragged_dot`, for which there is an instruction. Elsewhere XLA would expand that to
    products of all rows with all matrices, so that loops over groups and blocks of their rows take
    its place.
    """
    return _product(x_ID, w_XDF, sizes_X)


def _product(x_ID: jax.Array, w_XDF: jax.Array, sizes_X: jax.Array) -> jax.Array:
    return jax.lax.platform_dependent(
        x_ID, w_XDF, sizes_X, tpu=_ragged_dot, default=xla.grouped_dot
    )


def _ragged_dot(x_ID: jax.Array, w_XDF: jax.Array, sizes_X: jax.Array) -> jax.Array:
    with _tiling(x_ID, w_XDF):
        # In the dtype of the operands: a float32 result would need room before it is rounded.
        found = jax.lax.ragged_dot(x_ID, w_XDF, sizes_X)
    used = jnp.arange(len(x_ID)) < sizes_X.sum()
    return jnp.where(used[:, None], found, 0)


def _tiling(x_ID: jax.Array, w_XDF: jax.Array) -> contextlib.AbstractContextManager:
    """A whole matrix at a time, where two of them leave room in VMEM and tiles divide the rows.

    XLA's own choice for v4 and v5 is 640 of 768 columns, twice, of which 512 are for nothing.
    """
    rows = 256 if device()[1].startswith(("TPU v6", "TPU7")) else 128
    matrix = math.prod(w_XDF.shape[1:]) * w_XDF.dtype.itemsize
    if matrix > LARGEST or len(x_ID) % rows:
        return contextlib.nullcontext()
    depth, columns = w_XDF.shape[1:]
    return set_xla_metadata(ragged_dot_tiling=f"{rows},{depth},{columns}")


def _ragged_weight_gradient(x_ID: jax.Array, d_IF: jax.Array, sizes_X: jax.Array) -> jax.Array:
    """x^T d of every group: `ragged_dot` with the rows, which are grouped, summed over."""
    return jax.lax.ragged_dot_general(
        x_ID, d_IF, sizes_X, jax.lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), [0], [])
    )


def _forward(x_ID: jax.Array, w_XDF: jax.Array, sizes_X: jax.Array) -> tuple[jax.Array, tuple]:
    return _product(x_ID, w_XDF, sizes_X), (x_ID, w_XDF, sizes_X)


def _backward(kept: tuple, d_IF: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    x_ID, w_XDF, sizes_X = kept
    weight_gradient = functools.partial(
        jax.lax.platform_dependent, tpu=_ragged_weight_gradient, default=xla.weight_gradient
    )
    d_x = _product(d_IF, w_XDF.swapaxes(1, 2), sizes_X)
    return d_x, weight_gradient(x_ID, d_IF, sizes_X).astype(w_XDF.dtype), None


grouped_dot.defvjp(_forward, _backward)
