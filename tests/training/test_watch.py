"""Signals while steps run, and what of a step counts as work of the devices."""

import os
import pickle
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from pivotrl_jax.training import (
    Checkpointer,
    MetricWriter,
    Stopped,
    TrainState,
    Watch,
    index_batches,
    run_steps,
)
from pivotrl_jax.training.compiling import CompileClock

STEPS, PHASES = 5, ("sample", "update")


class NoBar:
    def advance(self, n: int = 1) -> None: ...
    def note(self, text: str) -> None: ...


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def run(self, seconds: float) -> None:
        self.now += seconds


def make_step(watch, log, at=None, number=signal.SIGTERM):
    """A step of two phases whose result depends on every batch; the signal comes within phase
    `at` = (step, phase)."""

    def step(state, indices, n):
        for phase in PHASES:
            with watch(phase):
                if at == (n, phase):
                    os.kill(os.getpid(), number)
                log.append((n, phase))
        w = state.params["w"] * 3 + jax.device_put(np.float32(indices.sum() + n))
        return TrainState(state.step + 1, {"w": w}, {}), {"loss": 0.0}

    # The state's arithmetic makes constants, which the loop's guard would take for a slip.
    def allowed(*arguments):
        with jax.transfer_guard("allow"):
            return step(*arguments)

    return allowed


def run(directory, at=None, number=signal.SIGTERM):
    """An attempt: the state's weights, the place in the data and the phases that were run."""
    watch, log = Watch(), []
    checkpointer = Checkpointer(directory / "checkpoints")
    state, data = TrainState(jax.numpy.int32(0), {"w": jax.numpy.float32(1)}, {}), None
    data = index_batches([1] * 10, 4, seed=3)
    restored = checkpointer.latest()
    if restored is not None:
        state, position = checkpointer.restore(state)
        data.set_state(position)
    try:
        with MetricWriter(directory, restored) as writer:
            state = run_steps(
                make_step(watch, log, at, number), state, steps=STEPS, data=data,
                checkpointer=checkpointer, save_every=STEPS, writer=writer, bar=NoBar(),
                note=lambda metrics: "", watch=watch,
            )  # fmt: skip
    except Stopped as stopped:
        return str(stopped), checkpointer.latest(), log
    finally:
        checkpointer.close()
    return float(state.params["w"]), data.get_state(), log


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    ("phase", "number", "done"),
    [("sample", signal.SIGTERM, 2), ("sample", signal.SIGINT, 2), ("update", signal.SIGTERM, 3)],
)
def test_a_signal_ends_a_step_before_its_next_phase(phase, number, done, undisturbed, tmp_path):
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    said, saved, log = run(tmp_path, (2, phase), number)
    assert said == f"stopped by {number.name} at step {done} of {STEPS}; saved"
    assert saved == done
    # What was begun is finished, and nothing is begun after it.
    assert log[-1] == (2, phase)
    assert {each: signal.getsignal(each) for each in before} == before
    weights, position, rest = run(tmp_path)
    assert (weights, position) == undisturbed[:2]
    assert rest[0] == (done, PHASES[0])


def test_a_signal_before_the_first_step_is_saved_as_step_0(undisturbed, tmp_path):
    assert run(tmp_path, (0, "sample"))[:2] == (
        f"stopped by SIGTERM at step 0 of {STEPS}; saved",
        0,
    )
    assert run(tmp_path)[:2] == undisturbed[:2]


def test_a_second_interrupt_ends_the_process_at_once():
    code = """
import os, signal
from pivotrl_jax.training import Watch
watch = Watch()
with watch.listening():
    os.kill(os.getpid(), signal.SIGINT)
    print(watch.stopping, flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("still here", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.returncode) == ("True\n", -signal.SIGINT)


def test_the_end_of_a_run_travels_between_processes():
    stopped = pickle.loads(pickle.dumps(Stopped(signal.SIGINT, "in profile; saved")))
    assert (str(stopped), stopped.number) == ("stopped by SIGINT in profile; saved", 2)


def test_busy_are_the_seconds_of_calls_without_those_of_compiling():
    clock = Clock()
    watch = Watch(clock)
    with watch.listening():
        with watch("decode"):
            clock.run(5)
            jax.monitoring.record_event_duration_secs("/jax/core/compile/backend_compile", 2)
        clock.run(7)
        with watch("update"):
            clock.run(1)
    assert (watch.busy, watch.compiling.seconds) == (4, 2)


def test_what_is_compiled_within_something_else_counts_once():
    clock, event = Clock(), "/jax/core/compile/jaxpr_trace_duration"
    timer = CompileClock(clock)
    with timer.running():
        for passes, took in ((2, 2), (3, 1), (1, 6), (10, 4)):
            clock.run(passes)
            jax.monitoring.record_event_duration_secs(event, took)
        # The first two lie within the third, the fourth comes later.
        assert timer.seconds == 10
        jax.monitoring.record_event_duration_secs("/jax/checkpoint/write", 3)
    jax.monitoring.record_event_duration_secs(event, 3)
    assert timer.seconds == 10


def test_a_compilation_is_noticed():
    timer = CompileClock()
    with timer.running():
        jax.jit(lambda x: x * 3 + 1)(jax.numpy.ones(3))
    assert timer.seconds > 0
