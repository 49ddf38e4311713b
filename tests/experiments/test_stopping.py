"""Signals outside training: in a profile, and between what has to be finished."""

import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import run as command_line
from experiments.context import Run
from experiments.stages import rollouts as rollout_stages
from experiments.stages.candidates import candidates_stage, read_stage
from experiments.stages.rollouts import profile_stage
from pivotrl_jax.parallel import MeshSettings, make_mesh
from pivotrl_jax.pivots import Rollouts
from pivotrl_jax.sampling import Sample
from pivotrl_jax.training import Stopped, TraceSteps
from tests.experiments.test_cli import changed


def scripted(turns, at=None):
    """One batch a turn; the signal comes while batch number `at` is sampled, and the one before it
    is verified."""
    for number, turn in enumerate(turns):
        if number == at:
            os.kill(os.getpid(), signal.SIGTERM)
        tokens = np.array([65 + number], np.int32)
        zeros = np.zeros(1, np.float32)
        yield Rollouts([turn], [[Sample(tokens, zeros, zeros, truncated=False)]])


def test_a_profile_that_is_stopped_keeps_its_samples(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clipped = {"text__clip_task": 64, "text__clip_observation": 16, "text__trunk_tokens": 384}
    settings = changed(small_model, data__limit=8, profile__samples=1, engine__rows=1, **clipped)
    run = Run(settings, tmp_path, make_mesh(MeshSettings(), jax.devices()[:1]))
    corpus = candidates_stage(run, read_stage(run))
    turns = corpus.turns["train"][:4]

    def profile(name: str, at: int | None = None) -> dict[str, list]:
        def rollouts(*arguments: object, device: object) -> object:
            done = arguments[-1]
            assert device is run.watch
            return scripted([turn for turn in turns if turn.id not in done], at)

        monkeypatch.setattr(rollout_stages, "rollouts", rollouts)
        key = jax.random.key(0)
        return profile_stage(run, corpus, None, name, turns, key, 1).to_pydict()

    monkeypatch.setattr(rollout_stages, "fingerprint", lambda params: "")
    with pytest.raises(Stopped) as stopped:
        profile("profile/train", at=2)
    said = "stopped by SIGTERM in profile/train; the samples of 1 of 4 candidates are saved"
    assert str(stopped.value) == said
    assert profile("profile/train")["candidate_id"] == profile("other")["candidate_id"]
    assert profile("profile/train")["n"] == [1] * 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_elsewhere_a_signal_ends_the_command_with_one_sentence(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(command_line.app, "run", lambda *_, **__: os.kill(os.getpid(), number))
    try:
        with pytest.raises(SystemExit) as ended:
            command_line.friendly(command_line.main)
        # A second signal would not be heard, but obeyed.
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert ended.value.code == 128 + number
    said = f"stopped by {signal.Signals(number).name}; run the same command again to go on: python"
    assert capsys.readouterr().out.startswith(said)


def test_steps_to_trace_reach_the_run(small_model: Path, tmp_path: Path) -> None:
    settings = changed(small_model, train__steps=3)
    assert command_line.steps_of(settings) == {"train": 3, "sft": None, "end_to_end": 0}
    chosen = TraceSteps("train", 1, 2)
    assert command_line.open_run(settings, tmp_path, chosen).trace == chosen
