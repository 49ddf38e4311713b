"""Attention over token trees: trunks, and the branches that leave them."""

from kernels.tree_attention.api import tree_attention as tree_attention
from kernels.tree_attention.reference import MASKED as MASKED
from kernels.tree_attention.xla import RESIDUALS as RESIDUALS
