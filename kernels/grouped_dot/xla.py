"""Loops over groups, and over blocks of a group's rows: no row meets a matrix that is not its own.

A block may reach into the next group. What it writes there are zeros, and the next group's own
blocks come later. Groups without rows cost one step of a loop.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Rows of a block: small ones waste the matrix unit, large ones compute what small groups lack.
FEWEST, MOST = 8, 256


def block_rows(rows: int, groups: int) -> int:
    """The power of two next to the mean size of a group, within bounds."""
    mean = max(rows // groups, 1)
    return min(max(1 << (mean - 1).bit_length(), FEWEST), MOST)


def grouped_dot(
    x_ID: Float[Array, "I D"], w_XDF: Float[Array, "X D F"], sizes_X: Int[Array, "X"]
) -> Float[Array, "I F"]:
    size = block_rows(len(x_ID), len(w_XDF))
    x = _padded(x_ID, size)

    def group(g: jax.Array, start: jax.Array, end: jax.Array, out: jax.Array) -> jax.Array:
        w_DF = w_XDF[g]

        def block(number: jax.Array, out: jax.Array) -> jax.Array:
            at = start + number * size
            rows = jax.lax.dynamic_slice_in_dim(x, at, size)
            y = jnp.einsum("id,df->if", rows, w_DF, preferred_element_type=jnp.float32)
            y = jnp.where(_inside(at, size, end), y, 0).astype(out.dtype)
            return jax.lax.dynamic_update_slice_in_dim(out, y, at, 0)

        return jax.lax.fori_loop(0, _blocks(start, end, size), block, out)

    out = jnp.zeros((len(x), w_XDF.shape[2]), x_ID.dtype)
    return _each_group(sizes_X, group, out)[: len(x_ID)]


def weight_gradient(
    x_ID: Float[Array, "I D"], d_IF: Float[Array, "I F"], sizes_X: Int[Array, "X"]
) -> Float[Array, "X D F"]:
    """x^T d of every group's rows, in the dtype of `x_ID`, summed in float32."""
    size = block_rows(len(x_ID), len(sizes_X))
    x, d = _padded(x_ID, size), _padded(d_IF, size)
    shape = (x_ID.shape[1], d_IF.shape[1])

    def group(g: jax.Array, start: jax.Array, end: jax.Array, out: jax.Array) -> jax.Array:
        def block(number: jax.Array, total: jax.Array) -> jax.Array:
            at = start + number * size
            rows = jax.lax.dynamic_slice_in_dim(x, at, size)
            theirs = jax.lax.dynamic_slice_in_dim(d, at, size)
            theirs = jnp.where(_inside(at, size, end), theirs, 0)
            return total + jnp.einsum("id,if->df", rows, theirs, preferred_element_type=jnp.float32)

        zeros = jnp.zeros(shape, jnp.float32)
        total = jax.lax.fori_loop(0, _blocks(start, end, size), block, zeros)
        return out.at[g].set(total.astype(out.dtype))

    return _each_group(sizes_X, group, jnp.zeros((len(sizes_X), *shape), x_ID.dtype))


def _each_group(sizes_X: jax.Array, group: Callable[..., jax.Array], init: jax.Array) -> jax.Array:
    """Folds `group(number, first row, row behind the last, result so far)`."""
    ends_X = jnp.cumsum(sizes_X)
    return jax.lax.fori_loop(
        0, len(sizes_X), lambda g, out: group(g, ends_X[g] - sizes_X[g], ends_X[g], out), init
    )


def _padded(x: jax.Array, rows: int) -> jax.Array:
    return jnp.pad(x, ((0, rows), (0, 0)))


def _blocks(start: jax.Array, end: jax.Array, size: int) -> jax.Array:
    return (end - start + size - 1) // size


def _inside(at: jax.Array, size: int, end: jax.Array) -> jax.Array:
    return (at + jnp.arange(size) < end)[:, None]
