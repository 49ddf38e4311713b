"""The one table from logical axes to mesh axes."""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Axes = tuple[str | None, ...]

RULES: dict[str, tuple[str, ...]] = {
    "rows": ("data", "fsdp", "expert"),
    "places": ("context",),  # of a row's tokens, or of its slots
    "tokens": ("data", "fsdp", "expert", "context"),  # of all rows
    "width": ("fsdp", "context"),
    "kv_heads": ("tensor",),
    "ffn": ("tensor",),
    "experts": ("expert",),
    "spread_experts": ("data", "fsdp", "expert"),  # over all devices that rows are, in decoding
    "vocab": ("tensor",),
    "layers": (),
    "rank": (),
}


def spec(
    axes: Axes, shape: tuple[int, ...], mesh: Mesh | jax.sharding.AbstractMesh
) -> PartitionSpec:
    """The partition of an array of `shape` whose dimensions carry the logical names `axes`.

    A dimension that its mesh axes do not divide (SmolLM2 has 3 key/value heads) is replicated.
    Raises ValueError when two dimensions claim one mesh axis.
    """
    parts: list[tuple[str, ...] | None] = []
    for name, size in zip(axes, shape, strict=True):
        mesh_axes = RULES[name] if name is not None else ()
        divides = size % int(np.prod([mesh.shape[a] for a in mesh_axes], dtype=int)) == 0
        parts.append(mesh_axes if mesh_axes and divides else None)
    used = [a for part in parts if part for a in part]
    if len(used) != len(set(used)):
        raise ValueError(f"logical axes {axes} use a mesh axis twice: {used}")
    return PartitionSpec(*parts)


def shardings(abstract: Any, axes: Any, mesh: Mesh) -> Any:
    """A `NamedSharding` per leaf of `abstract`, whose logical axes stand in the tree `axes`."""
    return jax.tree.map(
        lambda leaf, names: NamedSharding(mesh, spec(names, leaf.shape, mesh)), abstract, axes
    )


def placed(abstract: Any, layout: Any) -> Any:
    """Abstract arrays with the shardings that the tree `layout` has for them."""
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), abstract, layout
    )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh, shape: tuple[int, ...], axis: int = 0) -> NamedSharding:
    """Sharding of a batch array whose dimension `axis` counts rows."""
    names: Axes = tuple("rows" if i == axis else None for i in range(len(shape)))
    return NamedSharding(mesh, spec(names, shape, mesh))


def row_shards(mesh: Mesh | jax.sharding.AbstractMesh) -> int:
    """Into how many parts the mesh divides rows."""
    return math.prod(mesh.shape[axis] for axis in RULES["rows"])


def put_rows(batch: Any, mesh: Mesh, axis: int = 0) -> Any:
    """The host arrays of `batch` on the devices, their dimension `axis` sharded as rows.

    Every process has the whole `batch`, and puts the rows of its own devices there.
    """

    return jax.tree.map(lambda x: _put(x, rows(mesh, x.shape, axis)), batch)


def put_whole(tree: Any) -> Any:
    """Host arrays on every device of the mesh of `jax.set_mesh`; without one, on the default."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.device_put(tree)
    return jax.tree.map(lambda x: _put(x, replicated(mesh)), tree)


def _put(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
    # `device_put` would compare what several processes have. This is asked for, though not by it.
    with jax.transfer_guard_host_to_device("allow"):
        return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)


def abstract_rows(batch: Any, mesh: Mesh, axis: int = 0) -> Any:
    """The shapes that `put_rows` of `batch` has, without the arrays."""

    def abstract(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows(mesh, x.shape, axis))

    return jax.tree.map(abstract, batch)


def parts(name: str) -> int:
    """Into how many the mesh of `jax.set_mesh` divides what carries the logical axis `name`."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in RULES[name])


def merged(x: jax.Array) -> jax.Array:
    """[R, T, ...] as [R T, ...], so that every device's own tokens follow each other there.

    In row-major order the devices along `places` would have to exchange them. `unmerged` takes the
    order back.
    """
    rows, places = _divided(x.shape)
    split = x.reshape(rows, x.shape[0] // rows, places, -1, *x.shape[2:])
    return split.swapaxes(1, 2).reshape(-1, *x.shape[2:])


def unmerged(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """[R T, ...], as `merged` orders them, as [R, T, ...], whose first two sizes are `shape`."""
    rows, places = _divided(shape)
    split = x.reshape(rows, places, shape[0] // rows, -1, *x.shape[1:])
    return split.swapaxes(1, 2).reshape(*shape, *x.shape[1:])


def _divided(shape: tuple[int, ...]) -> tuple[int, int]:
    """Into how many the rows and places of [R, T, ...] are divided; one place keeps their order."""
    rows, places = (
        1 if size % parts(name) else parts(name)
        for name, size in zip(("rows", "places"), shape, strict=False)
    )
    return (rows, places) if places > 1 else (1, 1)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins the layout of an activation inside `jit`, under the mesh of `jax.set_mesh`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes, x.shape, mesh))
