"""Products of activations with weights, at the precision that the configuration asks for."""

import math
import re

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.backend import transposed_dot
from pivotrl_jax.models.config import Precision


def product(axes: str, x: jax.Array, w: jax.Array, precision: Precision) -> jax.Array:
    """`jnp.einsum(axes, x, w)`, where the last axes of x are the first of w, in the dtype of x.

    At "bfloat16" both operands are rounded to it, in the backward pass too, and sums are float32.
    """
    if precision == "float32":
        return jnp.einsum(axes, x, w)
    given, matrix, _ = re.split(",|->", axes)
    inner = sum(axis in given for axis in matrix)
    kept, width = x.shape[: x.ndim - inner], math.prod(w.shape[:inner])
    y_TF = _rounded(x.reshape(-1, width), w.reshape(width, -1))
    return y_TF.reshape(*kept, *w.shape[inner:])


@jax.custom_vjp
def _rounded(x_TD: Float[Array, "T D"], w_DF: Float[Array, "D F"]) -> Float[Array, "T F"]:
    """Of matrices; D and F are whatever axes are summed over and made."""
    return _einsum("td,df->tf", x_TD, w_DF).astype(x_TD.dtype)


def _forward(x_TD: jax.Array, w_DF: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Not by way of `_rounded`, in which a remat policy would see no product to keep.
    return _einsum("td,df->tf", x_TD, w_DF).astype(x_TD.dtype), (x_TD, w_DF)


def _backward(
    operands: tuple[jax.Array, jax.Array], d_y_TF: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x_TD, w_DF = operands
    d_x_TD = _einsum("tf,df->td", d_y_TF, w_DF)
    d_w_DF = transposed_dot(x_TD.astype(jnp.bfloat16), d_y_TF.astype(jnp.bfloat16))
    return d_x_TD.astype(x_TD.dtype), d_w_DF.astype(w_DF.dtype)


def _einsum(axes: str, x: jax.Array, y: jax.Array) -> jax.Array:
    x, y = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)
    return jnp.einsum(axes, x, y, preferred_element_type=jnp.float32)


_rounded.defvjp(_forward, _backward)
