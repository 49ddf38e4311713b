import json
import sys
import types

import numpy as np
import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.training.metrics import MetricWriter


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def write(directory, steps, restored_step=None, loss=1.0):
    with MetricWriter(directory, restored_step) as writer:
        for step in steps:
            writer.write(step, 0.5, {"loss": loss, "kl": 0.01})


def test_one_line_per_step_that_is_there_before_close(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(0, 2.5, {"loss": 0.25})
        assert lines(tmp_path) == [{"step": 0, "seconds": 2.5, "loss": 0.25}]


def test_resume_has_each_step_once(tmp_path):
    write(tmp_path, range(8))
    write(tmp_path, range(5, 10), restored_step=4, loss=2.0)
    assert [row["step"] for row in lines(tmp_path)] == list(range(10))
    assert [row["loss"] for row in lines(tmp_path)] == [1.0] * 5 + [2.0] * 5


def test_resume_drops_a_line_cut_short_by_a_kill(tmp_path):
    write(tmp_path, range(3))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "sec')
    write(tmp_path, [3], restored_step=3)
    assert [row["step"] for row in lines(tmp_path)] == [0, 1, 2, 3]


def test_fresh_start_forgets_the_earlier_run(tmp_path):
    write(tmp_path, range(4))
    write(tmp_path, range(2), loss=3.0)
    assert [(row["step"], row["loss"]) for row in lines(tmp_path)] == [(0, 3.0), (1, 3.0)]


def test_tensorboard_gets_the_scalars(tmp_path):
    write(tmp_path, range(3))
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"loss" in content
    assert b"kl" in content


def test_non_finite_is_null_and_arrays_are_refused(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(0, 1.0, {"ratio_max": float("inf")})
        with pytest.raises(TypeError, match="'loss' must be a Python number, not ndarray"):
            writer.write(1, 1.0, {"loss": np.ones(())})
    assert lines(tmp_path) == [{"step": 0, "seconds": 1.0, "ratio_max": None}]


def test_wandb_missing_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        MetricWriter(tmp_path, wandb_project="pivots")


def test_wandb_gets_every_step_if_asked_for(tmp_path, monkeypatch):
    logged, opened = [], []
    run = types.SimpleNamespace(
        log=lambda row, step: logged.append((step, row["loss"])),
        finish=lambda: logged.append("end"),
    )
    module = types.SimpleNamespace(init=lambda **settings: opened.append(settings) or run)
    monkeypatch.setitem(sys.modules, "wandb", module)
    with MetricWriter(tmp_path / "sft", wandb_project="pivots") as writer:
        writer.write(0, 1.0, {"loss": 0.5})
    assert logged == [(0, 0.5), "end"]
    # A resumed stage goes on in the same place, another one elsewhere.
    for restored, stage in ((0, "sft"), (None, "train")):
        MetricWriter(tmp_path / stage, restored, wandb_project="pivots").close()
    first, again, other = (settings["id"] for settings in opened)
    assert first == again != other
    assert {settings["resume"] for settings in opened} == {"allow"}


def test_full_disk_is_one_sentence(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer._file = open("/dev/full", "w")  # noqa: SIM115
        with pytest.raises(UserError, match=r"step 3 could not be written \(No space left"):
            writer.write(3, 1.0, {"loss": 0.5})
