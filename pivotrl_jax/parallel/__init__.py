"""Mesh and sharding table."""

from pivotrl_jax.parallel.mesh import AXES, MeshSettings, make_mesh
from pivotrl_jax.parallel.sharding import constrain, replicated, rows, shardings, spec

__all__ = [
    "AXES",
    "MeshSettings",
    "constrain",
    "make_mesh",
    "replicated",
    "rows",
    "shardings",
    "spec",
]
