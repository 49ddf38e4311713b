"""Scalars of a training run: JSON lines, TensorBoard event files and, if asked for, W&B."""

import contextlib
import json
import math
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tensorboardX import SummaryWriter

from pivotrl_jax.errors import UserError
from pivotrl_jax.parallel import first


class MetricWriter:
    """Appends one line per step to `directory/metrics.jsonl` and mirrors it to TensorBoard.

    `restored_step` is the step of the checkpoint that the run continues from, None for a fresh
    start; later lines of an earlier attempt are dropped, so that the file has each step once.
    `wandb_project` mirrors to Weights & Biases as well, all attempts to one run there. Of
    several processes the first one writes.
    """

    def __init__(
        self,
        directory: Path,
        restored_step: int | None = None,
        wandb_project: str | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / "metrics.jsonl" if first() else Path(os.devnull)
        restored = -1 if restored_step is None else restored_step
        self._wandb = _start_wandb(wandb_project, directory) if wandb_project and first() else None
        if first():
            _drop_after(self._path, restored)
        self._file = self._path.open("a", encoding="utf-8")
        board, purged = str(directory / "tensorboard"), restored + 1
        self._board = SummaryWriter(board, purge_step=purged, write_to_disk=first())

    def write(self, step: int, seconds: float, scalars: Mapping[str, float]) -> None:
        """Record one step: Python floats only, so that a device value never hides a transfer.

        `seconds` is the duration of the step. A number that is not finite is null in the JSON,
        which has no word for it. Raises UserError when the disk does not take the line.
        """
        row = {"step": step, "seconds": seconds, **scalars}
        line = json.dumps({name: _finite(name, value) for name, value in row.items()})
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"{self._path}: step {step} could not be written ({error.strerror}); free some "
                "space and run the same command again, it resumes from the last checkpoint."
            ) from error
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log({"seconds": seconds, **scalars}, step=step)

    def close(self) -> None:
        # A line that did not fit is still in the buffer; write() has already said so.
        with contextlib.suppress(OSError):
            self._file.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _finite(name: str, value: float) -> float | None:
    if not isinstance(value, int | float):
        raise TypeError(f"metric {name!r} must be a Python number, not {type(value).__name__}")
    return value if math.isfinite(value) else None


def _drop_after(path: Path, step: int) -> None:
    """Keep the lines up to `step`; a line that a kill cut short goes too."""
    if not path.exists():
        return
    kept = [line for line in path.read_bytes().splitlines() if _step_of(line) <= step]
    partial = path.with_suffix(".jsonl.partial")
    partial.write_bytes(b"".join(line + b"\n" for line in kept))
    os.replace(partial, path)


def _step_of(line: bytes) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _start_wandb(project: str, directory: Path) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            f"Metrics were to go to the W&B project {project!r}, but wandb is not installed; "
            "run `pip install wandb` or leave the project unset."
        ) from error
    path = directory / "wandb_id"
    if not path.exists():
        path.write_text(uuid.uuid4().hex, encoding="utf-8")
    name = path.read_text(encoding="utf-8")
    return wandb.init(project=project, dir=str(directory), id=name, resume="allow")
