"""The learning rate of every arm, chosen on validation tasks after as many trials for each."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.studies.arms import PIVOT_RATE, Arm, Study
from experiments.studies.summary import figures
from pivotrl_jax.errors import UserError

# A choice is made by episodes; everything else is measured as little as possible.
VALIDATION: Mapping[str, Any] = {
    "environment.split": "validation",
    "environment.every": None,
    "suites.names": (),
    "evaluation.samples": 1,
    "evaluation.ood_texts": 1,
}


def with_overrides(arm: Arm, overrides: Mapping[str, Any], **fields: Any) -> Arm:
    """The arm with more `overrides`, and with other `fields`."""
    together = {**arm.overrides, **overrides}
    return dataclasses.replace(arm, overrides=together, **fields)


def trials(arm: Arm, factors: Sequence[float], configured: float) -> list[Arm]:
    """One arm for each of `factors`, of the rate that is `configured`: NAME-0, NAME-1, ...

    They differ in the rate alone, so that what profiles one policy shares one's samples: those of
    the first trial, or of the first trial of the arm that this one is like.
    """
    assert arm.tuned is not None
    profiles = arm.tuned == PIVOT_RATE
    rates = [float(f"{configured * factor:.3g}") for factor in sorted(factors)]
    return [
        with_overrides(
            arm,
            {**VALIDATION, arm.tuned: rate},
            name=f"{arm.name}-{number}",
            title=f"{arm.title}, {arm.tuned} {rate:g}",
            like=f"{arm.like or arm.name}-0" if arm.like or (profiles and number) else None,
        )
        for number, rate in enumerate(rates)
    ]


def choice(own: Sequence[Arm], workdir: Path) -> dict[str, Any]:
    """What an arm's trials in `workdir` won: the field, each rate's mean over greedy and sampled
    win rates, and the rate with the highest; of equals the smallest."""
    field = own[0].tuned
    assert field is not None
    tried = [_tried(trial.overrides[field], workdir / trial.name / "0") for trial in own]
    best = max(tried, key=lambda row: (row["win_rate"], -row["value"]))
    return {"field": field, "chosen": best["value"], "trials": tried}


def _tried(rate: float, run: Path) -> dict[str, Any]:
    won = figures(run)["in_domain"]
    return {"value": rate, **won, "win_rate": float(np.mean(list(won.values())))}


def require_choices(arms: Sequence[Arm], found: Mapping[str, Any], place: Path) -> None:
    """UserError for an arm with trials in `place` that chose nothing yet."""
    for arm in arms:
        if arm.name not in found and any(place.glob(f"{arm.name}-*")):
            raise UserError(
                f"{place} holds trials of arm {arm.name} and tuned.json beside it has no rate for "
                "it: finish them with --tune, or delete the folder to take the configured rates"
            )


def tuned(study: Study, found: Mapping[str, Any]) -> tuple[Arm, ...]:
    """The study's arms with the rates that were chosen for them: by trials (`choice`, by name), or
    else the study's own."""
    rates = dict(study.rates) | {name: own["chosen"] for name, own in found.items()}
    fields = {arm.name: arm.tuned for arm in study.arms if arm.tuned}
    sources = ((arm, arm.rate_of or arm.name) for arm in study.arms)
    return tuple(
        with_overrides(arm, {fields[name]: rates[name]} if name in rates else {})
        for arm, name in sources
    )
