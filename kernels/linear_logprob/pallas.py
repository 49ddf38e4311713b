"""The forward pass in Pallas: one program per block of tokens and block of vocabulary.

Each program writes partials of its own, since a revisited output is a race on GPUs. Their tokens
lie on the minor axis: (vocabulary blocks, T, 1) would be padded to 128 lanes on TPUs and be as
large as the logits. The backward pass is `xla.gradients`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float, Int

from kernels.linear_logprob.blocks import Blocks
from kernels.linear_logprob.partials import NEGATIVE, Partials, of_block, stacked
from kernels.linear_logprob.reference import scale

# The least extent of an operand of a Triton matrix product.
TRITON_LEAST = 16


@dataclasses.dataclass(frozen=True)
class Target:
    """What the kernel is compiled for; `interpret` runs that form on any device, slowly."""

    platform: str  # "tpu" or "gpu"
    blocks: Blocks
    interpret: bool = False


def fits(width: int, vocab: int, platform: str) -> bool:
    """Whether the kernel takes a head of this shape: Triton works in powers of two from 16 on."""
    return platform == "tpu" or (width % TRITON_LEAST == 0 and vocab >= TRITON_LEAST)


def _compiler_params(target: Target) -> Any:
    """The one place that knows the compilers. Without Triton's a GPU would get Mosaic GPU."""
    if target.interpret:
        return None
    if target.platform == "gpu":
        return plgpu.CompilerParams(num_warps=8, num_stages=3)
    return pltpu.CompilerParams(dimension_semantics=("parallel", "parallel"))


def _vocab_block(vocab: int, target: Target) -> int:
    """A power of two for Triton; on a TPU the whole of a small vocabulary."""
    if target.platform == "tpu":
        return min(target.blocks.vocab, vocab)
    return min(target.blocks.vocab, 1 << vocab.bit_length() - 1)


def _head_spec(vocab: int, width: int, block: int, target: Target) -> pl.BlockSpec:
    """Mosaic stops at the end of the head; Triton reads on, so its last block is moved back."""
    if target.platform == "tpu":
        return pl.BlockSpec((block, width), lambda t, v: (v, 0))
    return pl.BlockSpec(
        (pl.Element(block), pl.Element(width)),
        lambda t, v: (jnp.minimum(v * block, vocab - block), 0),
    )


def _chunk(width: int, itemsize: int, target: Target) -> int:
    """How much of the width one product takes: all of it, or for Triton 128 bytes."""
    if target.platform == "tpu":
        return width
    return min(width & -width, 128 // itemsize)


def _products(head_ref: Any, hidden_ref: Any, chunk: int) -> Float[Array, "V T"]:
    """Head times hidden states, accumulated in float32 over chunks of the width."""

    def product(span: slice | pl.Slice) -> Float[Array, "V T"]:
        return lax.dot_general(
            head_ref[:, span],
            hidden_ref[:, span],
            (((1,), (1,)), ((), ())),
            preferred_element_type=jnp.float32,
        )

    width = head_ref.shape[1]
    if chunk == width:
        return product(slice(None))
    zeros_VT = jnp.zeros((head_ref.shape[0], hidden_ref.shape[0]), jnp.float32)
    return lax.fori_loop(
        0, width // chunk, lambda i, z_VT: z_VT + product(pl.ds(i * chunk, chunk)), zeros_VT
    )


def _kernel(
    hidden_ref: Any,
    head_ref: Any,
    labels_ref: Any,
    *partial_refs: Any,
    vocab: int,
    moved_back: bool,
    chunk: int,
    temperature: float,
    soft_cap: float | None,
) -> None:
    block = head_ref.shape[0]
    first = pl.program_id(1) * block
    start = jnp.minimum(first, vocab - block) if moved_back else first
    z_VT = scale(_products(head_ref, hidden_ref, chunk), temperature, soft_cap)
    rows_VT = start + lax.broadcasted_iota(jnp.int32, z_VT.shape, 0)
    # Neither rows of the block before nor what lies behind the head, which may be NaN.
    fresh_VT = (rows_VT >= first) & (rows_VT < vocab)
    z_VT = jnp.where(fresh_VT, z_VT, NEGATIVE)
    parts = of_block(z_VT, fresh_VT & (rows_VT == labels_ref[...]), axis=0)
    for ref, part_T in zip(partial_refs, parts, strict=True):
        ref[...] = part_T[None]


def partials(
    hidden_TD: Float[Array, "T D"],
    head_VD: Float[Array, "V D"],
    labels_T: Int[Array, "T"],
    temperature: float,
    soft_cap: float | None,
    target: Target,
) -> Partials:
    """Partials of the whole head; labels outside [0, V) match no row."""
    (tokens, width), vocab = hidden_TD.shape, head_VD.shape[0]
    block_t = min(target.blocks.tokens, max(TRITON_LEAST, pl.next_power_of_2(tokens)))
    block_v = _vocab_block(vocab, target)
    # Padding of hidden states is cheap, of the head it would be a copy of the largest matrix.
    padding = -tokens % block_t
    hidden_TD = jnp.pad(hidden_TD, ((0, padding), (0, 0)))
    labels_1T = jnp.pad(labels_T, (0, padding))[None]
    grid = ((tokens + padding) // block_t, pl.cdiv(vocab, block_v))
    part = jax.ShapeDtypeStruct((grid[1], 1, tokens + padding), jnp.float32)
    parts = pl.pallas_call(
        functools.partial(
            _kernel,
            vocab=vocab,
            moved_back=target.platform == "gpu",
            chunk=_chunk(width, head_VD.dtype.itemsize, target),
            temperature=temperature,
            soft_cap=soft_cap,
        ),
        grid=grid,
        in_specs=[
            pl.BlockSpec((block_t, width), lambda t, v: (t, 0)),
            _head_spec(vocab, width, block_v, target),
            pl.BlockSpec((1, block_t), lambda t, v: (0, t)),
        ],
        out_specs=[pl.BlockSpec((None, 1, block_t), lambda t, v: (v, 0, t))] * 4,
        out_shape=[part] * 4,
        compiler_params=_compiler_params(target),
        interpret=target.interpret,
        name="linear_logprob",
    )(hidden_TD, head_VD, labels_1T)
    return stacked(Partials(*(x[:, 0, :tokens] for x in parts)))
