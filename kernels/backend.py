"""Which implementation of an operation runs, and how its kernel is laid over the mesh."""

import functools
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from pivotrl_jax.errors import UserError
from pivotrl_jax.parallel.sharding import Axes, spec

Implementation = Literal["auto", "xla", "pallas", "reference"]


def device() -> tuple[str, str]:
    """Platform and kind of the devices that programs are for: those of `jax.set_mesh`, or else the
    default ones."""
    own = jax.sharding.get_abstract_mesh().abstract_device
    own = jax.devices()[0] if own is None else own
    return own.platform, own.device_kind


def choose(
    op: str,
    implementation: Implementation,
    interpret: bool,
    *,
    runs_on: Collection[str] = ("tpu",),
    needs: str = "a TPU",
) -> str:
    """The implementation of `op` that runs; "auto" is Pallas on TPU and XLA elsewhere.

    `runs_on` are the backends that the Pallas kernel can run on, `needs` says so in words. Raises
    UserError for an unknown implementation, and for Pallas on another backend unless interpreted.
    """
    backend, _ = device()
    if implementation not in get_args(Implementation):
        raise UserError(
            f"{op}: no implementation {implementation!r}; "
            "use 'auto', 'xla', 'pallas' or 'reference'."
        )
    chosen: str = implementation
    if implementation == "auto":
        chosen = "pallas" if backend == "tpu" else "xla"
    elif implementation == "pallas" and not interpret and backend not in runs_on:
        raise UserError(
            f"{op}: 'pallas' needs {needs} and this is a {backend}; use 'auto' or 'xla'."
        )
    _log(op, chosen, backend)
    return chosen


@functools.cache  # once per choice
def _log(op: str, chosen: str, backend: str) -> None:
    logging.getLogger(__name__).info("%s: %s on %s", op, chosen, backend)


def row_major(x: jax.Array) -> jax.Array:
    """x as it is, of which XLA may not choose another layout: the last axis is the fastest."""
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


def transposed_dot(x: Float[Array, "*B T I"], y: Float[Array, "*B T J"]) -> Float[Array, "*B I J"]:
    """The transpose of x times y, float32.

    XLA:CPU multiplies bfloat16 matrices in the CPU's matrix units (AMX), several times faster than
    float32, where the axis that is summed over is the left operand's fastest. Left to itself it
    reads a transposed operand as it lies. Of several devices' arrays no layout can be asked for.
    """
    mesh = jax.sharding.get_abstract_mesh()
    alone = mesh.empty or mesh.size == 1
    axes = "...ti,...tj->...ij"
    if x.dtype == jnp.bfloat16 and alone and device()[0] == "cpu":
        x, axes = row_major(x.swapaxes(-1, -2)), "...it,...tj->...ij"
    return jnp.einsum(axes, x, y, preferred_element_type=jnp.float32)


def on_mesh(
    kernel: Callable[..., Any],
    axes: Sequence[Axes],
    results: Sequence[tuple[int, Axes]] | None = None,
) -> Callable[..., Any]:
    """`kernel` on each device's own part of its arguments, under the mesh of `jax.set_mesh`.

    XLA does not partition kernels. `axes` name the leading axes of each argument, as in
    `pivotrl_jax.parallel.sharding`; every result is laid out as the first argument, unless
    `results` has for each the number of an argument of its shape, and its own leading axes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return kernel

    def run(*arrays: jax.Array) -> Any:
        def laid(x: jax.Array, names: Axes) -> PartitionSpec:
            return spec(names, x.shape[: len(names)], mesh)

        specs = tuple(laid(x, names) for x, names in zip(arrays, axes, strict=True))
        out = tuple(laid(arrays[n], names) for n, names in results) if results else specs[0]
        # The interpreter's own loops fail the check of varying axes.
        mapped = jax.shard_map(kernel, in_specs=specs, out_specs=out, check_vma=False)
        return mapped(*arrays)

    return run
