"""Which blocks of queries and keys the TPU kernels visit, and in what order.

A token sees two runs of keys: the trunk up to its prefix, and its own branch from its first token
up to itself. So two integers per query (`sights`) hold the whole mask, and a list per block names
the blocks of the other side that it has to do with. The lists go ahead of the kernels as scalars:
what they do not name is neither read nor multiplied.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Int

from kernels.tree_attention.blocks import Blocks
from pivotrl_jax.trees import TokenTree


def sights(tree: TokenTree, padded: int) -> Int[Array, "R 1 2 T"]:
    """Every token sees [0, prefix) and [first, itself]: its prefix and first, int32.

    A trunk token's own run is empty, as its prefix reaches beyond itself; padding, which has prefix
    and position 0, sees nothing but itself.
    """
    widths = ((0, 0), (0, padded - tree.shape[1]))
    prefix_RT, positions_RT = (jnp.pad(x, widths) for x in (tree.prefix, tree.positions))
    first_RT = jnp.arange(padded) - (positions_RT - prefix_RT)
    return jnp.stack([prefix_RT, first_RT], axis=1)[:, None].astype(jnp.int32)


def seen(sights_R12T: Int[Array, "R 1 2 T"], blocks: Blocks) -> Bool[Array, "R I J"]:
    """Whether any query of block i sees any key of block j.

    Exact: the branches in a block of queries lie one after the other, so that their own runs make
    one run.
    """
    prefix_RIQ, first_RIQ = jnp.moveaxis(
        sights_R12T[:, 0].reshape(sights_R12T.shape[0], 2, -1, blocks.queries), 1, 0
    )
    prefix_RI1, first_RI1 = prefix_RIQ.max(-1, keepdims=True), first_RIQ.min(-1, keepdims=True)
    start_J = jnp.arange(0, sights_R12T.shape[-1], blocks.keys)
    end_I1 = blocks.queries * (1 + jnp.arange(prefix_RIQ.shape[1]))[:, None]
    return (start_J < prefix_RI1) | ((start_J + blocks.keys > first_RI1) & (start_J < end_I1))


def _visits(seen_RIJ: Bool[Array, "R I J"]) -> tuple[Int[Array, "R I"], Int[Array, "R I J"]]:
    """How many blocks each outer block visits, and which: those that are seen, in order.

    The rest of the list repeats the last of them: a block that is there already is not fetched.
    Every token sees itself, so there is one.
    """
    count_RI = seen_RIJ.sum(axis=-1, dtype=jnp.int32)
    order_RIJ = jnp.argsort(~seen_RIJ, axis=-1, stable=True).astype(jnp.int32)
    last_RI1 = jnp.take_along_axis(order_RIJ, count_RI[..., None] - 1, axis=-1)
    visit = jnp.arange(seen_RIJ.shape[-1]) < count_RI[..., None]
    return count_RI, jnp.where(visit, order_RIJ, last_RI1)


class Specs(NamedTuple):
    """The blocks of what has a place per query or per key."""

    sights: pl.BlockSpec  # [R, 1, 2, T]
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
        sights=spec("queries", 2, blocks.queries, axis=1, per_head=False),
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
    rows, outer, visits = seen_RIJ.shape
    arrays, in_specs = zip(*inputs, strict=True)
    shapes, out_specs = zip(*outputs, strict=True)
    run = pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(rows, heads, outer, visits),
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
    return run(*_visits(seen_RIJ), *arrays)
