"""How the TPU kernels are called: a grid over rows, heads, blocks and the blocks they visit.

The lists of visits go ahead of the kernels as scalars.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool

from kernels.tree_attention.blocks import Blocks
from kernels.tree_attention.sights import visits


class Specs(NamedTuple):
    """The blocks of what has a place per query or per key."""

    sights: pl.BlockSpec  # [R, 1, 4, T]
    queries: pl.BlockSpec  # [R, H, G, T, E]
    outputs: pl.BlockSpec  # [R, H, G, E, T]
    statistics: pl.BlockSpec  # [R, H, G, T]
    keys: pl.BlockSpec  # [R, H, T, E]


def specs(blocks: Blocks, groups: int, width: int, visiting: Literal["queries", "keys"]) -> Specs:
    """The grid is (row, head, outer block, visit); blocks of `visiting` follow the list."""

    def spec(side: str, *shape: int, axis: int, per_head: bool = True) -> pl.BlockSpec:
        def place(r: int, h: int, i: int, j: int, count_RI: Array, order_RIJ: Array) -> tuple:
            block = order_RIJ[r, i, j] if side == visiting else i
            rest = (block if a == axis else 0 for a in range(len(shape)))
            return r, h if per_head else 0, *rest

        return pl.BlockSpec((None, None, *shape), place)

    return Specs(
        sights=spec("queries", 4, blocks.queries, axis=1, per_head=False),
        queries=spec("queries", groups, blocks.queries, width, axis=1),
        outputs=spec("queries", groups, width, blocks.queries, axis=2),
        statistics=spec("queries", groups, blocks.queries, axis=1),
        keys=spec("keys", blocks.keys, width, axis=0),
    )


def call(
    kernel: Callable[..., None],
    seen_RIJ: Bool[Array, "R I J"],
    heads: int,
    inputs: Sequence[tuple[Array, pl.BlockSpec]],
    outputs: Sequence[tuple[jax.ShapeDtypeStruct, pl.BlockSpec]],
    interpret: bool,
    scratch: Sequence[Any] = (),
) -> tuple[Array, ...]:
    """Runs `kernel` over all rows, heads, blocks I and the blocks J that they visit."""
    rows, outer, most = seen_RIJ.shape
    arrays, in_specs = zip(*inputs, strict=True)
    shapes, out_specs = zip(*outputs, strict=True)
    run = pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(rows, heads, outer, most),
            in_specs=in_specs,
            out_specs=out_specs,
            scratch_shapes=scratch,
        ),
        out_shape=shapes,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
        ),
        interpret=interpret,
        name=f"tree_attention_{kernel.__name__}",
    )
    return run(*visits(seen_RIJ), *arrays)
