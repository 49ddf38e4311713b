"""Token trees: one row holds a trajectory and every sampled action."""

from pivotrl_jax.trees.packing import chunks, round_up
from pivotrl_jax.trees.tree import PADDING, Layout, TokenTree, build_row, causal, stack, visible

__all__ = [
    "PADDING",
    "Layout",
    "TokenTree",
    "build_row",
    "causal",
    "chunks",
    "round_up",
    "stack",
    "visible",
]
