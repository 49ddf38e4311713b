"""What the command line does from outside: one sentence and an exit code, never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments import run as command_line
from experiments import swe
from experiments.config import from_config, to_config
from experiments.context import Run, claim, open_run
from experiments.settings import Settings
from pivotrl_jax.errors import UserError
from pivotrl_jax.parallel import MeshSettings, make_mesh

ROOT = Path(__file__).parents[2]


def outside(*arguments: str) -> tuple[int, str, str]:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", *arguments],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def changed(model: Path, **fields: object) -> Settings:
    """The smoke preset on the small model, with fields changed: `text__clip_task` and so on."""
    config = to_config(swe.smoke())
    config.model.name = str(model)
    config.data.path = str(ROOT / swe.smoke().data.path)
    for name, value in fields.items():
        *path, leaf = name.split("__")
        place = config
        for part in path:
            place = place[part]
        place[leaf] = value
    return from_config(Settings, config)


def one_device_run(settings: Settings, workdir: Path) -> Run:
    """What `open_run` gives on a machine with one device; the tests' own process has eight."""
    return Run(settings, workdir, make_mesh(MeshSettings(), jax.devices()[:1]))


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--config.train.stepz=3", "steps"),
        ("--config.data.path=runs/nowhere/*.jsonl", "no trajectory file at 'runs/nowhere/*.jsonl'"),
        ("--config.model.dtype=float31", "bfloat16"),
        ("--config.engine.slots=0", "engine.slots is 0; it must be at least 1"),
        ("trial", "unexpected argument 'trial'"),
        ("--profile_steps=train:0-2", "write FIRST-LAST, counted from 1"),
    ],
)
def test_a_mistake_ends_in_one_line(argument: str, said: str, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    code, out, err = outside(f"--workdir={workdir}", argument)
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert not (workdir / "config.json").exists()


def test_a_trunk_beyond_the_models_context_is_refused(small_model: Path, tmp_path: Path) -> None:
    run = one_device_run(changed(small_model, text__trunk_tokens=9000), tmp_path)
    with pytest.raises(
        UserError, match=r"config\.text\.trunk_tokens is 9000.*8192 tokens only; lower it$"
    ):
        command_line.execute(run)
    # The first mistake does not fix the work directory to a configuration that cannot run.
    assert not (tmp_path / "config.json").exists()


def test_a_trunk_that_fits_no_candidate_says_what_to_raise(
    small_model: Path, tmp_path: Path
) -> None:
    run = one_device_run(changed(small_model, text__trunk_tokens=32), tmp_path)
    with pytest.raises(
        UserError, match=r"no train candidate of swe fits .*raise config\.text\.trunk_tokens"
    ):
        command_line.execute(run)


@pytest.mark.parametrize("stage", ["profile", "train", "report"])
def test_a_stage_does_not_run_before_those_it_needs(
    stage: str, small_model: Path, tmp_path: Path
) -> None:
    run = one_device_run(changed(small_model), tmp_path)
    said = rf"stage '{stage}' needs stage 'read' first; run --stage=read"
    with pytest.raises(UserError, match=said):
        command_line.execute(run, stage)
    assert list(tmp_path.iterdir()) == []


def test_a_stage_runs_alone(small_model: Path, tmp_path: Path) -> None:
    run = one_device_run(changed(small_model), tmp_path)
    with pytest.raises(command_line.Finished):
        command_line.execute(run, "read")
    assert [path.name for path in (tmp_path / "done").iterdir()] == ["read"]
    with pytest.raises(UserError, match="stage 'sft' needs stage 'candidates' first"):
        command_line.execute(run, "sft")


def test_a_work_directory_belongs_to_one_configuration(small_model: Path, tmp_path: Path) -> None:
    claim(open_run(changed(small_model), tmp_path))
    open_run(changed(small_model), tmp_path)
    other = changed(small_model, selection__threshold=0.5, train__malformed_penalty=-5.0)
    with pytest.raises(UserError, match="another --workdir, or delete this one") as caught:
        open_run(other, tmp_path)
    assert "selection.threshold: 1.0 -> 0.5" in str(caught.value)
    assert "train.malformed_penalty: None -> -5.0" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("text__action_format", "fenced_bsh", "fenced_bash"),
        ("reward__verifier", "comand", "command"),
        ("reward__recipe__accept", (("progam", 1.0),), "program"),
    ],
)
def test_a_misspelt_name_fails_before_anything_is_sampled(
    field: str, value: object, said: str, small_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"'{said}'"):
        open_run(changed(small_model, **{field: value}), tmp_path)


def test_a_model_without_experts_cannot_replay_routes(small_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="replay_routes needs a model with experts"):
        open_run(changed(small_model, train__replay_routes=True), tmp_path)
