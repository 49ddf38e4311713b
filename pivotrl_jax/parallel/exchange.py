"""What the processes of one run tell each other.

Every process runs the same program on the same host data, so that all of them take part in every
call here, in the same order. For a run of one process each is a plain function of its argument.
"""

import itertools
import pickle
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather
from jax.sharding import Mesh
from jaxtyping import UInt8

from pivotrl_jax.parallel.sharding import replicated

S = TypeVar("S")
T = TypeVar("T")


def several() -> bool:
    """Whether the run has more than one process. Starts no device where it cannot have."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this is process 0, which alone writes files, and prints for all."""
    return not several() or jax.process_index() == 0


def fetch(tree: Any) -> Any:
    """Device arrays as whole host arrays, on every process; what is sharded is gathered."""
    leaves, structure = jax.tree.flatten(tree)
    parts = [n for n, x in enumerate(leaves) if isinstance(x, jax.Array) and _in_parts(x)]
    if parts:
        mesh = leaves[parts[0]].sharding.mesh
        whole = _gathered(mesh)([leaves[n] for n in parts])
        for n, x in zip(parts, whole, strict=True):
            leaves[n] = x
    return jax.device_get(jax.tree.unflatten(structure, leaves))


def _in_parts(x: jax.Array) -> bool:
    """Whether no process has the whole of it."""
    return not (x.is_fully_addressable or x.is_fully_replicated)


@cache  # or else every call would compile anew
def _gathered(mesh: Mesh) -> Callable[[list[jax.Array]], list[jax.Array]]:
    return jax.jit(lambda arrays: arrays, out_shardings=replicated(mesh))


def from_first(make: Callable[[], T]) -> T:
    """What `make` gives on process 0, which alone calls it, on every process.

    What it gives must have a pickle. No process goes on before `make` has ended.
    """
    if not several():
        return make()
    own = _packed(make()) if first() else np.zeros(0, np.uint8)
    with jax.transfer_guard("allow"):
        size = int(broadcast_one_to_all(np.int32(len(own))))
        return _unpacked(broadcast_one_to_all(_filled(own, size)), size)


def gather(value: T) -> list[T]:
    """The `value` of every process, which must have a pickle, in their order."""
    if not several():
        return [value]
    own = _packed(value)
    with jax.transfer_guard("allow"):
        sizes = process_allgather(np.int32(len(own)))
        rows = process_allgather(_filled(own, int(sizes.max())))
    return [_unpacked(row, int(size)) for row, size in zip(rows, sizes, strict=True)]


def highest(number: int) -> int:
    """The highest `number` of any process, for what is asked often."""
    if not several():
        return number
    with jax.transfer_guard("allow"):
        return int(process_allgather(np.int32(number)).max())


def mine(number: int) -> bool:
    """Whether this process does number `number` of some work that all processes share."""
    return not several() or number % jax.process_count() == jax.process_index()


def divided(work: Sequence[S], do: Callable[[S], T], at_once: int = 256) -> list[T]:
    """`do` of each item, in order, on every process; each process does its share and tells the
    others. What `do` gives must have a pickle.

    Each process tells `at_once` results at a time: they travel through the devices' memory.
    """
    own = (do(item) for number, item in enumerate(work) if mine(number))
    found: list[T] = []
    while len(found) < len(work):
        parts = gather(list(itertools.islice(own, at_once)))
        found += [part[i] for i in range(len(parts[0])) for part in parts if i < len(part)]
    return found


def _packed(value: Any) -> UInt8[np.ndarray, "n"]:
    return np.frombuffer(pickle.dumps(value), np.uint8)


def _unpacked(data: UInt8[np.ndarray, "n"], size: int) -> Any:
    return pickle.loads(data[:size].tobytes())


def _filled(data: UInt8[np.ndarray, "n"], size: int) -> UInt8[np.ndarray, "m"]:
    """With zeros up to a power of two of at least `size`: every length costs a compilation."""
    room = 1 << max(10, (size - 1).bit_length())
    return np.pad(data, (0, room - len(data)))
