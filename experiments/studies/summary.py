"""What the runs of a study measured: by arm and seed, means over seeds, and against the base."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.flops import flops, profiles, steps, total
from experiments.reports.curve import read_curve
from experiments.reports.data import json_lines
from experiments.studies.arms import Arm
from experiments.studies.means import means

# What a policy is after, by the files it leaves; the last one there is the arm's.
POLICIES = ("base", "sft", "pivotrl", "end_to_end")
# Stages that make a policy, and not those that evaluate it.
TRAINING = ("sft", "profile", "select", "train", "end_to_end")
PIVOTRL = "pivotrl"  # the arm that the others are held against

Row = dict[str, Any]


def summary(workdir: Path, arms: Sequence[Arm]) -> Row:
    """Every finished run's figures, of all seeds there are, and each arm's means with 95 %
    intervals.

    Intervals are bootstraps over tasks or questions, whose results are averaged over seeds first;
    `change` is against the study's first arm, paired by them, and `below_pivotrl` PivotRL's lead.
    `tuned` are an arm's trials.
    """
    found: Row = {}
    tried = choices(workdir)
    for arm in arms:
        done = _done(workdir / arm.name)
        if done:
            held = (_evaluated(workdir / name) for name in (arm.name, arms[0].name, PIVOTRL))
            found[arm.name] = {
                "title": arm.title,
                "overrides": dict(arm.overrides),
                "tuned": tried.get(arm.name),
                "seeds": {str(seed): figures(path) for seed, path in done.items()},
                "means": means(*held),
            }
    return found


def _done(arm: Path) -> dict[int, Path]:
    """The finished runs of an arm by seed."""
    return {int(done.parts[-3]): done.parents[1] for done in sorted(arm.glob("*/done/summary"))}


def _evaluated(arm: Path) -> dict[int, Path]:
    """By seed, what the files of a finished run's evaluation begin with."""
    return {seed: run / "evaluate" / _policy(run) for seed, run in _done(arm).items()}


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
    taken = source and _profiled(run) == _profiled(Path(source))
    return _timed(run, TRAINING) + (_timed(Path(source), ("profile",)) if taken else 0.0)


def _profiled(run: Path) -> str:
    """The policy that was profiled first."""
    return json.loads((run / "profile/train/manifest.json").read_text())["policy"]


def _timed(run: Path, stages: Sequence[str]) -> float:
    """Of these stages, without the episodes that are played meanwhile to measure the policy."""
    spent = sum(
        row["seconds"] for row in json_lines(run / "timing.jsonl") if row["stage"] in stages
    )
    return spent - sum(own["seconds"] for stage in stages for _, own in read_curve(run, stage))
