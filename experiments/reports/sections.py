"""The figures and tables of the report, ready to be laid out."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from experiments.progress import duration
from experiments.reports import charts
from experiments.reports.data import POLICIES, Artifacts, Row, samples, silent
from experiments.reports.verdict import bounds, interval, retention_change, signed

PAPER_ZERO_VARIANCE = 0.71
STATUSES = {
    "pivot": "pivot: mixed, and mean below the threshold",
    "too_easy": "too easy: mixed, but mean at or above the threshold",
    "all_pass": "all samples pass: no signal",
    "all_fail": "all samples fail: no signal",
    "over_message_share": "pivots beyond the share of message turns",
    "over_pivots": "pivots beyond their number",
    "too_few": "too few valid samples",
    "error": "verifier error",
}


@dataclasses.dataclass(frozen=True)
class Fact:
    """A headline figure with what it is measured against."""

    value: str
    label: str
    detail: str


@dataclasses.dataclass(frozen=True)
class FunnelRow:
    """How many of a stage's items ended like this; `kept` ones go on to the next stage."""

    label: str
    count: int
    bar: Markup
    kept: bool


def facts(run: Artifacts) -> list[Fact]:
    """Candidates, zero-variance share and pivots, as far as the run has come."""
    found = []
    if run.candidates_audit:
        split = run.candidates_audit.get("by_split", {})
        detail = ", ".join(f"{count:,} {name}" for name, count in split.items())
        found.append(Fact(f"{run.candidates_audit['candidates']:,}", "candidates", detail))
    if run.table:
        status = Counter(row["status"] for row in run.table)
        flat, scored = silent(status)
        share = f"{100 * flat / scored:.0f} %" if scored else "none scored"
        found.append(
            Fact(
                share,
                "zero-variance turns",
                f"{flat:,} of {scored:,} scored; the paper saw {100 * PAPER_ZERO_VARIANCE:.0f} %",
            )
        )
        detail = f"{100 * status['pivot'] / len(run.table):.0f} % of {len(run.table):,} profiled"
        selected = (run.select_audit or {}).get("selected", status["pivot"])
        if selected != status["pivot"]:
            detail += f"; {selected:,} selected by another criterion"
        found.append(Fact(f"{status['pivot']:,}", "pivots kept", detail))
    if run.train:
        seconds = sum(row["seconds"] for row in run.train)
        found.append(
            Fact(f"{len(run.train):,}", "training steps", f"{duration(seconds)} of updates")
        )
    return found


def policy_rows(run: Artifacts) -> list[Row]:
    """One row per policy: reward with interval on both sets, shares of unusable samples."""
    return [
        {
            "name": POLICIES[name],
            "rewards": [_reward(policy.get(part)) for part in ("heldout", "heldout_pivots")],
            "shares": [
                _percent(policy.get(key))
                for key in ("malformed_share", "truncated_share", "error_share")
            ],
        }
        for name, policy in run.policies.items()
    ]


def retention_rows(run: Artifacts) -> list[Row]:
    """One row per out-of-domain set: perplexity of each policy and its change against base."""
    sets = sorted(
        {name for policy in run.policies.values() for name in policy.get("perplexity", {})}
    )
    return [
        {"set": name, "cells": [_perplexity(run, p, name) for p in run.policies]} for name in sets
    ]


def funnel(run: Artifacts) -> list[tuple[str, str, list[FunnelRow]]]:
    """Per stage: what came in, what went on, and what was left out for which reason."""
    groups = []
    if audit := run.read_audit:
        rows = [("trajectories read", audit["read"], True), *_reasons(audit["reasons"])]
        groups.append(_group("Read", f"{audit['lines']:,} lines", rows))
    if audit := run.candidates_audit:
        rows = [("candidates", audit["candidates"], True), *_reasons(audit["left_out"])]
        groups.append(_group("Candidates", f"{audit['turns']:,} assistant turns", rows))
    if run.table:
        status = Counter(row["status"] for row in run.table)
        rows = [
            (label, status[name], name == "pivot")
            for name, label in STATUSES.items()
            if status[name]
        ]
        groups.append(_group("Select", f"{len(run.table):,} profiled training candidates", rows))
    return groups


