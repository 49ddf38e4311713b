"""A leaf of the parameter tree and the tensors of a file, in block by block and out one by one.

A region of a leaf is a tuple of `range`, one for each of its axes.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import dynamic_update_slice
from jax.sharding import Mesh

from pivotrl_jax.models.params import Leaf

# What the host holds of a leaf at any time.
BLOCK_BYTES = 16 * 2**20

Shape = tuple[int, ...]
Region = tuple[range, ...]
# A part of the tensor of that name, in the layout and dtype of the file.
Read = Callable[[str, tuple[slice, ...]], np.ndarray]
# The regions that devices of this process hold, and the devices that hold each; None: the default.
Parts = dict[Region, list[jax.Device | None]]


@dataclasses.dataclass(frozen=True)
class Tensors:
    """The tensors of a file that make up one leaf, each of them `shape`.

    `name` has a "{}" for every axis along which the leaf stacks them. Tensors of a stacked leaf lie
    in it with their last two axes swapped, and with heads split out of the rows.
    """

    name: str
    shape: Shape
    leaf: Leaf  # abstract or an array

    @property
    def stacked(self) -> int:
        """How many axes of the leaf count tensors."""
        return self.name.count("{}")

    @property
    def order(self) -> tuple[int, ...]:
        """The axes of a tensor in the order in which they follow each other in the leaf."""
        axes = tuple(range(len(self.shape)))
        return axes[:-2] + axes[-2:][::-1] if self.stacked else axes

    @property
    def split(self) -> list[range]:
        """For every axis of a tensor, the axes of the leaf that it counts, slowest first."""
        found, start = {}, self.stacked
        for axis in self.order:
            stop = start + 1
            while math.prod(self.leaf.shape[start:stop]) < self.shape[axis]:
                stop += 1
            found[axis] = range(start, stop)
            start = stop
        return [found[axis] for axis in range(len(self.shape))]

    def block(self, shard: Shape, limit: int) -> Shape:
        """The largest part of a shard within `limit` bytes that is contiguous in the file's rows.

        Many tensors, or one, or as few as possible of its rows.
        """
        block = list(shard)
        for axis in (*range(self.stacked), self.split[0][0]):
            one = math.prod(block) // block[axis] * self.leaf.dtype.itemsize
            block[axis] = min(block[axis], max(1, limit // one))
        return tuple(block)

    def regions(self, regions: Sequence[Region], read: Read) -> list[np.ndarray]:
        """The contents of regions of one size in the leaf's dtype; tensor by tensor in all."""
        hosts = [np.empty([len(r) for r in region], self.leaf.dtype) for region in regions]
        for place in np.ndindex(*map(len, regions[0][: self.stacked])) if regions else ():
            for host, region in zip(hosts, regions, strict=True):
                index = [r[i] for r, i in zip(region, place, strict=False)]
                host[place] = self._part(self.name.format(*index), region, read)
        return hosts

    def _part(self, name: str, region: Region, read: Read) -> np.ndarray:
        """What one tensor has of a region, without the stacked axes."""
        shape = self.leaf.shape
        rows, lens, within = [], list(shape), [slice(r.start, r.stop) for r in region]
        for axes in self.split:
            first, size = axes[0], math.prod(shape[axis] for axis in axes[1:])
            rows.append(slice(region[first].start * size, region[first].stop * size))
            lens[first], within[first] = len(region[first]), slice(None)
        part = read(name, tuple(rows)).transpose(self.order)
        return part.reshape(lens[self.stacked :])[tuple(within[self.stacked :])]


def build(tensors: Tensors, read: Read, sharding: jax.sharding.Sharding | None) -> jax.Array:
    """The leaf with `sharding`, or on the default device.

    Reads what the shards of this process need, and holds `BLOCK_BYTES` of it on the host (or a
    single row of every shard, where that is more).
    """
    leaf = tensors.leaf
    parts = _parts(leaf.shape, sharding)
    shard = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    block = tensors.block(shard, BLOCK_BYTES // max(1, len(parts)))
    # Shards are written each on its own device, whatever mesh the caller has set.
    with jax.set_mesh(Mesh(np.empty((), object), ())):
        if block == shard:
            arrays = _put(tensors.regions(list(parts), read), parts)
        else:
            arrays = _filled(tensors, read, parts, shard, block)
    if sharding is None:
        return arrays[0]
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, arrays, dtype=leaf.dtype)


