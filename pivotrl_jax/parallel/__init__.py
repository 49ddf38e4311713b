"""Mesh, sharding table and compiler flags; the processes of a run on several hosts."""

from pivotrl_jax.parallel.exchange import divided, fetch, first, from_first, gather, highest, mine
from pivotrl_jax.parallel.hosts import leave, require_shared, start
from pivotrl_jax.parallel.mesh import AXES, MeshSettings, make_mesh
from pivotrl_jax.parallel.platform import VARIABLES, set_flags
from pivotrl_jax.parallel.sharding import (
    abstract_rows,
    constrain,
    merged,
    parts,
    placed,
    put_rows,
    put_whole,
    replicated,
    row_shards,
    rows,
    shardings,
    spec,
    unmerged,
)

__all__ = [
    "AXES",
    "VARIABLES",
    "MeshSettings",
    "abstract_rows",
    "constrain",
    "divided",
    "fetch",
    "first",
    "from_first",
    "gather",
    "highest",
    "leave",
    "make_mesh",
    "merged",
    "mine",
    "parts",
    "placed",
    "put_rows",
    "put_whole",
    "replicated",
    "require_shared",
    "row_shards",
    "rows",
    "set_flags",
    "shardings",
    "spec",
    "start",
    "unmerged",
]
