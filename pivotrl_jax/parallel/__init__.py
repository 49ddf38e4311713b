"""Mesh and sharding table."""

from pivotrl_jax.parallel.mesh import AXES, MeshSettings, make_mesh
from pivotrl_jax.parallel.sharding import (
    abstract_rows,
    constrain,
    placed,
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
    "abstract_rows",
    "constrain",
    "make_mesh",
    "placed",
    "put_rows",
    "replicated",
    "row_shards",
    "rows",
    "shardings",
    "spec",
]
