"""A token's keys and values in the places that the slots' own caches have for them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.backend import device, on_mesh, row_major
from pivotrl_jax.parallel.sharding import Axes

SLOTS: Axes = ("rows", "places", "kv_heads")
AXES = (SLOTS, SLOTS, SLOTS, SLOTS, ("rows", "places"))
Caches = tuple[Float[Array, "R B H E S"], Float[Array, "R B H S E"]]


def append(
    own_k_RBHES: Float[Array, "R B H E S"],
    own_v_RBHSE: Float[Array, "R B H S E"],
    k_RBHE: Float[Array, "R B H E"],
    v_RBHE: Float[Array, "R B H E"],
    step_RB: Int[Array, "R B"],
) -> Caches:
    """The caches with every slot's key and value as its token number `step`.

    A scatter, but on TPU slot by slot: XLA there turns whole caches round for a scatter and back,
    which takes ten times as long as to attend to them.
    """
    operands = (own_k_RBHES, own_v_RBHSE, k_RBHE, v_RBHE, step_RB)
    write = slot_by_slot if device()[0] == "tpu" else scattered
    return on_mesh(write, AXES)(*operands)


def scattered(
    own_k: jax.Array, own_v: jax.Array, k: jax.Array, v: jax.Array, step: jax.Array
) -> Caches:
    row, slot = jnp.indices(step.shape, sparse=True)
    return own_k.at[row, slot, :, :, step].set(k), own_v.at[row, slot, :, step].set(v)


def slot_by_slot(
    own_k: jax.Array, own_v: jax.Array, k: jax.Array, v: jax.Array, step: jax.Array
) -> Caches:
    rows, slots = step.shape

    def put(number: jax.Array, caches: Caches) -> Caches:
        at = (number // slots, number % slots)
        zero = jnp.zeros_like(number)
        own_k, own_v = map(row_major, caches)
        column, line = k[at][None, None, :, :, None], v[at][None, None, :, None]
        place_k, place_v = (*at, zero, zero, step[at]), (*at, zero, step[at], zero)
        return (
            row_major(jax.lax.dynamic_update_slice(own_k, column, place_k)),
            row_major(jax.lax.dynamic_update_slice(own_v, line, place_v)),
        )

    return jax.lax.fori_loop(0, rows * slots, put, (own_k, own_v))
