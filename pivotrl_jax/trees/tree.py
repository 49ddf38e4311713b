"""Token trees: trunks and the branches that leave them, in one row of tokens.

A row holds the tokens of one or several trunks first and then every branch's own tokens, one branch
after the other, padded to a static size. A branch that leaves its trunk at
`start` has the sequence `trunk[:start] + suffix`. Each token knows which places of its trunk it
sees and which branch it belongs to, and that is all a decoder-only transformer needs: log-probs,
losses and gradients equal those of one row per sequence, at the cost of the trunks once plus the
branches' own tokens.
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


@dataclasses.dataclass(frozen=True, eq=False)
class Tree:
    """A trunk and its branches (start, suffix tokens)."""

    trunk: Int[np.ndarray, "L"]
    branches: Sequence[tuple[int, Int[np.ndarray, "S"]]] = ()

    @property
    def own(self) -> int:
        """Tokens of all branches."""
        return sum(len(suffix) for _, suffix in self.branches)


@flax.struct.dataclass
class TokenTree:
    """Rows of trees; every array is int32 [R, T].

    Of its trunk a token sees the places from `first` up to, not including, `prefix`.
    """

    tokens: Int[Array, "R T"]
    positions: Int[Array, "R T"]  # place in the token's own sequence, from 0
    first: Int[Array, "R T"]
    prefix: Int[Array, "R T"]
    segments: Int[Array, "R T"]  # 0 trunk, 1.. branches, -1 padding
    parents: Int[Array, "R T"]  # row index of the token before it in its sequence

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tokens.shape


def build_row(trees: Sequence[Tree], size: int) -> TokenTree:
    """One row [1, size] of trees.

    Raises ValueError when the tokens do not fit or a branch starts outside its trunk.
    """
    trunks, own = sum(len(tree.trunk) for tree in trees), sum(tree.own for tree in trees)
    if trunks + own > size:
        raise ValueError(f"{trunks} trunk and {own} branch tokens exceed a row of {size}")
    row = np.zeros((6, size), np.int32)
    row[4] = PADDING
    first, at, segment = 0, trunks, 0
    for tree in trees:
        _put(row, first, tree.trunk, first=first, start=0, segment=0)
        for start, suffix in tree.branches:
            segment += 1
            if not 0 < start <= len(tree.trunk):
                raise ValueError(
                    f"branch {segment} starts at {start} of a trunk of {len(tree.trunk)} tokens"
                )
            _put(row, at, suffix, first=first, start=start, segment=segment)
            at += len(suffix)
        first += len(tree.trunk)
    tokens, positions, firsts, prefix, segments, parents = row[:, None]
    return TokenTree(tokens, positions, firsts, prefix, segments, parents)


def _put(
    row: np.ndarray, at: int, suffix: np.ndarray, *, first: int, start: int, segment: int
) -> None:
    """Writes what follows `start` tokens of the trunk at `first` to the places from `at`."""
    places = np.arange(at, at + len(suffix))
    parents = places - 1
    parents[:1] = first + max(start - 1, 0)
    prefix = first + start if segment else places + 1
    fields = (suffix, start + places - at, first, prefix, segment, parents)
    for field, values in zip(row, fields, strict=True):
        field[places] = values


def causal(tokens_RT: Array) -> TokenTree:
    """The flat layout: every row is one plain causal sequence."""
    xp = np if isinstance(tokens_RT, np.ndarray) else jax.numpy
    index = xp.broadcast_to(xp.arange(tokens_RT.shape[1], dtype=xp.int32), tokens_RT.shape)
    return TokenTree(
        tokens_RT,
        index,
        xp.zeros_like(index),
        index + 1,
        xp.zeros_like(index),
        xp.maximum(index - 1, 0),
    )


def stack(rows: Sequence[TokenTree]) -> TokenTree:
    """Rows of equal size as one tree [R, T]."""
    return jax.tree.map(lambda *xs: np.concatenate(xs), *rows)


def visible(
    tree: TokenTree,
    queries: slice,
    keys: Int[np.ndarray, "T"],
    window: Int[Array, ""] | None = None,
) -> Bool[Array, "R Q T"]:
    """Which of the tokens at `keys` each of the tokens `queries` attends to.

    A token sees its trunk up to its prefix, and its own branch up to itself; under a window only
    those whose positions are among the last `window` up to its own. Padding sees nothing but
    itself, so that its softmax stays finite.
    """
    own = lambda x: x[:, queries, None]  # noqa: E731
    index = np.arange(tree.shape[1])[queries, None]
    trunk = (keys >= own(tree.first)) & (keys < own(tree.prefix))
    same = own(tree.segments) == tree.segments[:, None, keys]
    seen = trunk | (same & (own(tree.segments) > 0) & (keys <= index)) | (keys == index)
    if window is None:
        return seen
    return seen & (tree.positions[:, None, keys] > own(tree.positions) - window)
