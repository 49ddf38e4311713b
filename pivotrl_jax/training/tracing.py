"""Profiler traces of chosen steps."""

import contextlib
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import jax
import numpy as np

from pivotrl_jax.errors import UserError
from pivotrl_jax.parallel import first
from pivotrl_jax.training.loop import Step
from pivotrl_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class TraceSteps:
    """Steps `first` to `last` of a stage, counted from 1 as in its metrics."""

    stage: str
    first: int
    last: int


def parse_steps(text: str, steps: Mapping[str, int | None]) -> TraceSteps:
    """Steps "train:10-12" or "sft:3"; "10-12" are those of the stage "train".

    `steps` has the number of steps of every stage (None: not known yet). Raises UserError for
    anything else, and for steps that there will not be.
    """
    found = re.fullmatch(r"(?:(\w+):)?(\d+)(?:-(\d+))?", text)
    if found is None:
        raise UserError(f"--profile_steps={text} is no range of steps; write train:10-12 or sft:3")
    stage, first, last = found[1] or "train", int(found[2]), int(found[3] or found[2])
    if stage not in steps:
        raise UserError(f"--profile_steps={text}: only {', '.join(steps)} have steps to trace")
    if not 1 <= first <= last:
        raise UserError(f"--profile_steps={text}: write FIRST-LAST, counted from 1")
    most = steps[stage]
    if most is not None and last > most:
        raise UserError(f"--profile_steps={text}: {stage} has {most} steps; choose among them")
    return TraceSteps(stage, first, last)


class Tracer:
    """Writes a trace of those of the `chosen` steps that are this stage's to `directory`.

    Every step bears its stage's name and its number, also in traces that somebody else takes. To be
    used as a context: what an error cuts short is written, too. Of several processes the first one
    traces itself.
    """

    def __init__(self, stage: str, directory: Path, chosen: TraceSteps | None) -> None:
        own = chosen if chosen is not None and chosen.stage == stage and first() else None
        self._stage, self._directory = stage, directory
        self._steps = range(0) if own is None else range(own.first, own.last + 1)
        self._open: contextlib.ExitStack | None = None
        self._traced = False

    def around(self, step: Step) -> Step:
        def annotated(
            state: TrainState, indices: np.ndarray, number: int
        ) -> tuple[TrainState, Mapping[str, float]]:
            if number + 1 in self._steps and self._open is None:
                self._start()
            with jax.profiler.StepTraceAnnotation(self._stage, step_num=number + 1):
                found = step(state, indices, number)
            if number + 2 not in self._steps:
                self._stop()
            return found

        return annotated

    def _start(self) -> None:
        self._traced = True
        options = jax.profiler.ProfileOptions()
        # Every call of Python would hide the phases, and slow them.
        options.python_tracer_level = 0
        self._open = contextlib.ExitStack()
        self._open.enter_context(
            jax.profiler.trace(
                self._directory, create_perfetto_trace=True, profiler_options=options
            )
        )

    def _stop(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
            print(f"trace: {self._directory}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
        if self._steps and not self._traced and error is None:
            print(f"trace: none of {self._stage}, whose steps to trace were not run")
