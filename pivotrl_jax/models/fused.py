"""gpt-oss's files: all experts of a layer in one tensor, as numbers or in four bits.

To the rest of the code these are matrices [out, in] and biases [out] of single experts, named as
Qwen3-MoE's; of a file's tensors `split` makes such, and `gathered` makes a file's of these. There,
the outputs of gate and up alternate. Matrices of numbers are [experts, in, out].

Four bits are MXFP4 (OCP Microscaling Formats 1.0). Of a matrix [experts, out, in / 32, 16] a byte
holds two numbers, the first in its lower half, and 32 inputs share a power of two: a byte of
[experts, out, in / 32], from which 127 is taken.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pivotrl_jax.models.safetensors import Tensor

PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
FUSED = re.compile(rf"(.*\.mlp\.experts)\.({'|'.join(PARTS)})(|_bias|_blocks)")
SINGLE = re.compile(r"(.*\.mlp\.experts)\.\d+\.(gate|up|down)_proj\.(weight|bias)")
AXES = {"_bias": 2, "": 3, "_blocks": 4}
GROUP = 32
POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FP4 = np.array([*POSITIVE, *(-x for x in POSITIVE)], np.float32)


@dataclasses.dataclass(frozen=True)
class Part:
    """What a `tensor` of all has of one expert: its outputs number `first`, `first + step` ..."""

    tensor: Tensor
    scales: Tensor | None  # of four bits
    expert: int
    first: int
    step: int

    @property
    def path(self) -> Path:
        return self.tensor.path

    @property
    def dtype(self) -> str:
        return self.tensor.dtype if self.scales is None else "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        match self.tensor.shape:
            case _, outputs:
                return (outputs // self.step,)
            case _, inputs, outputs:
                return outputs // self.step, inputs
            case _, outputs, groups, half:
                return outputs // self.step, groups * 2 * half
        raise AssertionError(self.tensor.shape)

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        """As `Tensor.read`, of the expert's own matrix or bias."""
        own = slice(self.expert, self.expert + 1)
        start, stop = (self.first + self.step * n for n in (index[0].start, index[0].stop))
        outputs = slice(start, stop, self.step)
        if self.scales is not None:
            return self._unpacked(self.scales, own, outputs, index[1])
        return self.tensor.read((own, *index[1:], outputs))[0].T

    def _unpacked(self, scales: Tensor, own: slice, outputs: slice, inputs: slice) -> np.ndarray:
        first = inputs.start // GROUP
        groups = slice(first, -(-inputs.stop // GROUP))
        pairs = self.tensor.read((own, outputs, groups, slice(None)))[0]
        powers = scales.read((own, outputs, groups))[0].astype(np.int32) - 127
        numbers = FP4[np.stack([pairs & 15, pairs >> 4], axis=-1)]
        found = np.ldexp(numbers, powers[..., None, None]).reshape(len(numbers), -1)
        return found[:, inputs.start - first * GROUP : inputs.stop - first * GROUP]


def split(found: Mapping[str, Tensor]) -> dict[str, Tensor | Part]:
    """A file's tensors, with single experts' in place of those of all; what is not as it should be
    stays as it is."""
    own: dict[str, Tensor | Part] = dict(found)
    for name, tensor in found.items():
        fused = FUSED.fullmatch(name)
        scales = found.get(f"{name.removesuffix('_blocks')}_scales")
        if not fused or len(tensor.shape) != AXES[fused[3]]:
            continue
        if fused[3] == "_blocks":
            if scales is None or scales.shape != tensor.shape[:-1]:
                continue
            if {tensor.dtype, scales.dtype} != {"U8"}:
                continue
            del own[f"{name.removesuffix('_blocks')}_scales"]
        else:
            scales = None
        del own[name]
        parts, kind = PARTS[fused[2]], "bias" if fused[3] == "_bias" else "weight"
        own |= {
            f"{fused[1]}.{expert}.{part}.{kind}": Part(tensor, scales, expert, first, len(parts))
            for expert in range(tensor.shape[0])
            for first, part in enumerate(parts)
        }
    return own


def file_of(name: str) -> str:
    """The file's tensor that one belongs to."""
    single = SINGLE.fullmatch(name)
    if not single:
        return name
    fused = "down_proj" if single[2] == "down" else "gate_up_proj"
    return f"{single[1]}.{fused}{'_bias' if single[3] == 'bias' else ''}"


def files(names: Iterable[str]) -> dict[str, list[str]]:
    """The tensors of a file, and the names of those that make up each: of all gates, then ups."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(file_of(name), []).append(name)
    return found


def shape(
    file: str, names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    """Of a file's tensor."""
    own = shapes[names[0]]
    if file == names[0]:
        return own
    parts = len(PARTS[file.rpartition(".")[2].removesuffix("_bias")])
    return len(names) // parts, *own[:0:-1], own[0] * parts


def gathered(
    content: Mapping[str, Sequence[str]],
    shapes: Mapping[str, tuple[int, ...]],
    arrays: Iterator[np.ndarray],
) -> Iterator[np.ndarray]:
    """The tensors of a file, from those that make them up, in the order of `content`."""
    for file, names in content.items():
        if file == names[0]:
            yield next(arrays)
            continue
        whole = np.empty(0)
        for number, array in zip(range(len(names)), arrays, strict=False):
            if not number:
                whole = np.empty(shape(file, names, shapes), array.dtype)
            part, expert = divmod(number, len(whole))
            whole[expert, ..., part :: len(names) // len(whole)] = array.T
        yield whole
