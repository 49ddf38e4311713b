"""Tree attention on TPU in blocks of queries and keys; blocks that nobody sees cost nothing.

JAX's splash attention takes a mask that is known when tracing, or else one of [heads, T, T]
booleans per row and per pass, in HBM; tokamax takes the intersection of runs of keys, where ours
is a union, and no grouped queries on TPU. Hence kernels of our own.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from kernels.tree_attention import blocked, pallas_grid, pallas_kernels
from kernels.tree_attention.blocks import Blocks
from kernels.tree_attention.sights import seen
from pivotrl_jax.trees import TokenTree


def tree_attention(
    q_RTHGE: Float[Array, "R T H G E"],
    k_RTHE: Float[Array, "R T H E"],
    v_RTHE: Float[Array, "R T H E"],
    tree: TokenTree,
    blocks: Blocks,
    window: Int[Array, ""] | None = None,
    sinks_HG: Float[Array, "H G"] | None = None,
    interpret: bool = False,
) -> Float[Array, "R T H G E"]:
    """As `reference.tree_attention`, by the kernels; `interpret` runs them on any backend."""
    passes = blocked.Passes(
        functools.partial(attend, interpret=interpret),
        functools.partial(differentiate, interpret=interpret),
    )
    return blocked.tree_attention(q_RTHGE, k_RTHE, v_RTHE, tree, window, sinks_HG, passes, blocks)


def attend(
    q_RHGTE: Float[Array, "R H G T E"],
    k_RHTE: Float[Array, "R H T E"],
    v_RHTE: Float[Array, "R H T E"],
    sights_R14T: Int[Array, "R 1 4 T"],
    blocks: Blocks,
    interpret: bool,
) -> tuple[Array, Array]:
    rows, heads, groups, length, width = q_RHGTE.shape
    specs = pallas_grid.specs(blocks, groups, width, visiting="keys")
    out = jax.ShapeDtypeStruct((rows, heads, groups, width, length), q_RHGTE.dtype)
    lse = jax.ShapeDtypeStruct((rows, heads, groups, length), jnp.float32)
    statistic = pltpu.VMEM((groups, blocks.queries), jnp.float32)
    accumulator = pltpu.VMEM((groups, width, blocks.queries), jnp.float32)
    out_RHGET, lse_RHGT = pallas_grid.call(
        pallas_kernels.attend,
        seen(sights_R14T, blocks, k_RHTE.shape[2]),
        heads,
        [
            (sights_R14T, specs.sights), (q_RHGTE, specs.queries),
            (k_RHTE, specs.keys), (v_RHTE, specs.keys),
        ],
        [(out, specs.outputs), (lse, specs.statistics)],
        interpret,
        scratch=[statistic, statistic, accumulator],
    )  # fmt: skip
    return out_RHGET.swapaxes(-1, -2), lse_RHGT


def differentiate(
    q_RHGTE: Float[Array, "R H G T E"],
    k_RHTE: Float[Array, "R H T E"],
    v_RHTE: Float[Array, "R H T E"],
    sights_R14T: Int[Array, "R 1 4 T"],
    d_out_RHGTE: Float[Array, "R H G T E"],
    lse_RHGT: Float[Array, "R H G T"],
    delta_RHGT: Float[Array, "R H G T"],
    blocks: Blocks,
    interpret: bool,
) -> tuple[Float[Array, "R H G T E"], Float[Array, "R H T E"], Float[Array, "R H T E"]]:
    """In two runs, because each keeps one side's sums in VMEM until they are complete."""
    rows, heads, groups, length, width = q_RHGTE.shape
    seen_RIJ = seen(sights_R14T, blocks, k_RHTE.shape[2])
    d_q = jax.ShapeDtypeStruct((rows, heads, groups, width, length), jnp.float32)
    d_k = jax.ShapeDtypeStruct(k_RHTE.shape, jnp.float32)

    def inputs(specs: pallas_grid.Specs) -> list:
        return [
            (sights_R14T, specs.sights), (q_RHGTE, specs.queries),
            (k_RHTE, specs.keys), (v_RHTE, specs.keys), (d_out_RHGTE, specs.queries),
            (lse_RHGT, specs.statistics), (delta_RHGT, specs.statistics),
        ]  # fmt: skip

    specs = pallas_grid.specs(blocks, groups, width, visiting="keys")
    (d_q_RHGET,) = pallas_grid.call(
        pallas_kernels.differentiate_queries, seen_RIJ, heads, inputs(specs),
        [(d_q, specs.outputs)], interpret,
    )  # fmt: skip
    specs = pallas_grid.specs(blocks, groups, width, visiting="queries")
    d_k_RHTE, d_v_RHTE = pallas_grid.call(
        pallas_kernels.differentiate_keys, seen_RIJ.swapaxes(1, 2), heads, inputs(specs),
        [(d_k, specs.keys), (d_k, specs.keys)], interpret,
    )  # fmt: skip
    return d_q_RHGET.swapaxes(-1, -2), d_k_RHTE, d_v_RHTE
