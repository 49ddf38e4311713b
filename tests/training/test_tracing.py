"""Which steps are traced, and what a trace calls them."""

import gzip
import json

import jax
import numpy as np
import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.training import Tracer, TraceSteps, Watch, parse_steps

STEPS = {"train": 20, "sft": None, "end_to_end": 0}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10-12", TraceSteps("train", 10, 12)),
        ("train:7", TraceSteps("train", 7, 7)),
        ("sft:99", TraceSteps("sft", 99, 99)),
    ],
)
def test_steps_are_read(text, found):
    assert parse_steps(text, STEPS) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ten", r"profile_steps=ten is no range of steps; write train:10-12"),
        ("1-2-3", "is no range"),
        ("profile:1", "only train, sft, end_to_end have steps"),
        ("3-2", "write FIRST-LAST"),
        ("0-2", "counted from 1"),
        ("19-21", "train has 20 steps"),
        ("end_to_end:1", "end_to_end has 0 steps"),
    ],
)
def test_anything_else_is_one_sentence(text, said):
    with pytest.raises(UserError, match=said):
        parse_steps(text, STEPS)


def events(directory):
    """Names and step numbers in each of the traces."""
    files = sorted(directory.glob("plugins/profile/*/perfetto_trace.json.gz"))
    traces = [json.loads(gzip.decompress(file.read_bytes()))["traceEvents"] for file in files]
    return [
        {(event["name"], event.get("args", {}).get("step_num")) for event in own if "name" in event}
        for own in traces
    ]


def run(directory, chosen, steps, stage="train", fail_at=None):
    watch = Watch()

    def step(state, indices, number):
        with watch("decode"):
            pass
        if number == fail_at:
            raise KeyError
        return state, {}

    with Tracer(stage, directory, chosen) as tracer:
        traced = tracer.around(step)
        for number in steps:
            traced(None, np.zeros(1), number)


def test_the_chosen_steps_are_traced_under_their_numbers(tmp_path):
    run(tmp_path, TraceSteps("train", 2, 3), range(5))
    (own,) = events(tmp_path)
    assert {step for name, step in own if name == "train"} == {"2", "3"}
    assert ("decode", None) in own


def test_a_resumed_run_traces_what_is_left_and_other_stages_nothing(tmp_path):
    run(tmp_path / "a", TraceSteps("train", 2, 3), range(2, 5))
    assert {step for name, step in events(tmp_path / "a")[0] if name == "train"} == {"3"}
    run(tmp_path / "b", TraceSteps("train", 2, 3), range(5), stage="sft")
    run(tmp_path / "b", None, range(5))
    assert not (tmp_path / "b").exists()


def test_a_step_that_fails_is_in_the_trace(tmp_path):
    with pytest.raises(KeyError):
        run(tmp_path, TraceSteps("train", 1, 4), range(5), fail_at=1)
    (own,) = events(tmp_path)
    assert {step for name, step in own if name == "train"} == {"1", "2"}
    # Nothing goes on tracing.
    with jax.profiler.trace(tmp_path / "next"):
        pass
