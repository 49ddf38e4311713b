"""Which blocks of queries and keys have to do with each other.

A token sees two runs of keys: its trunk up to its prefix, and its own branch from its first token
up to itself. So three integers per query (`sights`) hold the whole mask, and a list per block names
the blocks of the other side that it visits: what no list names is neither read nor multiplied.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from kernels.tree_attention.blocks import Blocks
from pivotrl_jax.trees import TokenTree


def sights(tree: TokenTree, padded: int) -> Int[Array, "R 1 3 T"]:
    """Every token sees [first, prefix) and [own, itself]: its first, prefix and own, int32.

    A trunk token's own run is empty, as its prefix reaches beyond itself; padding, which has first,
    prefix and position 0, sees nothing but itself.
    """
    widths = ((0, 0), (0, padded - tree.shape[1]))
    fields = (tree.first, tree.prefix, tree.positions)
    first_RT, prefix_RT, positions_RT = (jnp.pad(x, widths) for x in fields)
    own_RT = jnp.arange(padded) - (positions_RT - (prefix_RT - first_RT))
    return jnp.stack([first_RT, prefix_RT, own_RT], axis=1)[:, None].astype(jnp.int32)


def seen(sights_R13T: Int[Array, "R 1 3 T"], blocks: Blocks) -> Bool[Array, "R I J"]:
    """Whether any query of block i sees any key of block j.

    Exact where a row holds one tree: the branches in a block of queries lie one after the other, so
    that their own runs make one run. With several trees, keys between two trunks' prefixes come
    along.
    """
    rows, _, _, padded = sights_R13T.shape
    first_RIQ, prefix_RIQ, own_RIQ = jnp.moveaxis(
        sights_R13T[:, 0].reshape(rows, 3, -1, blocks.queries), 1, 0
    )
    first_RIQ = jnp.where(first_RIQ < prefix_RIQ, first_RIQ, padded)
    first_RI1, own_RI1 = (x.min(-1, keepdims=True) for x in (first_RIQ, own_RIQ))
    prefix_RI1 = prefix_RIQ.max(-1, keepdims=True)
    start_J = jnp.arange(0, padded, blocks.keys)
    end_J = start_J + blocks.keys
    end_I1 = blocks.queries * (1 + jnp.arange(padded // blocks.queries))[:, None]
    on_trunk = (start_J < prefix_RI1) & (end_J > first_RI1)
    return on_trunk | ((end_J > own_RI1) & (start_J < end_I1))


def visits(seen_RIJ: Bool[Array, "R I J"]) -> tuple[Int[Array, "R I"], Int[Array, "R I J"]]:
    """How many blocks each outer block visits, and which: those that are seen, in order.

    The rest of the list repeats the last of them: a kernel does not fetch a block that is there
    already. Every token sees itself, so there is one.
    """
    count_RI = seen_RIJ.sum(axis=-1, dtype=jnp.int32)
    order_RIJ = jnp.argsort(~seen_RIJ, axis=-1, stable=True).astype(jnp.int32)
    last_RI1 = jnp.take_along_axis(order_RIJ, count_RI[..., None] - 1, axis=-1)
    visit = jnp.arange(seen_RIJ.shape[-1]) < count_RI[..., None]
    return count_RI, jnp.where(visit, order_RIJ, last_RI1)
