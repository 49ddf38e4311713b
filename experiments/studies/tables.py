"""The tables of a study, as cells of text; win rates and accuracies are in per cent."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.progress import duration
from experiments.reports.data import Row
from experiments.reports.verdict import interval, signed
from experiments.studies.claims import Finding
from pivotrl_jax.evaluation.bootstrap import Interval

Summary = Mapping[str, Any]
MEASURES = {
    "in_domain/greedy": "Win rate on held-out tasks, greedy",
    "in_domain/sampled": "Win rate on held-out tasks, sampled",
    "ood": "Out-of-domain accuracy, mean of the suites",
}
PARTS = {"mean": "mean", "change": "against Base", "below_pivotrl": "PivotRL − arm"}


@dataclasses.dataclass(frozen=True)
class Table:
    """The first column is what a row is of; columns named in `words` are not numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    words: Sequence[str] = ("arm",)


def claims_table(findings: Sequence[Finding], rule: str) -> Table:
    rows = [
        [
            found.claim,
            MEASURES.get(found.measured, found.measured),
            found.paper,
            change(found.value) if isinstance(found.value, Interval) else found.value,
            found.verdict,
        ]
        for found in findings
    ]
    head = ["claim", "measured by", "paper", "difference", "verdict"]
    words = ("claim", "measured by", "verdict")
    return Table("The paper's claims, in points", head, rows, rule, words)


def arms_tables(summary: Summary) -> dict[str, Table]:
    """By what was measured (MEASURES), what each arm reached and how far it is from two others."""
    return {
        name: Table(title, ["arm", *PARTS.values()], rows, _apart(summary))
        for name, title in MEASURES.items()
        if (rows := _measured_rows(summary, name))
    }


def _apart(summary: Summary) -> str:
    """What a reader who subtracts means from each other wonders at."""
    if len({tuple(arm["seeds"]) for arm in summary.values()}) == 1:
        return ""
    return "Differences are of the seeds that both arms have, of which some arms have fewer."


def _measured_rows(summary: Summary, name: str) -> list[list[str]]:
    """An arm has no distance from itself."""
    itself = {(next(iter(summary)), "change"), ("pivotrl", "below_pivotrl")}
    return [
        [
            arm["title"],
            *(
                "–" if (own, part) in itself else _cell(arm["means"][name][part], part)
                for part in PARTS
            ),
        ]
        for own, arm in summary.items()
        if name in arm["means"]
    ]


def _cell(entry: Row | None, part: str) -> str:
    if entry is None:
        return "–"
    return rate(interval(entry)) if part == "mean" else change(interval(entry))


def scores_table(summary: Summary) -> Table:
    """Mean scores, which a task that was not won may have some of."""
    names = ("score/greedy", "score/sampled")
    rows = [
        [arm["title"], *(_cell(arm["means"][name]["mean"], "mean") for name in names)]
        for arm in summary.values()
        if arm["means"].keys() >= set(names)
    ]
    return Table("Mean score on held-out tasks", ["arm", "greedy", "sampled"], rows)


def suites_table(summary: Summary) -> Table:
    """Accuracy of each suite."""
    names = dict.fromkeys(name for arm in summary.values() for name in arm["means"])
    suites = [name for name in names if name.startswith("ood/")]
    rows = [
        [arm["title"], *(percent(arm["means"][name]["mean"]["mean"]) for name in suites)]
        for arm in summary.values()
        if arm["means"].keys() >= set(suites)
    ]
    labels = [name.removeprefix("ood/").replace("_", " ") for name in suites]
    return Table("Out-of-domain accuracy, suite by suite", ["arm", *labels], rows)


def cost_table(summary: Summary, device: str) -> Table:
    """What a policy took to make: means over seeds, of times the median, since a run that others
    crowd takes several times as long."""
    rows = [[arm["title"], *_cost(list(arm["seeds"].values()))] for arm in summary.values()]
    head = [
        "arm", "turns, training", "turns, profile", "tokens, training", "tokens, profile", "FLOPs",
        "time",
    ]  # fmt: skip
    note = (
        "Means over seeds, of times the median, without evaluation. Turns are sampled actions; "
        f"times on {device}."
    )
    return Table("What it took", head, rows, note)


def _cost(seeds: Sequence[Row]) -> list[str]:
    counts = [
        f"{np.mean([run[what][part] for run in seeds]):,.0f}"
        for what in ("turns", "tokens")
        for part in ("training", "profile")
    ]
    flops = float(np.mean([sum(run["flops"].values()) for run in seeds]))
    seconds = float(np.median([run["seconds"] for run in seeds]))
    return [*counts, f"{flops:.1e}", duration(seconds)]


def seeds_table(summary: Summary) -> Table:
    """Each seed's own figures, which show how much they differ."""
    seeds = list(dict.fromkeys(seed for arm in summary.values() for seed in arm["seeds"]))
    rows = [
        [arm["title"], *(_seed(arm["seeds"][s]) if s in arm["seeds"] else "–" for s in seeds)]
        for arm in summary.values()
    ]
    note = "Win rate greedy / sampled / out-of-domain accuracy / held-out turns."
    return Table("Seed by seed", ["arm", *(f"seed {seed}" for seed in seeds)], rows, note)


def _seed(run: Row) -> str:
    values = [*run["in_domain"].values(), run["ood"].get("mean"), run["turn_reward"]]
    return " / ".join("–" if value is None else percent(value) for value in values)


def arms_table(summary: Summary) -> Table:
    """Each arm's overrides of the configuration."""
    rows = [
        [
            arm["title"],
            name,
            ", ".join(f"{path}={_value(v)}" for path, v in arm["overrides"].items()) or "–",
        ]
        for name, arm in summary.items()
    ]
    head = ["arm", "name", "overrides"]
    return Table("What tells the arms apart", head, rows, words=head)


def tuned_table(summary: Summary) -> Table:
    """Every arm's trials on validation tasks, and which of them it runs with."""
    chosen = {arm["title"]: arm["tuned"] for arm in summary.values() if arm.get("tuned")}
    rows = [
        [
            title,
            own["field"],
            ", ".join(
                f"{trial['value']:g}: {percent(trial['win_rate'])}" for trial in own["trials"]
            ),
            f"{own['chosen']:g}",
        ]
        for title, own in chosen.items()
    ]
    head = ["arm", "field", "value: win rate on validation tasks", "chosen"]
    note = "Win rates are means of greedy and sampled play."
    return Table("Chosen by trials", head, rows, note, head[:3])


def _value(value: Any) -> str:
    return str(value).replace(" ", "")


def rate(found: Interval) -> str:
    """For example "62.5 [54.2, 70.8]"."""
    return f"{percent(found.mean)} {_bounds(found)}"


def change(found: Interval) -> str:
    """For example "+4.2 [−1.0, 9.5]"."""
    return f"{signed(100 * found.mean, 1)} {_bounds(found)}"


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _bounds(found: Interval) -> str:
    if np.isnan(found.low):
        return "[no interval]"
    return f"[{100 * found.low:.1f}, {100 * found.high:.1f}]".replace("-", "−")
