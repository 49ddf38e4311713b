"""Mesh, sharding table and compiler flags."""

from pivotrl_jax.parallel.mesh import AXES, MeshSettings, make_mesh
from pivotrl_jax.parallel.platform import VARIABLES, set_flags
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
    "VARIABLES",
    "MeshSettings",
    "abstract_rows",
    "constrain",
    "make_mesh",
    "placed",
    "put_rows",
    "replicated",
    "row_shards",
    "rows",
    "set_flags",
    "shardings",
    "spec",
]
