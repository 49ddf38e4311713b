"""Tree attention on TPU in blocks of queries and keys; blocks that nobody sees cost nothing.

JAX's splash attention takes a mask that is known when tracing, or else one of [heads, T, T]
booleans per row and per pass, in HBM; tokamax takes the intersection of runs of keys, where ours
is a union, and no grouped queries on TPU. Hence kernels of our own.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from kernels.backend import on_mesh
from kernels.tree_attention import pallas_grid, pallas_kernels
from kernels.tree_attention.blocks import Blocks
from kernels.tree_attention.xla import RESIDUALS
from pivotrl_jax.trees import TokenTree

# Every operand of the kernels is [R, H, ...], or [R, 1, ...] where the heads share it.
ROWS_AND_HEADS = ("rows", "kv_heads")


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def tree_attention(
    q_RTHGE: Float[Array, "R T H G E"],
    k_RTHE: Float[Array, "R T H E"],
    v_RTHE: Float[Array, "R T H E"],
    tree: TokenTree,
    blocks: Blocks,
    interpret: bool = False,
) -> Float[Array, "R T H G E"]:
    """As `reference.tree_attention`, with one block of scores in memory at a time."""
    return _forward(q_RTHGE, k_RTHE, v_RTHE, tree, blocks, interpret)[0]


def _forward(
    q_RTHGE: Float[Array, "R T H G E"],
    k_RTHE: Float[Array, "R T H E"],
    v_RTHE: Float[Array, "R T H E"],
    tree: TokenTree,
    blocks: Blocks,
    interpret: bool,
) -> tuple[Float[Array, "R T H G E"], tuple]:
    attend = functools.partial(_attend, blocks=blocks, interpret=interpret)
    operands = _operands(q_RTHGE, k_RTHE, v_RTHE, tree, blocks)
    out_RHGET, lse_RHGT = on_mesh(attend, [ROWS_AND_HEADS] * len(operands))(*operands)
    out_RTHGE = jnp.moveaxis(out_RHGET, -1, 1)[:, : q_RTHGE.shape[1]]
    out_RTHGE = checkpoint_name(out_RTHGE, RESIDUALS[0])
    lse_RHGT = checkpoint_name(lse_RHGT, RESIDUALS[1])
    return out_RTHGE, (q_RTHGE, k_RTHE, v_RTHE, tree, out_RTHGE, lse_RHGT)


def _backward(
    blocks: Blocks, interpret: bool, residuals: tuple, d_out_RTHGE: Float[Array, "R T H G E"]
) -> tuple[Array, Array, Array, None]:
    q_RTHGE, k_RTHE, v_RTHE, tree, out_RTHGE, lse_RHGT = residuals
    length, padded = q_RTHGE.shape[1], lse_RHGT.shape[-1]
    products = d_out_RTHGE.astype(jnp.float32) * out_RTHGE.astype(jnp.float32)
    delta_RHGT = _heads_first(products.sum(axis=-1, keepdims=True), padded)[..., 0]
    d_out_RHGTE = _heads_first(d_out_RTHGE, padded)
    operands = _operands(q_RTHGE, k_RTHE, v_RTHE, tree, blocks)
    operands += (d_out_RHGTE, lse_RHGT, delta_RHGT)
    differentiate = functools.partial(_differentiate, blocks=blocks, interpret=interpret)
    run = on_mesh(differentiate, [ROWS_AND_HEADS] * len(operands))
    d_q_RHGET, d_k_RHTE, d_v_RHTE = run(*operands)
    d_q_RTHGE = jnp.moveaxis(d_q_RHGET, -1, 1)[:, :length] * q_RTHGE.shape[-1] ** -0.5
    d_k_RTHE, d_v_RTHE = (d.swapaxes(1, 2)[:, :length] for d in (d_k_RHTE, d_v_RHTE))
    return (
        d_q_RTHGE.astype(q_RTHGE.dtype),
        d_k_RTHE.astype(k_RTHE.dtype),
        d_v_RTHE.astype(v_RTHE.dtype),
        None,
    )


tree_attention.defvjp(_forward, _backward)


def _operands(
    q_RTHGE: Float[Array, "R T H G E"],
    k_RTHE: Float[Array, "R T H E"],
    v_RTHE: Float[Array, "R T H E"],
    tree: TokenTree,
    blocks: Blocks,
) -> tuple[Array, ...]:
    """Scaled queries, keys, values and what each query sees, padded to whole blocks."""
    whole = max(blocks.queries, blocks.keys)
    padded = -(-q_RTHGE.shape[1] // whole) * whole
    return (
        _heads_first(q_RTHGE * q_RTHGE.shape[-1] ** -0.5, padded),
        _heads_first(k_RTHE, padded),
        _heads_first(v_RTHE, padded),
        pallas_grid.sights(tree, padded),
    )


def _heads_first(x: Float[Array, "R T H *G E"], padded: int) -> Float[Array, "R H *G T E"]:
    """Padding is part of the transposition, and spares the kernels the care of ragged ends."""
    x = jnp.moveaxis(x, 1, -2)
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, padded - x.shape[-2]), (0, 0)])


def _attend(
    q_RHGTE: Float[Array, "R H G T E"],
    k_RHTE: Float[Array, "R H T E"],
    v_RHTE: Float[Array, "R H T E"],
    sights_R13T: Int[Array, "R 1 3 T"],
    blocks: Blocks,
    interpret: bool,
) -> tuple[Array, ...]:
    """Outputs [R, H, G, E, T], in the queries' dtype, and log-sum-exps [R, H, G, T], float32."""
    rows, heads, groups, length, width = q_RHGTE.shape
    specs = pallas_grid.specs(blocks, groups, width, visiting="keys")
    out_RHGET = jax.ShapeDtypeStruct((rows, heads, groups, width, length), q_RHGTE.dtype)
    lse_RHGT = jax.ShapeDtypeStruct((rows, heads, groups, length), jnp.float32)
    statistic = pltpu.VMEM((groups, blocks.queries), jnp.float32)
    accumulator = pltpu.VMEM((groups, width, blocks.queries), jnp.float32)
    return pallas_grid.call(
        pallas_kernels.attend,
        pallas_grid.seen(sights_R13T, blocks),
        heads,
        [
            (sights_R13T, specs.sights), (q_RHGTE, specs.queries),
            (k_RHTE, specs.keys), (v_RHTE, specs.keys),
        ],
        [(out_RHGET, specs.outputs), (lse_RHGT, specs.statistics)],
        interpret,
        scratch=[statistic, statistic, accumulator],
    )  # fmt: skip


