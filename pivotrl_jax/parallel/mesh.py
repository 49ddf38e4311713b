"""One mesh for sampling, scoring and training."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from pivotrl_jax.errors import UserError

AXES = ("data", "fsdp", "expert", "context", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Devices along each mesh axis; -1 on one axis takes all that remain."""

    data: int = 1
    fsdp: int = -1
    tensor: int = 1
    expert: int = 1
    context: int = 1


def make_mesh(settings: MeshSettings, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Lays the devices out as (data, fsdp, expert, context, tensor), GSPMD-partitioned."""
    devices = list(jax.devices() if devices is None else devices)
    sizes = [getattr(settings, axis) for axis in AXES]
    fixed = int(np.prod([s for s in sizes if s != -1]))
    positive = all(s > 0 or s == -1 for s in sizes)
    if not positive or sizes.count(-1) > 1 or len(devices) % fixed:
        raise UserError(f"mesh {settings} does not divide {len(devices)} devices; change mesh.*")
    shape = [len(devices) // fixed if s == -1 else s for s in sizes]
    if int(np.prod(shape)) != len(devices):
        raise UserError(
            f"mesh {shape} uses {int(np.prod(shape))} of {len(devices)} devices; "
            "set one of mesh.data, mesh.fsdp, mesh.expert, mesh.context or mesh.tensor to -1"
        )
    grid = np.asarray(devices).reshape(shape)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
