"""Processes that crash or hang cost their own line and no other."""

import functools
import os
import time
from collections.abc import Iterator

import pytest

from pivotrl_jax.verifiers import workers


def _obey(number: int, line: bytes) -> str:
    if line == b"die":
        os._exit(1)
    if line == b"hang":
        time.sleep(60)
    return f"{number}:{line.decode()}"


def _make_work() -> workers.Work:
    return _obey


def _lost(number: int, line: bytes, why: str) -> str:
    return f"{number}:{line.decode()} lost: {why}"


def ordered(lines: list[bytes], processes: int = 2, seconds: float = 1.0) -> list[str]:
    return list(
        workers.ordered(
            enumerate(lines, 1), _make_work, _lost, processes=processes, seconds=seconds
        )
    )


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000])
def test_order_is_kept(count: int) -> None:
    lines = [str(number).encode() for number in range(count)]
    assert ordered(lines) == [f"{number + 1}:{number}" for number in range(count)]


@pytest.mark.parametrize(
    ("order", "why"),
    [(b"die", "the verdict killed its process"), (b"hang", "no verdict within 1 s")],
)
def test_a_lost_line_is_the_only_one(order: bytes, why: str) -> None:
    lines = [b"good"] * 200
    lines[3] = lines[130] = order
    expected = [f"{number}:good" for number in range(1, 201)]
    expected[3], expected[130] = (f"{n}:{order.decode()} lost: {why}" for n in (4, 131))
    assert ordered(lines) == expected


def test_every_line_may_be_lost() -> None:
    assert len(ordered([b"die"] * 5, processes=1)) == 5


def test_reading_does_not_run_ahead_of_a_slow_line() -> None:
    read = 0

    def endless() -> Iterator[workers.Line]:
        nonlocal read
        yield 1, b"hang"
        for number in range(2, 1_000_000):
            read = number
            yield number, b"good"

    results = workers.ordered(endless(), _make_work, _lost, processes=2, seconds=1.0)
    assert "lost" in next(results)
    assert read < 3000


def test_processes_end_with_their_user() -> None:
    results = workers.ordered(
        ((number, b"good") for number in range(1, 1000)), _make_pid, _lost, processes=2, seconds=9
    )
    worker = int(next(results))
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def _pid(number: int, line: bytes) -> str:
    return str(os.getpid())


_make_pid = functools.partial(lambda work: work, _pid)
