"""What the device can do at most, measured in the same run: bytes by a copy, FLOPs by a product."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.timing import once

COPY_BYTES = 512 * 2**20
PRODUCT_WIDTH = 8192


def copy() -> tuple[Callable[[dict[str, Any]], dict[str, Any]], int]:
    """A side that copies an array larger than any cache, and the bytes it reads and writes.

    The target is carried from run to run: fresh memory costs a CPU several times the copy.
    """
    source = jnp.zeros(COPY_BYTES // 4, jnp.float32)
    # Negation, because XLA would leave out the identity.
    into = jax.jit(lambda target, x: -x, donate_argnums=0, keep_unused=True)

    def side(carry: dict[str, Any]) -> dict[str, Any]:
        target = carry["copy"] if "copy" in carry else jnp.ones_like(source)
        return carry | {"copy": into(target, source)}

    return side, 2 * source.nbytes


def product() -> tuple[Callable[[Any], Any], float]:
    """A side that multiplies two square bfloat16 matrices, and its FLOPs."""
    x = jnp.ones((PRODUCT_WIDTH, PRODUCT_WIDTH), jnp.bfloat16)
    multiply = jax.jit(jnp.matmul)
    return once(lambda: multiply(x, x)), 2.0 * PRODUCT_WIDTH**3
