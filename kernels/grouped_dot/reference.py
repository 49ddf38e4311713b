"""The dense form: what the other implementations are tested against."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def grouped_dot(
    x_ID: Float[Array, "I D"], w_XDF: Float[Array, "X D F"], sizes_X: Int[Array, "X"]
) -> Float[Array, "I F"]:
    """Multiplies every row by every matrix and keeps the product with its own group's."""
    ends_X = jnp.cumsum(sizes_X)
    row_I1 = jnp.arange(len(x_ID))[:, None]
    own_IX = (row_I1 >= ends_X - sizes_X) & (row_I1 < ends_X)
    found = jnp.einsum(
        "id,ix,xdf->if", x_ID, own_IX.astype(x_ID.dtype), w_XDF,
        preferred_element_type=jnp.float32,
    )  # fmt: skip
    return found.astype(x_ID.dtype)


def weight_gradient(
    x_ID: Float[Array, "I D"], d_IF: Float[Array, "I F"], sizes_X: Int[Array, "X"]
) -> Float[Array, "X D F"]:
    """x^T d of every group's rows."""
    w_XDF = jax.ShapeDtypeStruct((len(sizes_X), x_ID.shape[1], d_IF.shape[1]), x_ID.dtype)
    (found,) = jax.linear_transpose(lambda w: grouped_dot(x_ID, w, sizes_X), w_XDF)(d_IF)
    return found
