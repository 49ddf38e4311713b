"""What the policies of an arm reached, and how far it is from two other arms, paired."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.episodes import TaskScores, by_task, won
from pivotrl_jax.evaluation import Interval, clustered_mean
from pivotrl_jax.evaluation.suites import accuracy, accuracy_change, mean_accuracy, mean_change

Row = dict[str, Any]
Evaluated = Mapping[int, Path]  # by seed: what the names of a policy's files begin with
SEED = 0  # of the bootstraps


def means(own: Evaluated, first: Evaluated, pivotrl: Evaluated) -> Row:
    """By what was measured: `mean`; `change`, own - first; `below_pivotrl`, pivotrl - own.

    In-domain are win rates and scores of tasks, out of domain the mean of all suites ("ood") and
    each of them ("ood/NAME"). Results are averaged over seeds first, in a difference over those of
    both arms; intervals are bootstraps over groups of tasks or questions. A difference is None
    where two arms have nothing in common.
    """
    changes, below = _changes(own, first), _changes(pivotrl, own)
    return {
        name: {
            "mean": dataclasses.asdict(mean),
            "change": _entry(changes.get(name)),
            "below_pivotrl": _entry(below.get(name)),
        }
        for name, mean in _reached(own).items()
    }


def _entry(found: Interval | None) -> Row | None:
    return None if found is None else dataclasses.asdict(found)


def _reached(runs: Evaluated) -> dict[str, Interval]:
    found = {name: _over_tasks(scores) for name, scores in _played(runs).items()}
    answers = _answers(runs)
    if not len(answers):
        return found
    return found | _named(mean_accuracy(answers, SEED), accuracy(answers, SEED))


def _changes(after: Evaluated, before: Evaluated) -> dict[str, Interval]:
    """after - before over the seeds that both have, of what both measured."""
    seeds = after.keys() & before.keys()
    new, old = ({seed: runs[seed] for seed in seeds} for runs in (after, before))
    scores, earlier = _played(new), _played(old)
    found = {
        name: _over_tasks({task: own[task] - earlier[name][task] for task in own})
        for name, own in scores.items()
    }
    answers = _answers(new), _answers(old)
    if not all(map(len, answers)):
        return found
    return found | _named(mean_change(*answers, SEED), accuracy_change(*answers, SEED))


def _named(mean: Interval, suites: Mapping[str, Interval]) -> dict[str, Interval]:
    return {"ood": mean} | {f"ood/{name}": own for name, own in suites.items()}


def _played(runs: Evaluated) -> dict[str, TaskScores]:
    """Wins and scores in each mode, every task's averaged over the runs."""
    found: dict[str, list[TaskScores]] = {}
    for table in _tables(runs, "episodes"):
        for name, worth in (("in_domain", won), ("score", float)):
            for mode, scores in by_task(table, worth).items():
                found.setdefault(f"{name}/{mode}", []).append(scores)
    return {
        name: {task: float(np.mean([scores[task] for scores in each])) for task in each[0]}
        for name, each in found.items()
    }


def _answers(runs: Evaluated) -> pa.Table:
    """Suites and questions with their scores, averaged over the runs."""
    found: dict[tuple[str, str], list[float]] = {}
    for table in _tables(runs, "suites"):
        for row in table.to_pylist():
            found.setdefault((row["suite"], row["question_id"]), []).append(row["score"])
    rows = [
        {"suite": suite, "question_id": question, "score": float(np.mean(scores))}
        for (suite, question), scores in found.items()
    ]
    return pa.Table.from_pylist(rows)


def _tables(runs: Evaluated, name: str) -> list[pa.Table]:
    paths = [path.with_name(f"{path.name}_{name}.parquet") for path in runs.values()]
    return [pq.read_table(path) for path in paths if path.exists()]


def _over_tasks(scores: TaskScores) -> Interval:
    """Every task weighs the same; those of a group (a database) are drawn together."""
    return clustered_mean(list(scores.values()), [group for group, _ in scores], SEED)
