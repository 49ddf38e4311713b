"""What is being done, how far it is and how long it will still take; and what it took."""

import contextlib
import dataclasses
import json
import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import absl.logging
import rich.progress
from rich.console import Console
from rich.text import Text

from pivotrl_jax.parallel import first

LOG_EVERY_SECONDS = 10.0
# Whose INFO says what a run has decided by itself: its kernels and its micro-batches.
DECIDING = ("kernels.backend", "pivotrl_jax.training.memory")


class Progress:
    """A progress bar on a terminal, a plain line every ten seconds in a log.

    `initial` is what an earlier run already did: it counts as done, but not towards the rate.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        unit: str,
        initial: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.done = self._initial = initial
        self._note = ""
        self._clock, self._started = clock, clock()
        self._last_line = self._started
        self._console = console or Console(quiet=not first())
        self._bar: rich.progress.Progress | None = None
        if self._console.is_terminal:
            self._bar = _bar(self, self._console)

    def advance(self, number: int = 1) -> None:
        self.done += number
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=self.done)
        elif self._clock() - self._last_line >= LOG_EVERY_SECONDS:
            self._print_line()

    def note(self, text: str) -> None:
        """Show `text` behind the numbers from now on, such as "mixed 24 %"."""
        self._note = text

    def status(self) -> str:
        """For example "120/580 candidates · 3.2/s · 2 min 24 s left · mixed 24 %"."""
        parts = [f"{self.done:,}/{self.total:,} {self.unit}"]
        elapsed, fresh = self._clock() - self._started, self.done - self._initial
        if self.done >= self.total:
            parts.append(f"done in {duration(elapsed)}")
        elif fresh and elapsed > 0:
            rate = fresh / elapsed
            parts += [_per_time(rate), f"{duration((self.total - self.done) / rate)} left"]
        return " · ".join([*parts, self._note] if self._note else parts)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        else:
            self._print_line()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        else:
            self._print_line()

    def _print_line(self) -> None:
        self._last_line = self._clock()
        self._console.print(f"{self.stage}: {self.status()}", markup=False, soft_wrap=True)


class _Status(rich.progress.ProgressColumn):
    """Asks for the status at every refresh, so that the time left keeps counting."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def render(self, task: rich.progress.Task) -> Text:
        return Text(self._progress.status())


def _bar(progress: Progress, console: Console) -> rich.progress.Progress:
    bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description:<10}", markup=False),
        rich.progress.BarColumn(bar_width=24),
        _Status(progress),
        console=console,
    )
    bar.add_task(progress.stage, total=progress.total, completed=progress.done)
    return bar


def duration(seconds: float) -> str:
    """For a reader: "0.4 s", "38 s", "2 min 24 s", "1 h 05 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _per_time(rate: float) -> str:
    return f"{rate:,.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min"


class _Stderr(logging.Handler):
    """Asks for stderr at every line: a study's runs and tests put others in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


def only_decisions() -> None:
    """Logs warnings and what the run decides by itself; Orbax's INFO is a page per checkpoint."""
    absl.logging.set_verbosity(absl.logging.WARNING)
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for own in [*root.handlers]:
        # absl's, or one that a library has made in a process of a study, which absl has not begun.
        if type(own) in (logging.StreamHandler, absl.logging.ABSLHandler):
            root.removeHandler(own)
    if not any(isinstance(handler, _Stderr) for handler in root.handlers):
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        root.addHandler(handler)
    for name in DECIDING:
        logging.getLogger(name).setLevel(logging.INFO)


def say(words: str) -> None:
    """Once for all processes of a run."""
    if first():
        print(words)


@dataclasses.dataclass
class StageRecord:
    """What a running stage adds to its line in timing.jsonl."""

    tokens: int = 0
    drafted: int = 0  # of the tokens, those that expert drafts spared the decoder
    samples: int = 0  # that these tokens were drawn for


@contextlib.contextmanager
def stage_timer(workdir: Path, stage: str) -> Iterator[StageRecord]:
    """Append a line to timing.jsonl once the stage ends: seconds, peak memory and the record.

    A stage that fails leaves no line, nor do other processes than the first. The memory is the
    highest resident size of the whole process so far (MiB), so it never falls from one stage to the
    next.
    """
    record, started = StageRecord(), time.monotonic()
    yield record
    line = {
        "stage": stage,
        "seconds": round(time.monotonic() - started, 3),
        "peak_rss_mb": round(_peak_rss_mb(), 1),
        "tokens": record.tokens,
        "drafted": record.drafted,
        "samples": record.samples,
    }
    if first():
        with (workdir / "timing.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _peak_rss_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
