"""Whole episodes with the settings of a run."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments.context import EVALUATE, Run, key_of
from pivotrl_jax.environments import ChatFormat, Ending, EpisodeSettings, Played, Task, play
from pivotrl_jax.evaluation import clustered_mean, paired_difference
from pivotrl_jax.evaluation.suites import greedy, spread
from pivotrl_jax.models import Params
from pivotrl_jax.sampling import SamplingSettings
from pivotrl_jax.text import Clip, RenderSettings
from pivotrl_jax.training import Play

TaskScores = Mapping[tuple[str, str], float]  # by group and task

SCHEMA = pa.schema(
    {
        "task": pa.string(),
        "group": pa.string(),
        "mode": pa.string(),
        "sample": pa.int64(),
        "score": pa.float64(),
        "ending": pa.string(),
        "turns": pa.int64(),
        "tokens": pa.int64(),  # sampled
        "malformed": pa.int64(),
        "invalid": pa.int64(),
    }
)


def player(run: Run, sampling: SamplingSettings, samples: int) -> Play:
    """Plays `samples` episodes of every task with a policy, as the run's text settings have it."""
    domain = run.domains[run.settings.domain]
    text = domain.settings.text
    chat_format = ChatFormat(
        run.tokenizer,
        domain.template,
        domain.fmt,
        Clip(text.clip_observation, text.clip_task),
        RenderSettings(text.tool_role, text.reasoning),
    )
    limits = EpisodeSettings(run.settings.environment.turns, text.trunk_tokens)

    def play_all(params: Params, tasks: Sequence[Task], key: Any) -> list[Played]:
        return play(
            params,
            run.cfg,
            run.environment,
            tasks,
            samples,
            key,
            chat_format,
            limits,
            sampling,
            run.settings.engine,
            run.mesh,
            run.watch,
        )

    return play_all


def evaluation_tasks(run: Run) -> list[Task]:
    """Spread evenly over their split."""
    settings = run.settings.environment
    return spread(run.environment.tasks(settings.split), settings.tasks)


def evaluation_episodes(run: Run, params: Params) -> pa.Table:
    """One row per episode, as `SCHEMA` has it: a greedy one of every task, and the sampled ones."""
    settings, sampling = run.settings.environment, run.settings.train.sampling
    tasks = evaluation_tasks(run)
    modes = {"greedy": (greedy(sampling.max_tokens), 1), "sampled": (sampling, settings.samples)}
    rows = [
        _row(mode, episode)
        for mode, (how, samples) in modes.items()
        for episode in player(run, how, samples)(params, tasks, key_of(run, EVALUATE))
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def _row(mode: str, episode: Played) -> dict[str, Any]:
    moves = episode.moves
    return {
        "task": episode.task.id,
        "group": episode.task.group,
        "mode": mode,
        "sample": episode.sample,
        "score": episode.score,
        "ending": episode.ending,
        "turns": len(moves),
        "tokens": sum(move.end - move.start for move in moves),
        "malformed": sum(move.malformed for move in moves),
        "invalid": sum(not move.valid for move in moves),
    }


def episode_scores(table: pa.Table, seed: int) -> dict[str, Any]:
    """By mode: win rate (score 1) and mean score with intervals over groups of tasks, and means."""
    return {
        mode: _scores(table.filter(pc.equal(table["mode"], mode)), seed)
        for mode in dict.fromkeys(table["mode"].to_pylist())
    }


def episode_changes(after: pa.Table, before: pa.Table, seed: int) -> dict[str, Any]:
    """By mode: after - before of the win rate with its interval, paired by task."""
    new, old = by_task(after, won), by_task(before, won)
    return {mode: _change(own, old[mode], seed) for mode, own in new.items() if mode in old}


def _change(after: TaskScores, before: TaskScores, seed: int) -> dict[str, Any]:
    tasks = [task for task in after if task in before]
    found = paired_difference(
        [after[task] for task in tasks],
        [before[task] for task in tasks],
        [group for group, _ in tasks],
        seed,
    )
    return dataclasses.asdict(found)


def by_task(table: pa.Table, worth: Callable[[float], float]) -> dict[str, TaskScores]:
    """By mode, the mean over each task's episodes of what their scores are `worth`."""
    found: dict[str, dict[tuple[str, str], list[float]]] = {}
    for row in table.to_pylist():
        own = found.setdefault(row["mode"], {})
        own.setdefault((row["group"], row["task"]), []).append(worth(row["score"]))
    return {
        mode: {task: float(np.mean(each)) for task, each in own.items()}
        for mode, own in found.items()
    }


def won(score: float) -> float:
    """What counts in a win rate."""
    return float(score == 1)


def _scores(table: pa.Table, seed: int) -> dict[str, Any]:
    scores, groups = table["score"].to_pylist(), table["group"].to_pylist()
    wins = clustered_mean([won(score) for score in scores], groups, seed)
    moves = sum(table["turns"].to_pylist())
    endings = table["ending"].to_pylist()
    return {
        "win_rate": dataclasses.asdict(wins),
        "score": dataclasses.asdict(clustered_mean(scores, groups, seed)),
        "episodes": len(table),
        "turns": moves / len(table),
        "tokens": float(np.mean(table["tokens"].to_pylist())),
        "malformed_share": sum(table["malformed"].to_pylist()) / max(1, moves),
        "invalid_share": sum(table["invalid"].to_pylist()) / max(1, moves),
        "endings": {name: endings.count(name) / len(endings) for name in get_args(Ending)},
    }
