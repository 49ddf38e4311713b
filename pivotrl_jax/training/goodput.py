"""Goodput: the share of the wall clock that went into steps that count."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pivotrl_jax.parallel import from_first
from pivotrl_jax.training.loop import Step
from pivotrl_jax.training.state import TrainState
from pivotrl_jax.training.watch import Watch


def _attempts(path: Path, new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All attempts so far, with the `new` one."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(new) + "\n")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Goodput:
    """What a stage's steps were worth, over all attempts at it.

    Useful are the seconds of the steps that count, less those of compiling within them. The clock
    runs from the start of the first attempt on; what is left are start-ups, restoring, compiling,
    checkpoints, profiles between steps, steps that a kill lost, and times without any process.
    `history` are the metrics of the steps that the attempt goes on from, of which each is there
    once; `directory`/attempts.jsonl gets a line for every attempt. `clock` counts seconds since the
    epoch.
    """

    def __init__(
        self,
        directory: Path,
        history: Sequence[Mapping[str, Any]],
        watch: Watch,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._watch, self._clock = watch, clock
        self._useful = sum(row.get("seconds_useful", 0.0) for row in history)
        line = {"began": clock(), "after_step": len(history)}
        attempts = from_first(lambda: _attempts(directory / "attempts.jsonl", line))
        self._attempts, self._began = len(attempts), attempts[0]["began"]

    def share(self) -> float:
        return self._useful / max(self.seconds(), self._useful)

    def seconds(self) -> float:
        """Since the first attempt began."""
        return self._clock() - self._began

    def summary(self) -> str:
        return (
            f"goodput {self.share():.0%}: {self._useful:,.0f} s of useful steps in "
            f"{self.seconds():,.0f} s of wall clock (attempts: {self._attempts})"
        )

    def around(self, step: Step) -> Step:
        """`step` with more metrics: `seconds_compiling`, `seconds_useful`, which are the others,
        `idle_share`, the share of all of them that was not spent in a call under the watch, and
        `goodput` so far."""

        def measured(
            state: TrainState, indices: np.ndarray, number: int
        ) -> tuple[TrainState, Mapping[str, float]]:
            watch, began = self._watch, self._watch.clock()
            busy, compiled = watch.busy, watch.compiling.seconds
            state, metrics = step(state, indices, number)
            seconds = watch.clock() - began
            compiling = watch.compiling.seconds - compiled
            useful = seconds - compiling
            self._useful += useful
            return state, {
                **metrics,
                "seconds_compiling": compiling,
                "seconds_useful": useful,
                "idle_share": 1 - (watch.busy - busy) / seconds,
                "goodput": self.share(),
            }

        return measured
