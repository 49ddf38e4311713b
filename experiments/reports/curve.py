"""Win rates of a policy while it trains, for curves over steps and rollout turns."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.artifacts import write_json
from experiments.context import EVALUATE, Run, key_of
from experiments.episodes import evaluation_tasks, player, won
from pivotrl_jax.models import Params
from pivotrl_jax.models.lora import policy_of
from pivotrl_jax.training import Step, TrainState


def playing(run: Run, name: str, step: Step, base: Params | None) -> Step:
    """`step`; after every `environment.every` of them the policy plays the tasks that policies are
    evaluated on, one sampled episode each.

    What comes out is in NAME/played/STEP.json. `base` is what a state of adapters belongs to.
    """
    every = run.settings.environment.every
    if not every:
        return step
    tasks = evaluation_tasks(run)
    play = player(run, run.settings.train.sampling, samples=1)

    def played(state: TrainState) -> dict[str, Any]:
        began = time.monotonic()
        with jax.transfer_guard("allow"):
            episodes = play(policy_of(state.params, base), tasks, key_of(run, EVALUATE))
        return {
            "win_rate": float(np.mean([won(episode.score) for episode in episodes])),
            "episodes": len(episodes),
            "seconds": time.monotonic() - began,
        }

    def both(
        state: TrainState, indices: np.ndarray, number: int
    ) -> tuple[TrainState, Mapping[str, float]]:
        state, metrics = step(state, indices, number)
        if (number + 1) % every == 0:
            write_json(_directory(run.workdir, name) / f"{number + 1}.json", played(state))
        return state, metrics

    return both


def read_curve(workdir: Path, name: str) -> Sequence[tuple[int, Mapping[str, Any]]]:
    """What `playing` left of a stage, by step."""
    files = _directory(workdir, name).glob("*.json")
    return sorted((int(file.stem), json.loads(file.read_text("utf-8"))) for file in files)


def _directory(workdir: Path, name: str) -> Path:
    return workdir / name / "played"