def _filled(
    tensors: Tensors, read: Read, parts: Parts, shard: Shape, block: Shape
) -> list[jax.Array]:
    """A shard for each device, written in place."""
    arrays: list[jax.Array] = []
    for start in _starts(shard, block):
        regions = [_cut(region, start, block) for region in parts]
        pieces = _put(tensors.regions(regions, read), parts)
        arrays = arrays or [_zeros(piece, shard) for piece in pieces]
        arrays = [_write(*pair, start) for pair in zip(arrays, pieces, strict=True)]
        jax.block_until_ready(arrays)
        del pieces  # before the next ones are read
    return arrays


def _parts(shape: Shape, sharding: jax.sharding.Sharding | None) -> Parts:
    if sharding is None:
        return {tuple(map(range, shape)): [None]}
    parts: Parts = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        region = tuple(range(*s.indices(n)) for s, n in zip(index or (), shape, strict=True))
        parts.setdefault(region, []).append(device)
    return parts


def _starts(shape: Shape, block: Shape) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(0, n, b) for n, b in zip(shape, block, strict=True)))


def _cut(region: Region, start: tuple[int, ...], block: Shape) -> Region:
    return tuple(r[s : s + b] for r, s, b in zip(region, start, block, strict=True))


def _put(hosts: Sequence[np.ndarray], parts: Parts) -> list[jax.Array]:
    """One host array for each part, on every device that holds the part."""
    pairs = zip(hosts, parts.values(), strict=True)
    return [jax.device_put(host, device) for host, devices in pairs for device in devices]


def _as_integers(x: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")


@functools.partial(jax.jit, static_argnames="shape", keep_unused=True)
def _zeros(piece: jax.Array, shape: Shape) -> jax.Array:
    """On the device of `piece`; `jnp.zeros` with a device makes them on the default one first."""
    return jnp.zeros(shape, piece.dtype)


@functools.partial(jax.jit, donate_argnums=0)
def _write(array: jax.Array, piece: jax.Array, start: tuple[jax.Array, ...]) -> jax.Array:
    """In place; as integers where XLA:CPU would write all of a bfloat16 array anew for a part."""

    def on_cpu(array: jax.Array, piece: jax.Array, start: tuple[jax.Array, ...]) -> jax.Array:
        written = dynamic_update_slice(_as_integers(array), _as_integers(piece), start)
        return jax.lax.bitcast_convert_type(written, array.dtype)

    return jax.lax.platform_dependent(array, piece, start, cpu=on_cpu, default=dynamic_update_slice)


def take(tensors: Tensors, index: tuple[int, ...]) -> jax.Array:
    """The inverse of `build` for one tensor, that at `index` of the stacked axes.

    An array of its own on the devices of the leaf, which must be an array: NumPy's view of the leaf
    itself would stay with the leaf.
    """
    leaf = tensors.leaf
    shard = leaf.sharding.shard_shape(leaf.shape)
    parts = tuple(n // own for n, own in zip(leaf.shape, shard, strict=True))
    return _take(leaf, index, parts[: tensors.stacked], tensors.shape, tensors.order)


@functools.partial(jax.jit, static_argnames=("parts", "shape", "order"))
def _take(
    leaf: jax.Array, index: tuple[jax.Array, ...], parts: Shape, shape: Shape, order: Shape
) -> jax.Array:
    """`parts`: among how many devices each stacked axis is divided."""
    found = _as_integers(leaf)
    for i, n in zip(index, parts, strict=True):
        found = found[i] if n == 1 else _picked(found, i, n)
    turned = found.reshape([shape[axis] for axis in order]).transpose(order)
    return jax.lax.bitcast_convert_type(turned, leaf.dtype)


def _picked(leaf: jax.Array, i: jax.Array, parts: int) -> jax.Array:
    """`leaf[i]` of an axis that is divided in `parts`, which XLA would gather as a whole.

    Every part offers one of its own, and all but the one that is meant are zeros of a sum. So they
    have to be integers: adding zero to a float can change its sign.
    """
    own = leaf.shape[0] // parts
    offered = leaf.reshape(parts, own, *leaf.shape[1:])[:, i % own]
    meant = (jnp.arange(parts) == i // own).reshape(-1, *[1] * (offered.ndim - 1))
    return jnp.where(meant, offered, 0).sum(axis=0, dtype=leaf.dtype)
