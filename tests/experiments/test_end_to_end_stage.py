"""End-to-end training as a stage: every task in turn, and a killed run goes on to the same bits."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import sql
from experiments.context import Run
from experiments.reports.curve import read_curve
from experiments.settings import EnvironmentSettings, ModelSettings
from experiments.stages.end_to_end import end_to_end_stage, train_on_episodes
from pivotrl_jax.environments import Move, Played, Task
from pivotrl_jax.models import ModelConfig, Params
from pivotrl_jax.models.lora import NO_LORA, LoraSettings, detach
from pivotrl_jax.objectives import PolicySettings
from pivotrl_jax.parallel import MeshSettings, make_mesh
from pivotrl_jax.sampling import SamplingSettings
from pivotrl_jax.training import EndToEndSettings, OptimizerSettings

TASKS = [Task(str(i), "group", "train") for i in range(6)]
SETTINGS = EndToEndSettings(
    steps=5, tasks=2, samples=3, row_multiple=64, save_every=2,
    optimizer=OptimizerSettings(learning_rate=1e-2),
)  # fmt: skip


class Dice:
    """Episodes and scores by chance, which follow from the key; fails at call number `killed`."""

    def __init__(self, killed: int = 0) -> None:
        self.killed = killed
        self.played: list[list[str]] = []

    def __call__(self, params: Params, tasks: Sequence[Task], key: jax.Array) -> list[Played]:
        self.played.append([task.id for task in tasks])
        if len(self.played) == self.killed:
            raise RuntimeError("killed")
        rng = np.random.default_rng(jax.device_get(jax.random.key_data(key)))
        return [self.episode(task, k, rng) for task in tasks for k in range(SETTINGS.samples)]

    def episode(self, task: Task, number: int, rng: np.random.Generator) -> Played:
        tokens = np.array([5, int(task.id), *rng.integers(256, size=10)], np.int32)
        logp = np.full(4, np.log(1 / 256), np.float32)
        moves = tuple(Move(at, at + 4, logp, logp, False, True, "") for at in (2, 8))
        return Played(task, number, tokens, moves, (), float(rng.random()), "done")


@pytest.fixture
def train(tiny_cfg: ModelConfig, tiny_params: Params):
    """Runs the stage in a work directory; the trained policy, on the host."""
    settings = dataclasses.replace(
        sql.smoke(),
        mesh=MeshSettings(),
        objective=PolicySettings(kl_coef=0.1),
        environment=EnvironmentSettings(name="sql"),
        end_to_end=SETTINGS,
    )

    def train(workdir: Path, play: Dice, lora: LoraSettings = NO_LORA) -> Params:
        run = Run(
            dataclasses.replace(settings, lora=lora),
            workdir,
            make_mesh(MeshSettings(), jax.devices()[:1]),
        )
        vars(run)["cfg"] = tiny_cfg
        params = jax.device_put(jax.tree.map(np.array, tiny_params), run.shardings)
        with jax.set_mesh(run.mesh):
            policy = run.with_adapters(params)
            return jax.device_get(train_on_episodes(run, play, TASKS, policy))

    return train


def steps(workdir: Path) -> list[dict]:
    lines = map(json.loads, (workdir / "end_to_end" / "metrics.jsonl").read_text().splitlines())
    timed = ("seconds", "tokens_per_second", "idle_share", "goodput")
    return [{k: v for k, v in line.items() if not k.startswith(timed)} for line in lines]


def test_a_killed_run_ends_with_the_same_bits(tmp_path, train, tiny_params):
    whole, broken = Dice(), Dice(killed=4)
    expected = train(tmp_path / "whole", whole)
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "broken", broken)
    resumed = Dice()
    found = train(tmp_path / "broken", resumed)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    # Step 3 came after the checkpoint of step 2.
    assert resumed.played == whole.played[2:]
    assert steps(tmp_path / "broken") == steps(tmp_path / "whole")
    assert [line["step"] for line in steps(tmp_path / "whole")] == [1, 2, 3, 4, 5]
    assert not np.array_equal(expected.embed, tiny_params.embed)
    assert len({line["reward_mean"] for line in steps(tmp_path / "whole")}) == 5
    # Two of six tasks a step, each once an epoch.
    assert sorted(np.ravel(whole.played[:3])) == [task.id for task in TASKS]


def test_a_killed_run_with_adapters_ends_with_the_same_bits(tmp_path, train, tiny_params):
    lora = LoraSettings(rank=2, targets=("q", "down"), rate=3.0)
    whole, broken = Dice(), Dice(killed=4)
    expected = train(tmp_path / "whole", whole, lora)
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "broken", broken, lora)
    found = train(tmp_path / "broken", Dice(), lora)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert steps(tmp_path / "broken") == steps(tmp_path / "whole")
    assert [line["lr"] for line in steps(tmp_path / "whole")] == pytest.approx([3e-2] * 5)
    base, own = detach(found)
    jax.tree.map(np.testing.assert_array_equal, base, tiny_params)
    assert all(np.any(factors.b) for factors in own.factors.values())
    # The checkpoint has no room for the base.
    files = (tmp_path / "whole/end_to_end/checkpoints").rglob("*")
    assert sum(path.stat().st_size for path in files if path.is_file()) < tiny_params.embed.nbytes


def test_a_model_plays_against_databases_and_is_updated_on_its_turns(tmp_path, small_model):
    settings = dataclasses.replace(
        sql.smoke(),
        model=ModelSettings(name=str(small_model)),
        environment=dataclasses.replace(sql.study().environment, tasks=3, every=1),
        end_to_end=dataclasses.replace(
            SETTINGS, steps=1, samples=2, unfinished="fail", sampling=SamplingSettings(max_tokens=8)
        ),
    )
    run = Run(settings, tmp_path, make_mesh(MeshSettings(), jax.devices()[:1]))
    with jax.set_mesh(run.mesh):
        end_to_end_stage(run, run.base_params())
    (row,) = steps(tmp_path)
    # A random model does not end its first action, and with it the episode.
    assert (row["rollout_turns"], row["sampled_tokens"]) == (2 * 2, 2 * 2 * 8)
    assert (row["reward_mean"], row["win_rate"], row["grad_norm"]) == (0, 0, 0)
    assert row["action_tokens"] == row["sampled_tokens"]
    ((step, played),) = read_curve(tmp_path, "end_to_end")
    assert (step, played["win_rate"], played["episodes"]) == (1, 0, 3)
    assert played["seconds"] > 0
