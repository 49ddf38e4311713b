"""Mesh and sharding table."""

from pivotrl_jax.parallel.mesh import AXES, MeshSettings, make_mesh
from pivotrl_jax.parallel.sharding import (
    constrain,
    put_rows,
    replicated,
    row_shards,
    rows,
    shardings,
    spec,
)

__all__ = [
    "AXES",
    "MeshSettings",
    "constrain",
    "make_mesh",
    "put_rows",
    "replicated",
    "row_shards",
    "rows",
    "shardings",
    "spec",
]
