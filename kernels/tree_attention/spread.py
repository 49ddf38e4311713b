"""Blocks of queries dealt out to the devices that divide a row's context.

A device holds a run of its row's places. Did it attend for these, the first would be done long
before the last, whose queries see all of the trunk. So blocks of queries travel: the device number
d attends for blocks d, d + n, d + 2n ... of n devices, and sends back what it finds. Keys and
values are gathered whole: as many bytes as the queries' way there and back where G, the query heads
of a key head, is n.
"""

import jax
import jax.numpy as jnp

from pivotrl_jax.parallel.sharding import Axes, constrain, parts


def dealt(x: jax.Array, axes: Axes, size: int) -> jax.Array:
    """x with its places in the order in which devices attend for them.

    `axes` names the leading axes of x, the last of them its "places", which come in blocks of
    `size`, as many as the square of the number of devices divides.
    """
    return _turned(x, axes, size, to="dealt")


def collected(x: jax.Array, axes: Axes, size: int) -> jax.Array:
    """Undoes `dealt`."""
    return _turned(x, axes, size, to="collected")


def _turned(x: jax.Array, axes: Axes, size: int, to: str) -> jax.Array:
    devices = parts("places")
    if devices == 1:
        return x
    axis = len(axes) - 1
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    # A block's number is (holder, turn, receiver); the outermost of these is where it lies.
    if to == "dealt":
        split = x.reshape(*before, devices, -1, devices, size, *after)
        moved = jnp.moveaxis(split, axis + 2, axis)
    else:
        split = x.reshape(*before, devices, devices, -1, size, *after)
        moved = jnp.moveaxis(split, axis, axis + 2)
    names = (*axes, *[None] * (moved.ndim - len(axes)))
    return constrain(moved, *names).reshape(x.shape)
