"""How long JAX traces, lowers and compiles, or fetches what was compiled before."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

EVENTS = "/jax/core/compile/"


class CompileClock:
    """Adds up `seconds` of compilation within `with clock.running():`; a function that is traced
    within another counts once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._spans: list[tuple[float, float]] = []  # in order, disjoint

    @property
    def seconds(self) -> float:
        return sum(end - start for start, end in self._spans)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        jax.monitoring.register_event_duration_secs_listener(self._add)
        try:
            yield
        finally:
            jax.monitoring.unregister_event_duration_listener(self._add)

    def _add(self, event: str, duration_secs: float, **_: Any) -> None:
        """An event comes when it ends, after those that it contains."""
        if not event.startswith(EVENTS):
            return
        end = self._clock()
        start = end - duration_secs
        while self._spans and self._spans[-1][0] >= start:
            self._spans.pop()
        if self._spans:
            start = max(start, self._spans[-1][1])
        self._spans.append((start, max(start, end)))
