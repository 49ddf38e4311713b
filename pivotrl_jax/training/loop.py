"""The step loop that SFT and PivotRL share: resume, log, save, stop on a signal."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import jax
import numpy as np

from pivotrl_jax.training.checkpoints import Checkpointer
from pivotrl_jax.training.data import Batches
from pivotrl_jax.training.metrics import MetricWriter
from pivotrl_jax.training.state import TrainState
from pivotrl_jax.training.watch import Abandoned, Watch

Step = Callable[[TrainState, np.ndarray, int], tuple[TrainState, Mapping[str, float]]]


class Bar(Protocol):
    def advance(self, n: int = 1) -> None: ...
    def note(self, text: str) -> None: ...


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
    watch: Watch | None = None,
) -> TrainState:
    """Runs from the state's own step to `steps`, one batch of `data` indices a step.

    Ends early after a step whose metrics `until` says so of. Saves every `save_every` steps and at
    the end. On SIGTERM or Ctrl-C it saves and raises `Stopped`: after the step in flight, or
    before it where the step's own calls are under `watch`, which abandons it at the next of them.
    A killed run resumes from its last checkpoint to the same bits, because batches, keys and
    updates depend on (seed, step) alone.
    """
    start = int(jax.device_get(state.step))
    watch = watch or Watch()
    with watch.listening():
        for number in range(start, steps):
            began, position = time.monotonic(), data.get_state()
            try:
                with jax.transfer_guard("disallow"):
                    state, metrics = step(state, next(data), number)
            except Abandoned:
                checkpointer.save(state, data, position)
                raise watch.stopped(f"at step {number} of {steps}; saved") from None
            writer.write(number + 1, time.monotonic() - began, metrics)
            bar.note(note(metrics))
            bar.advance()
            ended = until(metrics) or number + 1 == steps
            stopping = watch.stopping
            if (number + 1) % save_every == 0 or ended or stopping:
                checkpointer.save(state, data)
            if stopping:
                raise watch.stopped(f"at step {number + 1} of {steps}; saved")
            if ended:
                break
    return state
