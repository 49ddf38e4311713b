"""The dense form: what the other implementations are tested against."""

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
