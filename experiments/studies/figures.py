"""The figures of a study: intervals by arm, and the paper's curves, means over seeds."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from experiments.reports import charts
from experiments.reports.curve import read_curve
from experiments.reports.data import Row, json_lines
from experiments.reports.figures import Figure
from experiments.reports.verdict import interval

PIVOTRL, END_TO_END = "pivotrl", "end_to_end"
STYLES = ("s2", "s3", "s4", "s0")  # of the lines beside PivotRL's
STAGES = ("train", "end_to_end")  # those with groups of samples
SPREAD = " Mean over seeds; the band goes from the lowest to the highest."

Summary = Mapping[str, Any]
Curve = charts.Points


def interval_figures(summary: Summary, measured: Mapping[str, str]) -> list[Figure]:
    """A dot with its interval for each arm, in per cent; a figure for each of `measured`, which are
    titles by name."""
    found = []
    for name, title in measured.items():
        entries = {arm["title"]: arm["means"].get(name) for arm in summary.values()}
        means = {label: interval(entry["mean"]) for label, entry in entries.items() if entry}
        rows = [
            (label, 100 * mean.mean, 100 * mean.low, 100 * mean.high)
            for label, mean in means.items()
            if not math.isnan(mean.low)
        ]
        if rows:
            ends = min(row[2] for row in rows), max(row[3] for row in rows)
            strong = summary[PIVOTRL]["title"] if PIVOTRL in summary else ""
            chart = charts.interval_chart(title, rows, "per cent, 95 % interval", ends, strong)
            found.append(Figure(title, chart))
    return found


def deviation_figures(workdir: Path, summary: Summary) -> list[Figure]:
    """How much signal the groups of a step hold, over training: the paper's Figure 3."""
    wanted = [
        ("Reward deviation within groups", "group_std", "Mean over a step's groups of samples."),
        ("Reward deviation of a step", "reward_std", "Of all samples of a step, as in the paper."),
    ]
    found = []
    for title, metric, note in wanted:
        curves = {name: _curves(workdir / name, arm, metric) for name, arm in summary.items()}
        for number, series in enumerate(_in_parts(summary, curves)):
            chart = charts.line_chart(title, series, "step", "standard deviation")
            numbered = f"{title} ({number + 1})" if number else title
            found.append(Figure(numbered, chart, note + _spread(summary)))
    return found


def _spread(summary: Summary) -> str:
    """What lines are, where there are several seeds."""
    return SPREAD if any(len(arm["seeds"]) > 1 for arm in summary.values()) else ""


def _curves(arm: Path, found: Row, metric: str) -> list[Curve]:
    """The metric over the steps of each seed, smoothed where it is long."""
    runs = [_steps(arm / seed) for seed in found["seeds"]]
    curves = [
        [(row["step"], row[metric]) for row in rows if row.get(metric) is not None] for rows in runs
    ]
    return [_smooth(curve) for curve in curves if curve]


def _steps(run: Path) -> list[Row]:
    """The metrics of the one stage of a run that samples."""
    return next((rows for name in STAGES if (rows := json_lines(run / name / "metrics.jsonl"))), [])


def _smooth(curve: Curve) -> Curve:
    return curve if len(curve) < charts.SMOOTH_FROM else charts.moving_mean(curve)


def _in_parts(summary: Summary, curves: Mapping[str, Sequence[Curve]]) -> list[list[charts.Series]]:
    """PivotRL's line with those of a few other arms, and again with the next few."""
    lines = {
        name: partial(over_seeds, summary[name]["title"], curves=own)
        for name, own in curves.items()
        if own
    }
    first = [lines.pop(PIVOTRL)("s1")] if PIVOTRL in lines else []
    others, size = list(lines.values()), len(STYLES)
    parts = [others[at : at + size] for at in range(0, len(others), size)] or [[]] * len(first)
    return [
        [*first, *(line(style) for line, style in zip(part, STYLES, strict=False))]
        for part in parts
    ]


def over_seeds(label: str, style: str, curves: Sequence[Curve]) -> charts.Series:
    """Point by point, the mean of the curves with the lowest and highest of them; as long as the
    shortest."""
    points = list(zip(*curves, strict=False))
    values = [tuple(np.mean(point, axis=0).tolist()) for point in points]
    ys = [[y for _, y in point] for point in points]
    return charts.Series(label, values, style, band=[(min(own), max(own)) for own in ys])


def turns_figure(workdir: Path, summary: Summary) -> list[Figure]:
    """Win rate against the rollout turns that training took: the paper's Figure 1."""
    mode = "in_domain/sampled"
    titled = {"base": "s0", PIVOTRL: "s1", END_TO_END: "s2"}
    arms = {
        name: summary[name] for name in titled if mode in summary.get(name, {}).get("means", {})
    }
    series = [
        charts.Series(arm["title"], _ends(arm, mode), titled[name], dots=True)
        for name, arm in arms.items()
    ]
    for name, arm in arms.items():
        curves = [own for seed in arm["seeds"] if (own := _wins(workdir / name / seed))]
        if curves:
            series.append(over_seeds(f"{arm['title']}, while training", titled[name], curves))
    if not series:
        return []
    title = "Win rate against rollout turns"
    note = (
        "Held-out tasks, sampled. Dots: after training, one for each seed; lines: while training. "
        "The profile's turns do not count, as in the paper." + _spread(summary)
    )
    chart = charts.line_chart(title, series, "rollout turns of training", "win rate", percent=True)
    return [Figure(title, chart, note)]


def _ends(arm: Row, mode: str) -> list[tuple[float, float]]:
    """Turns and win rate of each seed after training."""
    how = mode.removeprefix("in_domain/")
    return [(run["turns"]["training"], run["in_domain"][how]) for run in arm["seeds"].values()]


def _wins(run: Path) -> Curve:
    """The win rates while training over the rollout turns up to then."""
    turns = list(accumulate(row["rollout_turns"] for row in _steps(run)))
    played = (own for stage in STAGES for own in read_curve(run, stage))
    return [(turns[step - 1], own["win_rate"]) for step, own in played]
