"""Verdicts made aside, in a thread of the host, while the devices go on computing."""

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor

from pivotrl_jax.pivots.judging import Checked, Judged, Judging, reward, verify
from pivotrl_jax.pivots.rollouts import Rollouts


@contextlib.contextmanager
def verdict_thread() -> Iterator[Executor]:
    """One thread, so that no verifier is asked twice at a time.

    At the end it finishes the work in hand, and what has not begun is dropped.
    """
    thread = ThreadPoolExecutor(1)
    try:
        yield thread
    finally:
        thread.shutdown(cancel_futures=True)


def judged_aside(
    parts: Iterable[Rollouts], judging: Judging, thread: Executor, ahead: int
) -> Iterator[tuple[Rollouts, Judged]]:
    """`parts` in their order, with what `judge` says of each.

    `thread` verifies a part while the next ones are sampled, `ahead` of them at most. What a
    verifier raises is raised here.
    """
    waiting: deque[tuple[Rollouts, Future[list[list[Checked]]]]] = deque()
    for part in parts:
        waiting.append((part, thread.submit(verify, part, judging)))
        if len(waiting) > ahead:
            yield _judged(*waiting.popleft(), judging)
    while waiting:
        yield _judged(*waiting.popleft(), judging)


def _judged(
    part: Rollouts, verdicts: Future[list[list[Checked]]], judging: Judging
) -> tuple[Rollouts, Judged]:
    return part, reward(part, verdicts.result(), judging)
