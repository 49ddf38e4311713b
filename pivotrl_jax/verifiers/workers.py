"""Work on lines in processes of their own: in order, and past those that crash or hang."""

import collections
import contextlib
import dataclasses
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

Line = tuple[int, bytes]  # its number in the file and its text
Work = Callable[[int, bytes], str]
Lost = Callable[[int, bytes, str], str]

_CHUNK_LINES = 64
_CHUNK_BYTES = 1 << 20
# Lines that may be under way or wait for an earlier one, by process: with the size of a chunk, the
# bound on memory.
_AHEAD = 8 * _CHUNK_LINES
# Waiting is counted in steps of at most this, so that the sleep of a whole machine is no hang.
_TICK = 0.25  # seconds


@dataclasses.dataclass
class _Worker:
    """A process and the lines it has; none when it is idle."""

    process: BaseProcess
    pipe: Connection
    chunk: list[Line] = dataclasses.field(default_factory=list)
    waited: float = 0.0  # seconds since it got them


class _Queue:
    """Lines still to do, and results that wait for those of earlier lines."""

    def __init__(self, lines: Iterable[Line], ahead: int) -> None:
        self._fresh = _chunks(lines)
        self._ahead = ahead
        self._alone: collections.deque[list[Line]] = collections.deque()
        self._order: collections.deque[int] = collections.deque()
        self._done: dict[int, str] = {}

    def take(self) -> list[Line]:
        """The next chunk; empty if there is none or too many results wait."""
        if self._alone:
            return self._alone.popleft()
        if len(self._order) >= self._ahead:
            return []
        chunk = next(self._fresh, [])
        self._order.extend(number for number, _ in chunk)
        return chunk

    def one_by_one(self, chunk: list[Line]) -> None:
        self._alone.extend([line] for line in chunk)

    def finish(self, number: int, result: str) -> None:
        self._done[number] = result

    def ready(self) -> Iterator[str]:
        while self._order and self._order[0] in self._done:
            yield self._done.pop(self._order.popleft())


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ordered(
    lines: Iterable[Line],
    make_work: Callable[[], Work],
    lost: Lost,
    *,
    processes: int,
    seconds: float,
) -> Iterator[str]:
    """The result of each line, in order; memory stays bounded however many lines there are.

    Each process calls `make_work` once. A chunk of lines whose process dies or takes more than
    `seconds` is done again line by line; a line that does so on its own becomes
    `lost(number, line, why)`.
    """
    queue = _Queue(lines, _AHEAD * processes)
    pool = [_start(make_work) for _ in range(processes)]
    try:
        while True:
            for worker in pool:
                if not worker.chunk and (chunk := queue.take()):
                    _give(worker, chunk)
            busy = [worker for worker in pool if worker.chunk]
            if not busy:
                return
            for worker, why in _collect(busy, queue, seconds):
                _blame(worker, why, queue, lost)
                pool[pool.index(worker)] = _start(make_work)
            yield from queue.ready()
    finally:
        for worker in pool:
            _stop(worker)


def _collect(busy: list[_Worker], queue: _Queue, seconds: float) -> list[tuple[_Worker, str]]:
    """Put arrived results into `queue`; the workers that died or hang, and why."""
    before = time.monotonic()
    ready = wait([worker.pipe for worker in busy], timeout=_TICK)
    elapsed = min(time.monotonic() - before, _TICK)
    failed = []
    for worker in busy:
        worker.waited += elapsed
        if worker.pipe in ready:
            try:
                results = worker.pipe.recv()
            except (EOFError, OSError):
                failed.append((worker, "the verdict killed its process"))
                continue
            for (number, _), result in zip(worker.chunk, results, strict=True):
                queue.finish(number, result)
            worker.chunk = []
        elif worker.waited > seconds:
            failed.append((worker, f"no verdict within {seconds:g} s"))
    return failed


def _blame(worker: _Worker, why: str, queue: _Queue, lost: Lost) -> None:
    _stop(worker)
    if len(worker.chunk) > 1:
        queue.one_by_one(worker.chunk)
        return
    [(number, line)] = worker.chunk
    queue.finish(number, lost(number, line, why))


def _start(make_work: Callable[[], Work]) -> _Worker:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve, args=(make_work, theirs, ours), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _give(worker: _Worker, chunk: list[Line]) -> None:
    worker.chunk, worker.waited = chunk, 0.0
    # If it has died, the next read of its pipe tells.
    with contextlib.suppress(OSError):
        worker.pipe.send(chunk)


def _stop(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()


def _serve(make_work: Callable[[], Work], pipe: Connection, other_end: Connection) -> None:
    # Only while nobody else holds the other end does its closing end this process.
    other_end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work = make_work()
    while True:
        try:
            chunk = pipe.recv()
        except EOFError:
            return
        pipe.send([work(number, line) for number, line in chunk])


def _chunks(lines: Iterable[Line]) -> Iterator[list[Line]]:
    chunk: list[Line] = []
    size = 0
    for number, line in lines:
        chunk.append((number, line))
        size += len(line)
        if len(chunk) == _CHUNK_LINES or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
