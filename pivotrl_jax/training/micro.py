"""Micro-batches: the only place that cuts a batch of rows, and the updates that choose the cut."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from pivotrl_jax.models import Params
from pivotrl_jax.models.experts import UNKNOWN
from pivotrl_jax.parallel import gather, put_rows, row_shards
from pivotrl_jax.training.memory import device_memory, needed, rows_per_device, saturating
from pivotrl_jax.training.state import TrainState
from pivotrl_jax.training.update import Metrics, PolicyBatch, SupervisedBatch
from pivotrl_jax.trees import PADDING

Batch = TypeVar("Batch", SupervisedBatch, PolicyBatch)


def micro_batches(batch: Batch, rows: int) -> Batch:
    """[R, ...] as [M, rows, ...]; rows of padding, which weigh nothing, fill the last one."""
    # Zeros would be routes that nobody has recorded, and tokens of a trunk.
    fill = {"routes": UNKNOWN, "segments": PADDING}

    def cut(path: tuple, x: np.ndarray) -> np.ndarray:
        padding = np.full((-len(x) % rows, *x.shape[1:]), fill.get(path[-1].name, 0), x.dtype)
        return np.concatenate([x, padding]).reshape(-1, rows, *x.shape[1:])

    return jax.tree.map_with_path(cut, batch)


def in_micro_batches(
    update: jax.stages.Wrapped,
    mesh: Mesh,
    memory: int | None = None,
    *,
    base: Params | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """`update` of host batches of plain rows [R, ...], which are its last argument; `base` is what
    adapters in training are of.

    Rows are cut into micro-batches that fit `memory` bytes per device (None: what there is), and
    every device has its share of each. The cut is chosen once per shape of a batch, by compiling
    `update` for it, and depends on nothing else, so that a resumed run makes the same. The metrics
    tell it as `micro_tokens`, the tokens of one micro-batch per device, beside `row_tokens`, those
    of all rows with their padding. Raises UserError when one
    row per device does not fit.
    """
    shards = row_shards(mesh)
    # All processes must make the same cut.
    memory = min(gather(device_memory() if memory is None else memory))
    chosen: dict[Hashable, int] = {}
    frozen = {} if base is None else {"base": base}

    def step(*arguments: Any) -> tuple[TrainState, Metrics]:
        *others, batch = arguments
        rows, tokens = batch.tree.shape
        own = -(-tokens // mesh.shape["context"])

        def placed(size: int) -> Any:
            return put_rows(micro_batches(batch, size * shards), mesh, axis=1)

        def need(size: int) -> float:
            # The call below finds this executable in the cache of `jax.jit`.
            return needed(update.lower(*others, placed(size), **frozen))

        leaves, structure = jax.tree.flatten(batch)
        shape = (structure, *(leaf.shape for leaf in leaves))
        if shape not in chosen:
            useful = saturating(mesh.devices.flat[0].platform)
            chosen[shape] = rows_per_device(-(-rows // shards), own, useful, need, memory)
        state, metrics = update(*others, placed(chosen[shape]), **frozen)
        counts = {"micro_tokens": chosen[shape] * own, "row_tokens": rows * tokens}
        return state, metrics | counts

    return step
