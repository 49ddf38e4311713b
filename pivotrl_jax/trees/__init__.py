"""Token trees: one row holds trajectories and every action sampled along them."""

from pivotrl_jax.trees.packing import balanced, chunks, filled, round_up
from pivotrl_jax.trees.tree import (
    PADDING,
    TokenTree,
    Tree,
    build_row,
    causal,
    stack,
    visible,
)

__all__ = [
    "PADDING",
    "TokenTree",
    "Tree",
    "balanced",
    "build_row",
    "causal",
    "chunks",
    "filled",
    "round_up",
    "stack",
    "visible",
]
