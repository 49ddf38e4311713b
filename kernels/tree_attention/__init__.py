"""Attention over token trees: trunks, and the branches that leave them."""

from kernels.tree_attention.api import tree_attention as tree_attention
from kernels.tree_attention.blocked import RESIDUALS as RESIDUALS
from kernels.tree_attention.reference import MASKED as MASKED
