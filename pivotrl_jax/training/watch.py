"""What a long run keeps an eye on: signals that ask it to stop, and when its devices have work."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

import jax

from pivotrl_jax.parallel import highest
from pivotrl_jax.training.compiling import CompileClock

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """The signal `number` asked to stop, and `what` was done is on disk."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(number, what)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name} {self.args[1]}"


class Abandoned(Exception):
    """A signal asked to stop, so that the work in flight is given up."""


class Watch:
    """`with watch("decode"): ...` stands around a call of the devices and the wait for its results.

    The call bears that name in traces, and its seconds, less those of compiling, add up in `busy`.
    None begins once a signal has asked to stop: that raises `Abandoned`. SIGTERM and SIGINT
    (Ctrl-C) are heard, and compilations timed, within `with watch.listening():` alone; a second
    SIGINT ends the process at once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.busy = 0.0
        self.compiling = CompileClock(clock)
        self.clock = clock
        self._signal: int | None = None

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.check()
        began, compiled = self.clock(), self.compiling.seconds
        with jax.profiler.TraceAnnotation(name):
            yield
        self.busy += self.clock() - began - (self.compiling.seconds - compiled)

    @property
    def stopping(self) -> bool:
        """Of several processes all have to ask in the same places, and one signal stops them."""
        self._signal = highest(self._signal or 0) or None
        return self._signal is not None

    def check(self) -> None:
        """Raises `Abandoned` once a signal has asked to stop."""
        if self.stopping:
            raise Abandoned

    def stopped(self, what: str) -> Stopped:
        """The end of a run that was asked to stop, with `what` is done in words."""
        assert self._signal is not None
        return Stopped(self._signal, what)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        self._signal = None
        before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        try:
            with self.compiling.running():
                yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        # Nor does a call that takes long, such as a compilation, keep a second Ctrl-C waiting.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # A print would fail where the signal came in the middle of another.
        os.write(2, b"stopping; Ctrl-C ends it at once, without saving\n")
