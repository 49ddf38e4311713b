"""The charts of the report, section by section."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from experiments.reports import charts
from experiments.reports.data import POLICIES, Artifacts, Row
from experiments.reports.verdict import interval


@dataclasses.dataclass(frozen=True)
class Figure:
    title: str
    chart: Markup
    note: str = ""


def reward_figures(run: Artifacts) -> list[Figure]:
    """Dots with intervals, on one axis for both sets; a mean without an interval is left out."""
    parts = {"heldout": "All held-out candidates", "heldout_pivots": "Held-out pivots only"}
    rows = {
        title: [
            (POLICIES[name], entry.mean, entry.low, entry.high)
            for name, policy in run.policies.items()
            if policy.get(part) and not math.isnan((entry := interval(policy[part])).low)
        ]
        for part, title in parts.items()
    }
    ends = [end for group in rows.values() for *_, low, high in group for end in (low, high)]
    label = "mean reward, 95 % interval"
    return [
        Figure(title, charts.interval_chart(title, group, label, (min(ends), max(ends))))
        for title, group in rows.items()
        if group
    ]


def profile_figures(run: Artifacts) -> list[Figure]:
    """Histograms of mean and variance over the candidates that have both."""
    scored = [row for row in run.table if row["mean"] is not None and row["n"]]
    if not scored:
        return []
    levels = min(max(row["n"] for row in scored), 20)
    means = (np.arange(levels + 2) - 0.5) / levels
    top = max(0.25, max(row["variance"] for row in scored))
    variances = (np.arange(17) - 0.5) * top / 15
    domains = (run.select_audit or {}).get("settings", {}).values()
    thresholds = {own["threshold"] for own in domains}
    mark = None
    # Domains may differ, and then no one line is right.
    if len(thresholds) == 1:
        (threshold,) = thresholds
        mark = (threshold, f"threshold {threshold:g}")
    return [
        Figure(
            "Profiled mean reward",
            charts.histogram(
                "Profiled mean reward",
                means,
                _layers(scored, "mean", means),
                "mean of a candidate",
                "candidates",
                mark,
            ),
        ),
        Figure(
            "Profiled variance",
            charts.histogram(
                "Profiled variance",
                variances,
                _layers(scored, "variance", variances),
                "variance of a candidate",
                "candidates",
            ),
            "The first bar is zero variance: these turns carry no gradient.",
        ),
    ]


def training_figures(run: Artifacts) -> list[Figure]:
    several = run.domains if len(run.domains) > 1 else []
    wanted = [
        ("Reward", ["reward_mean"], "mean reward", False),
        *((f"Reward: {name}", [f"reward_mean/{name}"], "mean reward", False) for name in several),
        ("Reward spread", ["reward_std"], "standard deviation", False),
        ("Groups that carry signal", ["mixed_share"], "share of groups", True),
        ("Distance to the frozen policy", ["kl"], "KL (nats)", False),
        ("Entropy", ["entropy"], "nats per token", False),
        ("Unusable samples", ["malformed_share", "truncated_share"], "share of samples", True),
        ("Sampler against trainer", ["logp_gap"], "largest log-prob gap (nats)", False),
        ("Throughput", ["tokens_per_second"], "tokens per second", False),
        # Of the online choice of pivots only.
        ("Pivots retired", ["online_solved", "online_hopeless"], "pivots", False),
        ("Signal expected of the choice", ["online_expected_mixed_share"], "share", True),
    ]
    return _figures(run.train, wanted)


def warm_start_figures(run: Artifacts) -> list[Figure]:
    return _figures(
        run.sft,
        [
            ("Supervised loss", ["loss"], "nats per token", False),
            ("Token accuracy", ["accuracy"], "share of tokens", True),
        ],
    )


def _layers(scored: list[Row], field: str, edges: np.ndarray) -> list[charts.Layer]:
    def counts(kept: bool) -> list[int]:
        values = [row[field] for row in scored if (row["status"] == "pivot") == kept]
        return np.histogram(values, edges)[0].tolist()

    return [charts.Layer("pivots", counts(True), "s1"), charts.Layer("others", counts(False), "s0")]


def _figures(rows: list[Row], wanted: Sequence[tuple[str, list[str], str, bool]]) -> list[Figure]:
    """A figure for each wanted metric that the run recorded."""
    figures = []
    for title, names, label, percent in wanted:
        series = [
            charts.Series(name.removesuffix("_share"), points, style)
            for name, style in zip(names, ("s1", "s2"), strict=False)
            if (points := [(r["step"], r[name]) for r in rows if r.get(name) is not None])
        ]
        if series:
            chart = charts.line_chart(title, series, "step", label, percent)
            figures.append(Figure(title, chart))
    return figures
