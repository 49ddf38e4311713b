"""Goodput over restarts, by a clock that the tests turn."""

import json

import numpy as np
import pytest

from pivotrl_jax.training import Goodput, Watch


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def run(self, seconds: float) -> None:
        self.now += seconds


def attempt(directory, history, clock, steps):
    """The metrics of `steps`: each (seconds compiling, seconds of work, seconds beside it)."""
    watch, rows = Watch(clock), list(history)
    goodput = Goodput(directory, history, watch, clock)

    def step(state, indices, number):
        compiling, work, host = steps[number - len(history)]
        with watch("update"):
            clock.run(compiling)
            watch.compiling._add("/jax/core/compile/backend_compile_duration", compiling)
            clock.run(work)
        clock.run(host)
        return state, {"loss": 1.0}

    measured = goodput.around(step)
    for number in range(len(history), len(history) + len(steps)):
        began = clock()
        _, metrics = measured(None, np.zeros(1), number)
        clock.run(7)  # what the loop itself does, such as writing a trace
        rows.append({"step": number + 1, "seconds": clock() - began, **metrics})
    return goodput, rows


def test_goodput_and_idle_share_over_a_restart(tmp_path):
    clock = Clock()
    _, rows = attempt(tmp_path, [], clock, [(20, 6, 4), (0, 6, 4), (0, 6, 4)])
    assert [row["goodput"] for row in rows] == pytest.approx([10 / 30, 20 / 47, 30 / 64])
    assert [row["idle_share"] for row in rows] == pytest.approx([24 / 30, 0.4, 0.4])
    assert [row["seconds_compiling"] for row in rows] == pytest.approx([20, 0, 0])
    assert all(row["loss"] == 1 for row in rows)
    assert [row["seconds_useful"] for row in rows] == pytest.approx([10, 10, 10])
    # A kill loses step 3, and the run comes back later.
    clock.run(14)
    kept = json.loads(json.dumps(rows[:2]))
    goodput, rows = attempt(tmp_path, kept, clock, [(5, 6, 4)])
    assert rows[-1]["goodput"] == pytest.approx(30 / 100)
    clock.run(13)  # a last checkpoint
    assert goodput.share() == pytest.approx(30 / 120)
    assert goodput.summary() == (
        "goodput 25%: 30 s of useful steps in 120 s of wall clock (attempts: 2)"
    )
    attempts = [json.loads(line) for line in (tmp_path / "attempts.jsonl").open()]
    assert attempts == [
        {"began": 1000.0, "after_step": 0},
        {"began": 1085.0, "after_step": 2},
    ]