def _differentiate(
    q_RHGTE: Float[Array, "R H G T E"],
    k_RHTE: Float[Array, "R H T E"],
    v_RHTE: Float[Array, "R H T E"],
    sights_R13T: Int[Array, "R 1 3 T"],
    d_out_RHGTE: Float[Array, "R H G T E"],
    lse_RHGT: Float[Array, "R H G T"],
    delta_RHGT: Float[Array, "R H G T"],
    blocks: Blocks,
    interpret: bool,
) -> tuple[Float[Array, "R H G E T"], Float[Array, "R H T E"], Float[Array, "R H T E"]]:
    """Gradients of the scaled queries, of keys and of values, float32.

    With P the softmax: dV = P^T dO, dS = P (dO V^T - delta), dQ = dS K, dK = dS^T Q, where delta
    is the row sum of dO O (Dao et al. 2022). Two passes, because each keeps one side's sums in VMEM
    until they are complete.
    """
    rows, heads, groups, length, width = q_RHGTE.shape
    seen_RIJ = pallas_grid.seen(sights_R13T, blocks)
    d_q = jax.ShapeDtypeStruct((rows, heads, groups, width, length), jnp.float32)
    d_k = jax.ShapeDtypeStruct(k_RHTE.shape, jnp.float32)

    def inputs(specs: pallas_grid.Specs) -> list:
        return [
            (sights_R13T, specs.sights), (q_RHGTE, specs.queries),
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
    return d_q_RHGET, d_k_RHTE, d_v_RHTE
