"""Checkpoints of the whole training state by Orbax."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from pivotrl_jax.errors import UserError
from pivotrl_jax.training.data import Batches
from pivotrl_jax.training.state import TrainState


class Checkpointer:
    """Saves and restores (train state, data position); the last `keep` steps stay on disk.

    Writes are synchronous and atomic: on CPU an asynchronous write would still read buffers that
    the next, donating update reuses.
    """

    def __init__(self, directory: Path, keep: int = 1) -> None:
        directory = directory.absolute()
        directory.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, create=True
        )
        self._directory = directory
        self._manager = ocp.CheckpointManager(directory, options=options)

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(
        self, state: TrainState, data: Batches, position: dict[str, Any] | None = None
    ) -> None:
        """`position` is a state that `data` had before (None: the one it is in)."""
        step = int(jax.device_get(state.step))
        if step == self.latest():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=ocp.args.JsonSave(data.get_state() if position is None else position),
        )
        try:
            self._manager.save(step, args=items)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self._directory}: the checkpoint of step {step} could not be written "
                f"({error}); free some space and run the same command again, it resumes from step "
                f"{self.latest() or 0}."
            ) from error

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The latest state, laid out as `like` (real or abstract), and that of its `Batches`."""
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
        )
        restored: Any = self._manager.restore(self.latest(), args=items)
        return restored["state"], restored["data"]

    def close(self) -> None:
        self._manager.close()
