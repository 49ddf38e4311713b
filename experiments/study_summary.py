"""What the runs of a study measured: by arm and seed, means over seeds, and against the base."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from experiments.arms import Arm
from experiments.report_data import json_lines
from experiments.study_means import means

# What a policy is after, by the files it leaves; the last one there is the arm's.
POLICIES = ("base", "sft", "pivotrl", "end_to_end")
# Stages that make a policy, and not those that evaluate it.
TRAINING = ("sft", "profile", "select", "train", "end_to_end")
PIVOTRL = "pivotrl"  # the arm that the others are held against

Row = dict[str, Any]


def summary(workdir: Path, arms: Sequence[Arm], seeds: int) -> Row:
    """Every finished run's figures, and each arm's means with 95 % intervals.

    Intervals are bootstraps over tasks or questions, whose results are averaged over seeds first;
    `change` is against the study's first arm, paired by them, and `below_pivotrl` PivotRL's lead.
    """
    found: Row = {}
    for arm in arms:
        runs = {seed: workdir / arm.name / str(seed) for seed in range(seeds)}
        done = {s: path for s, path in runs.items() if (path / "done" / "summary").exists()}
        if done:
            held = (_evaluated(workdir / name, seeds) for name in (arm.name, arms[0].name, PIVOTRL))
            found[arm.name] = {
                "title": arm.title,
                "overrides": dict(arm.overrides),
                "seeds": {str(seed): figures(path) for seed, path in done.items()},
                "means": means(*held),
            }
    return found


def _evaluated(arm: Path, seeds: int) -> dict[int, Path]:
    """By seed, what the files of a finished run's evaluation begin with."""
    runs = {seed: arm / str(seed) for seed in range(seeds)}
    done = {seed: run for seed, run in runs.items() if (run / "done" / "summary").exists()}
    return {seed: run / "evaluate" / _policy(run) for seed, run in done.items()}


def figures(run: Path) -> Row:
    """One run: win rates, out-of-domain accuracy, and what its policy cost to make.

    `turns` are sampled actions and `tokens` their tokens, those of the profile apart. `flops` are
    6 per parameter and token of an update's rows (8 with the frozen policy's pass); sampling,
    attention and evaluation come on top.
    """
    evaluated = json.loads((run / "evaluate" / f"{_policy(run)}.json").read_text())
    episodes, suites = evaluated.get("episodes", {}), evaluated.get("suites", {})
    timing = [row for row in json_lines(run / "timing.jsonl") if row["stage"] in TRAINING]
    tokens = {row["stage"]: row["tokens"] for row in timing}
    return {
        "in_domain": {mode: own["win_rate"]["mean"] for mode, own in episodes.items()},
        "turn_reward": evaluated["heldout"]["mean"],
        "ood": {name: own["mean"] for name, own in suites.items()},
        "turns": _turns(run),
        "tokens": {
            "profile": tokens.get("profile", 0),
            "training": tokens.get("train", 0) + tokens.get("end_to_end", 0),
        },
        "flops": _flops(run),
        "seconds": sum(row["seconds"] for row in timing),
    }


def _policy(run: Path) -> str:
    there = [name for name in POLICIES if (run / "evaluate" / f"{name}.json").exists()]
    return there[-1]


def _turns(run: Path) -> dict[str, int]:
    config = json.loads((run / "config.json").read_text())["config"]
    samples = config["train"]["samples"]
    groups = sum(row["groups"] for row in _steps(run, "train"))
    profiled = [pq.read_metadata(file).num_rows for file in run.glob("profile*/**/*.parquet")]
    return {
        "profile": sum(profiled),
        "training": int(groups * samples)
        + int(sum(row["rollout_turns"] for row in _steps(run, "end_to_end"))),
    }


def _steps(run: Path, stage: str) -> list[Row]:
    return json_lines(run / stage / "metrics.jsonl")


def _flops(run: Path) -> float:
    described = json.loads((run / "config.json").read_text())
    policy = 8 if described["config"]["objective"]["kl_coef"] else 6
    each = {"sft": 6, "train": policy, "end_to_end": policy}
    tokens = sum(n * row["row_tokens"] for name, n in each.items() for row in _steps(run, name))
    return float(tokens * described["parameters"])
