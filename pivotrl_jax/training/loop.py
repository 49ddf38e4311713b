"""The step loop that SFT and PivotRL share: resume, log, save, stop on SIGTERM."""

import signal
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Protocol, Self

import jax
import numpy as np

from pivotrl_jax.training.checkpoints import Checkpointer
from pivotrl_jax.training.data import Batches
from pivotrl_jax.training.metrics import MetricWriter
from pivotrl_jax.training.update import TrainState

Step = Callable[[TrainState, np.ndarray, int], tuple[TrainState, Mapping[str, float]]]


class Stopped(Exception):
    """SIGTERM came; the state is saved."""


class Bar(Protocol):
    def advance(self, n: int = 1) -> None: ...
    def note(self, text: str) -> None: ...


class StopOnSigterm:
    """Turns SIGTERM into a flag that the loop reads between steps."""

    def __enter__(self) -> Self:
        self.requested = False
        self._previous = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._previous)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


def run_steps(
    step: Step,
    state: TrainState,
    *,
    steps: int,
    data: Batches,
    checkpointer: Checkpointer,
    save_every: int,
    writer: MetricWriter,
    bar: Bar,
    note: Callable[[Mapping[str, float]], str],
    until: Callable[[Mapping[str, float]], bool] = lambda metrics: False,
) -> TrainState:
    """Runs from the state's own step to `steps`, one batch of `data` indices a step.

    Ends early after a step whose metrics `until` says so of. Saves every `save_every` steps and at
    the end. On SIGTERM it saves after the step in flight and raises `Stopped`. A killed run resumes
    from its last checkpoint to the same bits, because batches, keys and updates depend on
    (seed, step) alone.
    """
    start = int(jax.device_get(state.step))
    with StopOnSigterm() as stop:
        for number in range(start, steps):
            began = time.monotonic()
            with jax.transfer_guard("disallow"):
                state, metrics = step(state, next(data), number)
            writer.write(number + 1, time.monotonic() - began, metrics)
            bar.note(note(metrics))
            bar.advance()
            ended = until(metrics) or number + 1 == steps
            if (number + 1) % save_every == 0 or ended or stop.requested:
                checkpointer.save(state, data)
            if stop.requested:
                raise Stopped(f"stopped by SIGTERM at step {number + 1} of {steps}; saved")
            if ended:
                break
    return state
