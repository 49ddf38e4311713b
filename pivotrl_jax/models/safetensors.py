"""Weights in safetensors files: parts of tensors in, whole tensors out, one at a time.

A file is the header's length in eight bytes, a JSON header that has dtype, shape and place of every
tensor, and the tensors one after another, all of it little-endian and row-major.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from pivotrl_jax.errors import UserError

# The dtypes that weights may have: their names in a file and in NumPy.
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
BITS = {"U8": "uint8"}  # of packed weights
LENGTH, ALIGNMENT = 8, 8
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: `dtype` as the file calls it, `offset` in bytes from its beginning."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        """A part, mapped: its pages are read when used and count as memory until it is dropped."""
        dtype = jnp.dtype((FLOATS | BITS)[self.dtype])
        return np.asarray(np.memmap(self.path, dtype, "r", self.offset, self.shape)[index])


def tensors(path: Path) -> dict[str, Tensor]:
    """What a file holds; UserError when it is missing, cut short or not safetensors."""
    try:
        # The library checks that the header is sound and that the tensors fill the file.
        with safetensors.safe_open(path, framework="numpy"), path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH), "little")
            header = json.loads(file.read(length))
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read as safetensors ({error}); download it again"
        ) from None
    return {
        name: Tensor(
            path, found["dtype"], tuple(found["shape"]), LENGTH + length + found["data_offsets"][0]
        )
        for name, found in header.items()
        if name != "__metadata__"
    }


def weight_files(directory: Path) -> list[Path]:
    """The weight files of a directory: those that its index names, or the single one."""
    index = directory / INDEX
    if not index.exists():
        return [directory / SINGLE]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{index} is no safetensors index; download it again") from None
    return [directory / name for name in sorted(names)]


def write_all(
    directory: Path,
    specs: Mapping[str, jax.ShapeDtypeStruct],
    arrays: Iterator[np.ndarray],
    shard_bytes: int,
) -> None:
    """One `model.safetensors`, or several and their index where it would exceed `shard_bytes`."""
    sizes = {name: math.prod(spec.shape) * spec.dtype.itemsize for name, spec in specs.items()}
    shards = _split(sizes, shard_bytes)
    weight_map: dict[str, str] = {}
    for i, names in enumerate(shards, start=1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else SINGLE
        weight_map |= dict.fromkeys(names, file)
        own = {name: specs[name] for name in names}
        _write(directory / file, own, itertools.islice(arrays, len(names)))
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _split(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Groups names in order so that no group of more than one exceeds `limit` bytes."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def _write(
    path: Path, specs: Mapping[str, jax.ShapeDtypeStruct], arrays: Iterable[np.ndarray]
) -> None:
    """Writes `arrays` in the order of `specs`, each as it comes. Raises OSError."""
    header = _header(specs)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(LENGTH, "little"))
        file.write(header)
        file.writelines(map(_raw, arrays))  # keeps none of them while the next is made


def _header(specs: Mapping[str, jax.ShapeDtypeStruct]) -> bytes:
    names = {jnp.dtype(dtype): name for name, dtype in FLOATS.items()}
    # transformers refuses a file that does not name its format.
    fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, spec in specs.items():
        begin, end = end, end + math.prod(spec.shape) * spec.dtype.itemsize
        fields[name] = {
            "dtype": names[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(fields, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % ALIGNMENT)


def _raw(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
