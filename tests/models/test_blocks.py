"""Leaves filled block by block and taken apart again, against NumPy on whole arrays."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pivotrl_jax.models import blocks
from pivotrl_jax.models.blocks import Tensors, build, take

LAYERS, EXPERTS, D, F, H, G, E = 3, 4, 8, 6, 2, 3, 4
# Name, shape of a tensor, and of the leaf behind its stacked axes.
LEAVES = {
    "embed": ("embed", (10, D), (10, D)),
    "norm": ("{}.norm", (D,), (D,)),
    "q": ("{}.q", (H * G * E, D), (D, H, G, E)),
    "o": ("{}.o", (D, H * G * E), (H, G, E, D)),
    "bias": ("{}.bias", (H * E,), (H, E)),
    "expert": ("{}.{}.up", (F, D), (D, F)),
}
# The parts of a mesh of 2 x 2 along the axes of the leaf; those that a table would not give, too.
SPECS = {
    "embed": [("a", "b"), (None, ("a", "b"))],
    "norm": [(None, "a")],
    "q": [(None, "a", "b"), (None, "b", None, None, "a"), (None, None, "a", None, "b")],
    "o": [(None, "b", None, None, "a"), (None, None, None, "a", "b")],
    "bias": [(None, "b"), (None, None, "a")],
    "expert": [(None, "a", "b"), (None, ("a", "b")), (None, None, "a", "b")],
}
MESH = Mesh(
    np.asarray(jax.devices()[:4]).reshape(2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2
)
CASES = [(name, None, dtype) for name in LEAVES for dtype in ("float32", "bfloat16")]
CASES += [(name, spec, "bfloat16") for name, own in SPECS.items() for spec in own]


class File:
    """Tensors in memory, and how much of them was read."""

    def __init__(self, name: str, dtype: str):
        pattern, shape, _ = LEAVES[name]
        counts = (LAYERS, EXPERTS)[: pattern.count("{}")]
        size = np.prod(counts + shape, dtype=int)
        # Any bits: infinities, NaNs, zeros of both signs and subnormal numbers.
        bits = np.random.default_rng(5).integers(0, 2**16, (size, np.dtype(dtype).itemsize // 2))
        whole = bits.astype(np.uint16).view(dtype).reshape(counts + shape)
        whole.reshape(-1)[:2] = -0.0, 0.0
        self.tensors = {pattern.format(*i): whole[i] for i in np.ndindex(counts)}
        self.read_bytes: list[int] = []

    def read(self, name: str, part: tuple[slice, ...]) -> np.ndarray:
        found = self.tensors[name][part]
        self.read_bytes.append(found.nbytes)
        return found


def reference(name: str, file: File) -> np.ndarray:
    """The leaf in one piece, by what the Hugging Face layout says of one matrix."""
    pattern, _, inner = LEAVES[name]
    if name == "embed":
        return file.tensors["embed"]
    counts = (LAYERS, EXPERTS)[: pattern.count("{}")]
    parts = [file.tensors[pattern.format(*i)].T.reshape(inner) for i in np.ndindex(counts)]
    return np.stack(parts).reshape(counts + inner)


def same_bits(a: np.ndarray, b: np.ndarray) -> None:
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


@pytest.mark.parametrize(("name", "spec", "dtype"), CASES)
def test_a_leaf_is_the_same_in_one_block_and_in_many_and_gives_its_tensors_back(
    name, spec, dtype, monkeypatch
):
    sharding = None if spec is None else NamedSharding(MESH, PartitionSpec(*spec))
    file = File(name, dtype)
    wanted = reference(name, file)
    tensors = Tensors(*LEAVES[name][:2], jax.ShapeDtypeStruct(wanted.shape, dtype))
    # Blocks of 100 bytes divide nothing here; the mesh of the caller must not matter.
    for limit in (10**6, 100):
        monkeypatch.setattr(blocks, "BLOCK_BYTES", limit)
        with jax.set_mesh(MESH):
            leaf = build(tensors, file.read, sharding)
        assert sharding is None or leaf.sharding == sharding
        same_bits(np.asarray(leaf), wanted)
    assert len(leaf.devices()) == (1 if spec is None else 4)
    tensors = Tensors(tensors.name, tensors.shape, leaf)
    for index in np.ndindex(wanted.shape[: tensors.stacked]):
        same_bits(np.asarray(take(tensors, index)), file.tensors[tensors.name.format(*index)])


@pytest.mark.parametrize(("stored", "wanted"), [("float32", "bfloat16"), ("bfloat16", "float32")])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_numbers_are_converted_as_numpy_does(stored, wanted, monkeypatch):
    file = File("expert", stored)
    expected = reference("expert", file).astype(wanted)
    tensors = Tensors(*LEAVES["expert"][:2], jax.ShapeDtypeStruct(expected.shape, wanted))
    for limit in (10**6, 100):
        monkeypatch.setattr(blocks, "BLOCK_BYTES", limit)
        same_bits(np.asarray(build(tensors, file.read, None)), expected)


@pytest.mark.parametrize(
    ("name", "spec", "blocks_of_leaf"),
    [
        ("embed", None, 5),
        ("expert", None, LAYERS),
        ("expert", None, LAYERS * EXPERTS * 2),
        ("expert", (None, "a", "b"), LAYERS * EXPERTS),
        ("expert", (None, None, "a", "b"), LAYERS * EXPERTS),
    ],
)
def test_the_host_holds_one_block_and_reads_nothing_twice(name, spec, blocks_of_leaf, monkeypatch):
    sharding = None if spec is None else NamedSharding(MESH, PartitionSpec(*spec))
    file = File(name, "float32")
    whole = sum(x.nbytes for x in file.tensors.values())
    held, put = [], blocks._put
    monkeypatch.setattr(blocks, "BLOCK_BYTES", whole // blocks_of_leaf)
    monkeypatch.setattr(
        blocks, "_put", lambda hosts, parts: held.append(hosts) or put(hosts, parts)
    )
    tensors = Tensors(*LEAVES[name][:2], jax.ShapeDtypeStruct(reference(name, file).shape, "f4"))
    build(tensors, file.read, sharding)
    assert [sum(x.nbytes for x in hosts) for hosts in held] == [whole // blocks_of_leaf] * len(held)
    assert len(held) == blocks_of_leaf
    assert sum(file.read_bytes) == whole
