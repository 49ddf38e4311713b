"""Token trees: a trunk and the branches that leave it, in one row of tokens.

A row holds the trunk's tokens first and then every branch's own tokens, one branch after the
other, each part padded to a static size (`Layout`). A branch that leaves the trunk at `start` has
the sequence `trunk[:start] + suffix`. Each token knows how many leading trunk tokens it sees and
which branch it belongs to, and that is all a decoder-only transformer needs: log-probs, losses and
gradients equal those of one row per sequence, at the cost of the trunk once plus the branches' own
tokens.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import numpy as np
from jaxtyping import Bool, Int

# NumPy on the host while a batch is put together, jax.Array on devices.
Array = Any

PADDING = -1


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a row's tokens lie: `trunk` places, then `branches` places for all branches together.

    No branch has more than `reach` tokens of its own, so that attention within a branch reads no
    further back than that.
    """

    trunk: int
    branches: int = 0
    reach: int = 0

    @property
    def size(self) -> int:
        return self.trunk + self.branches


@flax.struct.dataclass
class TokenTree:
    """Rows of trunk and branches; every array is int32 [R, T]."""

    tokens: Int[Array, "R T"]
    positions: Int[Array, "R T"]  # place in the token's own sequence, from 0
    prefix: Int[Array, "R T"]  # leading trunk tokens this token may see
    segments: Int[Array, "R T"]  # 0 trunk, 1.. branches, -1 padding
    parents: Int[Array, "R T"]  # row index of the token before it in its sequence
    layout: Layout = flax.struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tokens.shape


def build_row(
    trunk: np.ndarray, branches: Sequence[tuple[int, np.ndarray]], layout: Layout
) -> TokenTree:
    """One row [1, T] of a trunk and branches (start, suffix tokens).

    Raises ValueError when the tokens do not fit `layout` or a branch starts outside the trunk.
    """
    lengths = [len(suffix) for _, suffix in branches]
    n, used, longest = len(trunk), sum(lengths), max(lengths, default=0)
    if n > layout.trunk or used > layout.branches or longest > layout.reach:
        raise ValueError(f"{n} trunk and {used} branch tokens (at most {longest}) exceed {layout}")
    row = np.zeros((5, layout.size), np.int32)
    tokens, positions, prefix, segments, parents = row
    segments[:] = PADDING
    tokens[:n] = trunk
    positions[:n] = np.arange(n)
    prefix[:n] = np.arange(1, n + 1)
    segments[:n] = 0
    parents[:n] = np.maximum(np.arange(n) - 1, 0)
    at = layout.trunk
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
    return TokenTree(
        tokens[None], positions[None], prefix[None], segments[None], parents[None], layout
    )


def causal(tokens_RT: Array) -> TokenTree:
    """The flat layout: every row is one plain causal sequence."""
    xp = np if isinstance(tokens_RT, np.ndarray) else jax.numpy
    index = xp.broadcast_to(xp.arange(tokens_RT.shape[1], dtype=xp.int32), tokens_RT.shape)
    return TokenTree(
        tokens_RT,
        index,
        index + 1,
        xp.zeros_like(index),
        xp.maximum(index - 1, 0),
        Layout(trunk=tokens_RT.shape[1]),
    )


def stack(rows: Sequence[TokenTree]) -> TokenTree:
    """Rows of equal size as one tree [R, T]."""
    return jax.tree.map(lambda *xs: np.concatenate(xs), *rows)


def visible(tree: TokenTree, queries: slice, keys: Int[np.ndarray, "T"]) -> Bool[Array, "R Q T"]:
    """Which of the tokens at `keys` each of the tokens `queries` attends to.

    A token sees the trunk up to its prefix, and its own branch up to itself. Padding sees
    nothing but itself, so that its softmax stays finite.
    """
    seg_q, seg_k = tree.segments[:, queries, None], tree.segments[:, None, keys]
    index = np.arange(tree.shape[1])[queries, None]
    trunk = (seg_k == 0) & (tree.positions[:, None, keys] < tree.prefix[:, queries, None])
    branch = (seg_q == seg_k) & (seg_q > 0) & (keys <= index)
    return (trunk & (seg_q >= 0)) | branch | (keys == index)
