"""The figures of `experiments.theory`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.reports import charts
from experiments.reports.figures import Figure


def figures(found: Mapping[str, Any], names: Sequence[str]) -> list[Figure]:
    """Of what `theory.measure` found; `names` are those of the actions that are trained."""
    return [
        _successes_figure(found["by_successes"]),
        _variance_figure(found["by_variance"]),
        _path_figure(found["along_path"]),
        *(_training_figure(name, names, pis) for name, pis in found["training"].items()),
        _odds_figure(found["ends"]),
    ]


def _successes_figure(found: Mapping[str, Sequence[float]]) -> Figure:
    title = "Proposition 3.1: without variance, no gradient"
    series = [
        charts.Series("r − mean", list(enumerate(found["mean"])), "s1"),
        charts.Series("(r − mean) / std", list(enumerate(found["std"])), "s2"),
    ]
    actions = len(found["mean"]) - 1
    chart = charts.line_chart(title, series, f"successes of {actions}", "natural gradient norm")
    note = (
        "All fail or all succeed: exactly 0. In between the norm is √Var r; "
        "divided by it, every mixed group speaks equally loud."
    )
    return Figure(title, chart, note)


def _variance_figure(found: Mapping[str, Sequence[float]]) -> Figure:
    title = "Theorem 3.2: the gradient grows with the variance"
    curve = np.linspace(0, max(found["variance"]), 39)
    series = [
        charts.Series("√Var r", list(zip(curve, np.sqrt(curve), strict=True)), "s0"),
        charts.Series(
            "random policies", list(zip(found["variance"], found["norm"], strict=True)), dots=True
        ),
    ]
    chart = charts.line_chart(title, series, "variance of the reward", "natural gradient norm")
    return Figure(title, chart, "Every other reward is binary.")


def _path_figure(found: Mapping[str, Sequence[float]]) -> Figure:
    title = "Theorem 3.2: the speed of the KL-regularised path"
    line, dots = (list(zip(found["beta"], found[name], strict=True)) for name in ("speed", "norm"))
    series = [
        charts.Series("Fisher speed", line, "s0"),
        charts.Series("natural norm / β²", dots, "s1", dots=True),
    ]
    chart = charts.line_chart(title, series, "β", "per unit of β")
    return Figure(title, chart, "π_β ∝ π_0 exp(r / β); both are √Var r / β².")


def _training_figure(name: str, names: Sequence[str], pis: Sequence[Sequence[float]]) -> Figure:
    title = f"Theorem 3.3: training with the {name} reward"
    styles = ("s1", "s2", "s0", "s0", "s0")
    series = [
        charts.Series(label, list(enumerate(own)), style)
        for label, own, style in zip(names, np.transpose(pis).tolist(), styles, strict=True)
    ]
    notes = {
        "functional": "Acceptable actions rise together; no two on one side change their order.",
        "strict": "Exact match overturns the order: the other valid action falls with the wrong.",
    }
    chart = charts.line_chart(title, series, "natural-gradient step", "probability")
    return Figure(title, chart, notes[name])


def _odds_figure(ends: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    title = "Theorem 3.3: the other valid action against the expert's"
    series = [
        charts.Series(
            name, [(1 / e["beta"], float(np.log(e["alternative_over_expert"]))) for e in own], style
        )
        for (name, own), style in zip(ends.items(), ("s1", "s2"), strict=True)
    ]
    chart = charts.line_chart(title, series, "1 / β", "log odds after training")
    return Figure(title, chart, "Strict match divides these odds by exp(1/β).")
