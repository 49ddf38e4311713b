"""PivotRL (arXiv 2603.21383) in JAX: train agents on the turns where they are undecided."""
