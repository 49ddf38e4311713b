"""The one entry point; it chooses the implementation."""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.backend import Implementation, choose, device, on_mesh
from kernels.tree_decode import pallas, reference, xla
from kernels.tree_decode.blocks import keys_per_block
from kernels.tree_decode.partials import Whole
from pivotrl_jax.parallel.sharding import Axes

SLOTS: Axes = ("rows", "places", "kv_heads")
# Of trunks' keys [R, H, E, L] and values [R, H, L, E].
TRUNK_K: Axes = ("rows", "kv_heads", None, "places")
TRUNK_V: Axes = ("rows", "kv_heads", "places", None)
NUMBERS: Axes = ("rows", "places")
# Of the operands, in order. Left to itself, XLA gathers the slots' caches of all heads.
AXES = (SLOTS, TRUNK_K, TRUNK_V, SLOTS, SLOTS, NUMBERS, NUMBERS, NUMBERS, ("kv_heads",))


def tree_decode(
    q_RBHGE: Float[Array, "R B H G E"],
    trunk_k_RHEL: Float[Array, "R H E L"],
    trunk_v_RHLE: Float[Array, "R H L E"],
    own_k_RBHES: Float[Array, "R B H E S"],
    own_v_RBHSE: Float[Array, "R B H S E"],
    start_RB: Int[Array, "R B"],
    step_RB: Int[Array, "R B"],
    window: Int[Array, ""] | None = None,
    sinks_HG: Float[Array, "H G"] | None = None,
    *,
    implementation: Implementation = "auto",
    interpret: bool = False,
) -> Float[Array, "R B H G E"]:
    """Attention of one token per slot to `trunk[:start]` and to its own tokens up to `step`.

    With a `window`, one positive number that may differ from call to call of one compiled body,
    only to the last `window` of these tokens; trunk tokens before any slot's are not read. A sink
    is one more score in each softmax of its head, to which no value belongs (gpt-oss).
    Keys lie as [E, tokens], so that scores are a plain matrix product in the decode loop. The
    scale is 1/sqrt(E); operands are bfloat16 or float32, scores and sums float32. "auto" is
    "pallas" on TPU and "xla" elsewhere; `interpret` runs the TPU kernel on any backend, slowly, for
    tests. Raises UserError for an `implementation` that is unknown or cannot run here.
    """
    first_RB = jnp.zeros_like(start_RB)
    if window is not None:
        first_RB = jnp.maximum(first_RB, start_RB + step_RB - window + 1)
    operands: tuple[Array, ...] = (
        q_RBHGE, trunk_k_RHEL, trunk_v_RHLE, own_k_RBHES, own_v_RBHSE, start_RB, step_RB, first_RB,
    )  # fmt: skip
    if sinks_HG is not None:
        operands += (sinks_HG,)
    chosen = choose("tree_decode", implementation, interpret)
    if chosen == "reference":
        return reference.tree_decode(*operands)
    queries = q_RBHGE.shape[1] * q_RBHGE.shape[3]
    keys = keys_per_block(device()[1], queries)
    whole = Whole(q_RBHGE.shape[1], trunk_v_RHLE.shape[2])
    kernel = functools.partial(xla.tree_decode, keys=keys, whole=whole)
    if chosen == "pallas":
        kernel = functools.partial(pallas.tree_decode, keys=keys, interpret=interpret, whole=whole)
    return on_mesh(kernel, AXES[: len(operands)])(*operands)
