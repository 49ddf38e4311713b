"""Wall-clock time of the sides of a comparison."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

Carry = TypeVar("Carry")


def medians(
    sides: Mapping[str, Callable[[Any], Any]], carry: Any, rounds: int
) -> tuple[dict[str, float], Any]:
    """Median seconds of every side over `rounds` rounds, and what the last run returned.

    A side takes what the run before it returned, so that updates may donate their state. All sides
    run once unmeasured (compilation), then in turn, every other round in reverse, so that a drift
    of the machine meets all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            carry = jax.block_until_ready(sides[name](carry))
            if number:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(own) for name, own in times.items()}, carry


def once(run: Callable[[], Any]) -> Callable[[Carry], Carry]:
    """A side that has nothing to carry: runs to its end and hands on what it was given."""

    def side(carry: Carry) -> Carry:
        jax.block_until_ready(run())
        return carry

    return side
