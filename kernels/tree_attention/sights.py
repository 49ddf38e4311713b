"""Which blocks of queries and keys have to do with each other.

A token sees two runs of keys: its trunk up to its prefix, and its own branch from its first token
up to itself. So four integers per query (`sights`) hold the whole mask, wherever the query itself
lies, and a list per block names the blocks of the other side that it visits: what no list names is
neither read nor multiplied.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from kernels.tree_attention.blocks import Blocks
from pivotrl_jax.trees import TokenTree


def sights(
    tree: TokenTree, padded: int, window: Int[Array, ""] | None = None
) -> Int[Array, "R 1 4 T"]:
    """Every token sees [first, prefix) and [own, end): these four, int32; `end` is behind itself.

    A trunk token's own run is empty, as its prefix reaches beyond itself; padding, which has first,
    prefix and position 0, sees nothing but itself. Along both runs positions grow by one per
    place, so that a window only moves their beginnings.
    """
    widths = ((0, 0), (0, padded - tree.shape[1]))
    fields = (tree.first, tree.prefix, tree.positions)
    first_RT, prefix_RT, positions_RT = (jnp.pad(x, widths) for x in fields)
    index_T = jnp.arange(padded)
    own_RT = index_T - (positions_RT - (prefix_RT - first_RT))
    if window is not None:
        first_RT = jnp.maximum(first_RT, first_RT + positions_RT - window + 1)
        own_RT = jnp.maximum(own_RT, index_T - window + 1)
    end_RT = jnp.broadcast_to(index_T + 1, own_RT.shape)
    return jnp.stack([first_RT, prefix_RT, own_RT, end_RT], axis=1)[:, None].astype(jnp.int32)


def seen(sights_R14T: Int[Array, "R 1 4 T"], blocks: Blocks, keys: int) -> Bool[Array, "R I J"]:
    """Whether any query of block i sees any key of block j, of `keys` keys."""
    rows = len(sights_R14T)
    start_J = jnp.arange(0, keys, blocks.keys)
    end_J = start_J + blocks.keys
    first, prefix, own, end = jnp.moveaxis(sights_R14T[:, 0, :, :, None], 1, 0)
    on_trunk_RTJ = (first < prefix) & (start_J < prefix) & (end_J > first)
    on_own_RTJ = (end_J > own) & (start_J < end)
    return (on_trunk_RTJ | on_own_RTJ).reshape(rows, -1, blocks.queries, len(start_J)).any(axis=2)


def visits(seen_RIJ: Bool[Array, "R I J"]) -> tuple[Int[Array, "R I"], Int[Array, "R I J"]]:
    """How many blocks each outer block visits, and which: those that are seen, in order.

    The rest of the list repeats the last of them: a kernel does not fetch a block that is there
    already. Every query sees itself, but a block of keys may be seen by none of these queries.
    """
    count_RI = seen_RIJ.sum(axis=-1, dtype=jnp.int32)
    order_RIJ = jnp.argsort(~seen_RIJ, axis=-1, stable=True).astype(jnp.int32)
    last_RI1 = jnp.take_along_axis(order_RIJ, jnp.maximum(count_RI[..., None] - 1, 0), axis=-1)
    visit = jnp.arange(seen_RIJ.shape[-1]) < count_RI[..., None]
    return count_RI, jnp.where(visit, order_RIJ, last_RI1)