def sample_facts(run: Artifacts) -> str:
    """One sentence on the profiled samples, empty if there are none."""
    if "profile" in run.missing:
        return ""
    columns = ["length", "malformed", "truncated", "error"]
    table = samples(run.workdir, columns).to_pydict()
    number = len(table["length"])
    if not number:
        return ""
    errors = sum(error is not None for error in table["error"])
    return (
        f"{number:,} samples of {np.mean(table['length']):.0f} tokens on average; "
        f"{100 * np.mean(table['malformed']):.1f} % malformed, "
        f"{100 * np.mean(table['truncated']):.1f} % cut by the token cap, "
        f"{100 * errors / number:.1f} % with a verifier error."
    )


def timing_rows(run: Artifacts) -> list[Row]:
    """One row per stage; a stage that was resumed has its parts added up."""
    rows: list[Row] = []
    for stage in dict.fromkeys(line["stage"] for line in run.timing):
        parts = [line for line in run.timing if line["stage"] == stage]
        tokens = sum(part.get("tokens") or 0 for part in parts)
        seconds = sum(part["seconds"] for part in parts)
        memory = max(part["peak_rss_mb"] for part in parts)
        drafted, drawn = (sum(part.get(k) or 0 for part in parts) for k in ("drafted", "samples"))
        rows.append(
            {"stage": stage, "seconds": seconds, "tokens": tokens,
             "drafted": _accepted(drafted, tokens, drawn), "memory": memory}
        )  # fmt: skip
    longest = max((row["seconds"] for row in rows), default=0) or 1
    for row in rows:
        row["bar"] = charts.bar(row["seconds"] / longest)
        row["time"] = duration(row["seconds"])
        row["speed"] = f"{row['tokens'] / max(row['seconds'], 1e-9):,.0f}" if row["tokens"] else "–"
        row["tokens"] = f"{row['tokens']:,}" if row["tokens"] else "–"
        row["memory"] = f"{row['memory']:,.0f} MiB"
    return rows


def _accepted(drafted: int, tokens: int, samples: int) -> str:
    """Decode steps that drafts saved: tokens, their share of all, and how many a sample takes."""
    if not drafted:
        return "–"
    each = f", {drafted / samples:.1f} a sample" if samples else ""
    return f"{drafted:,} ({100 * drafted / tokens:.0f} %{each})"


def total_time(run: Artifacts) -> str:
    return duration(sum(line["seconds"] for line in run.timing))


def _reward(entry: Row | None) -> Row | None:
    if not entry or entry.get("mean") is None:
        return None
    return {
        "mean": f"{entry['mean']:.3f}",
        "bounds": bounds(interval(entry)),
        "size": f"{entry['n_candidates']:,} in {entry['n_trajectories']:,}",
    }


def _perplexity(run: Artifacts, policy: str, name: str) -> Row | None:
    entry = run.policies[policy].get("perplexity", {}).get(name)
    if not entry:
        return None
    change = None if policy == "base" else retention_change(run.policies, policy, name)
    return {
        "value": f"{entry['perplexity']:.2f}",
        "change": "" if change is None else f"{signed(100 * change, 1)} %",
    }


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _reasons(reasons: dict[str, int]) -> list[tuple[str, int, bool]]:
    ordered = sorted(reasons.items(), key=lambda item: -item[1])
    return [(reason.replace("_", " "), count, False) for reason, count in ordered if count]


def _group(
    stage: str, total: str, rows: Sequence[tuple[str, int, bool]]
) -> tuple[str, str, list[FunnelRow]]:
    whole = sum(count for _, count, _ in rows) or 1
    return (
        stage,
        total,
        [
            FunnelRow(label, count, charts.bar(count / whole, "s1" if kept else "s0"), kept)
            for label, count, kept in rows
        ],
    )
