"""What the runs of a study measured: by arm and seed, means over seeds, and against the base."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from experiments.arms import Arm
from experiments.flops import flops, profiles, steps, total
from experiments.report_data import json_lines
from pivotrl_jax.evaluation import clustered_mean

# What a policy is after, by the files it leaves; the last one there is the arm's.
POLICIES = ("base", "sft", "pivotrl", "end_to_end")
# Stages that make a policy, and not those that evaluate it.
TRAINING = ("sft", "profile", "select", "train", "end_to_end")

Row = dict[str, Any]
Scores = Mapping[tuple[str, str], float]  # by group and task, or suite and question


def summary(workdir: Path, arms: Sequence[Arm], seeds: int) -> Row:
    """Every finished run's figures, and each arm's means with 95 % intervals.

    Intervals are bootstraps over tasks or questions, whose results are averaged over seeds first;
    `change` is against the study's first arm, paired by them. `tuned` are an arm's trials.
    """
    found: Row = {}
    tried = choices(workdir)
    for arm in arms:
        runs = {seed: workdir / arm.name / str(seed) for seed in range(seeds)}
        done = {s: path for s, path in runs.items() if (path / "done" / "summary").exists()}
        if done:
            base = [workdir / arms[0].name / str(seed) for seed in done]
            found[arm.name] = {
                "title": arm.title,
                "overrides": dict(arm.overrides),
                "tuned": tried.get(arm.name),
                "seeds": {str(seed): figures(path) for seed, path in done.items()},
                "means": _means(list(done.values()), base),
            }
    return found


def choices(workdir: Path) -> Row:
    """What trials chose for the arms (`tune.choice` by arm); empty where there were none."""
    path = workdir / "tuned.json"
    return json.loads(path.read_text()) if path.exists() else {}


def figures(run: Path) -> Row:
    """One run: win rates, out-of-domain accuracy, and what its policy cost to make.

    `turns` are sampled actions and `tokens` their tokens, those of profiles apart; `flops` as
    `experiments.flops` counts them, and `seconds` of the stages that made the policy. Evaluation
    is in none of them; samples that were taken from another run are in all.
    """
    evaluated = json.loads((run / "evaluate" / f"{_policy(run)}.json").read_text())
    episodes, suites = evaluated.get("episodes", {}), evaluated.get("suites", {})
    sampled = profiles(run)
    return {
        "in_domain": {mode: own["win_rate"]["mean"] for mode, own in episodes.items()},
        "turn_reward": evaluated["heldout"]["mean"],
        "ood": {name: own["mean"] for name, own in suites.items()},
        "turns": {
            "profile": sum(map(len, sampled)),
            "training": _added(run, "rollout_turns"),
        },
        "tokens": {
            "profile": sum(total(samples, "length") for samples in sampled),
            "training": _added(run, "sampled_tokens"),
        },
        "flops": flops(run, sampled),
        "seconds": _seconds(run),
    }


def _policy(run: Path) -> str:
    there = [name for name in POLICIES if (run / "evaluate" / f"{name}.json").exists()]
    return there[-1]


def _added(run: Path, metric: str) -> int:
    return int(sum(row[metric] for stage in ("train", "end_to_end") for row in steps(run, stage)))


def _seconds(run: Path) -> float:
    source = json.loads((run / "config.json").read_text())["config"]["profile"]["samples_from"]
    drawn = _timed(Path(source), ("profile",)) if source else 0.0
    return _timed(run, TRAINING) + drawn


def _timed(run: Path, stages: Sequence[str]) -> float:
    return sum(row["seconds"] for row in json_lines(run / "timing.jsonl") if row["stage"] in stages)


def _means(runs: Sequence[Path], base: Sequence[Path]) -> Row:
    """Mean and change against the base: win rates over tasks, accuracy over suites of questions."""
    own, other = _results(runs), _results(base)
    found: Row = {}
    for name, scores in own.items():
        before = other.get(name, {})
        changes = {key: scores[key] - before[key] for key in scores if key in before}
        found[name] = {"mean": _interval(scores), "change": _interval(changes)}
    return found


def _results(runs: Sequence[Path]) -> dict[str, Scores]:
    """By what was measured, the score of every task or question, averaged over the runs."""
    found: dict[str, list[Scores]] = {}
    for run in runs:
        for name, scores in {**_wins(run), "ood": _answers(run)}.items():
            if scores:
                found.setdefault(name, []).append(scores)
    return {name: _averaged(each) for name, each in found.items()}


def _wins(run: Path) -> dict[str, Scores]:
    path = run / "evaluate" / f"{_policy(run)}_episodes.parquet"
    if not path.exists():
        return {}
    rows = pq.read_table(path).to_pylist()
    found: dict[str, dict[tuple[str, str], list[float]]] = {}
    for row in rows:
        own = found.setdefault(f"in_domain/{row['mode']}", {})
        own.setdefault((row["group"], row["task"]), []).append(float(row["score"] == 1))
    return {
        mode: {key: float(np.mean(wins)) for key, wins in own.items()}
        for mode, own in found.items()
    }


def _answers(run: Path) -> Scores:
    path = run / "evaluate" / f"{_policy(run)}_suites.parquet"
    rows = pq.read_table(path).to_pylist() if path.exists() else []
    return {(row["suite"], row["question_id"]): row["score"] for row in rows}


def _averaged(runs: Sequence[Scores]) -> Scores:
    return {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}


def _interval(scores: Scores) -> Row:
    """Every part weighs the same: a suite of questions, or a group of tasks."""
    sizes = Counter(part for part, _ in scores)
    values = [
        value * len(scores) / (len(sizes) * sizes[part]) for (part, _), value in scores.items()
    ]
    return dataclasses.asdict(clustered_mean(values, [key for _, key in scores], seed=0))


def table(found: Row) -> str:
    """The means as Markdown."""
    names = list(dict.fromkeys(name for arm in found.values() for name in arm["means"]))
    lines = ["| arm | " + " | ".join(names) + " | turns | seconds |"]
    lines.append("| --- |" + " ---: |" * (len(names) + 2))
    for arm in found.values():
        cells = [_cell(arm["means"].get(name)) for name in names]
        runs = list(arm["seeds"].values())
        turns = np.mean([sum(run["turns"].values()) for run in runs])
        seconds = np.mean([run["seconds"] for run in runs])
        lines.append(
            f"| {arm['title']} | " + " | ".join(cells) + f" | {turns:,.0f} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def _cell(measured: Row | None) -> str:
    if measured is None:
        return "–"
    mean, change = measured["mean"], measured["change"]
    return f"{mean['mean']:.3f} ({change['mean']:+.3f} [{change['low']:.3f}, {change['high']:.3f}])"
