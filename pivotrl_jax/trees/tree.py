"""Token trees: a trunk and the branches that leave it, in one row of tokens.

A row holds the trunk's tokens first and then every branch's own tokens, one branch after the
other. A branch that leaves the trunk at `start` has the sequence `trunk[:start] + suffix`. Each
token knows how many leading trunk tokens it sees and which branch it belongs to, and that is all
a decoder-only transformer needs: log-probs, losses and gradients equal those of one row per
sequence, at the cost of the trunk once plus the branches' own tokens.
"""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import numpy as np
from jaxtyping import Bool, Int

# NumPy on the host while a batch is put together, jax.Array on devices.
Array = Any

PADDING = -1


@flax.struct.dataclass
class TokenTree:
    """Rows of trunk and branches; every field is an int32 array [R, T]."""

    tokens: Int[Array, "R T"]
    positions: Int[Array, "R T"]  # place in the token's own sequence, from 0
    prefix: Int[Array, "R T"]  # leading trunk tokens this token may see
    segments: Int[Array, "R T"]  # 0 trunk, 1.. branches, -1 padding
    parents: Int[Array, "R T"]  # row index of the token before it in its sequence

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tokens.shape


def build_row(
    trunk: np.ndarray, branches: Sequence[tuple[int, np.ndarray]], size: int
) -> TokenTree:
    """One row [1, size] of a trunk and branches (start, suffix tokens).

    Raises ValueError when the tokens do not fit or a branch starts outside the trunk.
    """
    used = len(trunk) + sum(len(suffix) for _, suffix in branches)
    if used > size:
        raise ValueError(f"a tree of {used} tokens does not fit a row of {size}")
    row = np.zeros((5, size), np.int32)
    tokens, positions, prefix, segments, parents = row
    segments[:] = PADDING
    n = len(trunk)
    tokens[:n] = trunk
    positions[:n] = np.arange(n)
    prefix[:n] = np.arange(1, n + 1)
    segments[:n] = 0
    parents[:n] = np.maximum(np.arange(n) - 1, 0)
    at = n
    for segment, (start, suffix) in enumerate(branches, 1):
        if not 0 < start <= n:
            raise ValueError(f"branch {segment} starts at {start} of a trunk of {n} tokens")
        own = slice(at, at + len(suffix))
        tokens[own] = suffix
        positions[own] = start + np.arange(len(suffix))
        prefix[own] = start
        segments[own] = segment
        parents[own] = np.arange(at, at + len(suffix)) - 1
        if len(suffix):
            parents[at] = start - 1
        at += len(suffix)
    return TokenTree(*(x[None] for x in row))


def causal(tokens_RT: Array) -> TokenTree:
    """The flat layout: every row is one plain causal sequence."""
    xp = np if isinstance(tokens_RT, np.ndarray) else jax.numpy
    index = xp.broadcast_to(xp.arange(tokens_RT.shape[1], dtype=xp.int32), tokens_RT.shape)
    return TokenTree(tokens_RT, index, index + 1, xp.zeros_like(index), xp.maximum(index - 1, 0))


def stack(rows: Sequence[TokenTree]) -> TokenTree:
    """Rows of equal size as one tree [R, T]."""
    return jax.tree.map(lambda *xs: np.concatenate(xs), *rows)


def visible(tree: TokenTree, queries: slice, keys: slice) -> Bool[Array, "R Q T"]:
    """Which of the tokens `keys` each of the tokens `queries` attends to.

    A token sees the trunk up to its prefix, and its own branch up to itself. Padding sees
    nothing but itself, so that its softmax stays finite.
    """
    seg_q, seg_k = tree.segments[:, queries, None], tree.segments[:, None, keys]
    index = jax.numpy.arange(tree.shape[1])
    before = index[None, keys] <= index[queries, None]
    trunk = (seg_k == 0) & (tree.positions[:, None, keys] < tree.prefix[:, queries, None])
    branch = (seg_q == seg_k) & (seg_q > 0) & before
    itself = index[None, keys] == index[queries, None]
    return (trunk & (seg_q >= 0)) | branch | itself
