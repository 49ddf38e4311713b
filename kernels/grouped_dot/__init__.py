"""Matrix products of rows that are sorted by group, each group with a matrix of its own."""

from kernels.grouped_dot.api import grouped_dot as grouped_dot
