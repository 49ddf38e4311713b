"""What a report says of whole episodes and of out-of-domain answers."""

import math

from experiments.reports import charts
from experiments.reports.data import POLICIES, Artifacts, Row
from experiments.reports.figures import Figure
from experiments.reports.verdict import bounds, interval, signed

ENDINGS = {
    "done": "done",
    "turns": "out of turns",
    "tokens": "out of room",
    "truncated": "action cut off",
}
EPISODE_HEAD = [
    "Policy", "Actions", "Win rate", "Mean score", "Turns", "Tokens", "Malformed", "Invalid",
    "Ended",
]  # fmt: skip


def episode_rows(run: Artifacts) -> list[list[str]]:
    """Cells under EPISODE_HEAD, a row for each policy and each way to choose actions."""
    return [
        [POLICIES[name], mode, *_episodes(own)]
        for name, policy in run.policies.items()
        for mode, own in policy.get("episodes", {}).items()
    ]


def _episodes(own: Row) -> list[str]:
    endings = (f"{own['endings'][name]:.0%} {said}" for name, said in ENDINGS.items())
    return [
        measured(own["win_rate"]),
        f"{own['score']['mean']:.3f}",
        f"{own['turns']:.1f}",
        f"{own['tokens']:.0f}",
        f"{own['malformed_share']:.0%}",
        f"{own['invalid_share']:.0%}",
        ", ".join(ending for ending in endings if not ending.startswith("0%")),
    ]


def win_figures(run: Artifacts) -> list[Figure]:
    """Win rates with intervals, a figure for each way to choose actions."""
    played = {
        name: policy["episodes"] for name, policy in run.policies.items() if "episodes" in policy
    }
    found = []
    for mode in dict.fromkeys(mode for own in played.values() for mode in own):
        rates = {
            name: interval(own[mode]["win_rate"]) for name, own in played.items() if mode in own
        }
        rows = [
            (POLICIES[name], rate.mean, rate.low, rate.high)
            for name, rate in rates.items()
            if not math.isnan(rate.low)
        ]
        if rows:
            title = f"Whole episodes, {mode}"
            chart = charts.interval_chart(title, rows, "win rate, 95 % interval", (0, 1))
            found.append(Figure(title, chart))
    return found


def suite_rows(run: Artifacts) -> list[tuple[str, list[str]]]:
    """A row for each suite of questions, then their mean and its change: a cell for each policy."""
    answered = [policy.get("suites", {}) for policy in run.policies.values()]
    names = dict.fromkeys(name for own in answered for name in own)
    rows = [
        (name, [measured(own[name]) if name in own else "–" for own in answered]) for name in names
    ]
    return (
        [*rows, ("mean − Base", [_change(policy) for policy in run.policies.values()])]
        if rows
        else []
    )


def _change(policy: Row) -> str:
    found = policy.get("against", {}).get("base", {}).get("suites")
    if found is None:
        return "–"
    change = interval(found["mean"])
    return f"{signed(change.mean)} {bounds(change)}"


def measured(entry: Row) -> str:
    """For example "0.625 [0.500, 0.750]"."""
    return f"{entry['mean']:.3f} {bounds(interval(entry))}"
