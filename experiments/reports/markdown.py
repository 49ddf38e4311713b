"""The headline tables of a run as Markdown, for a README or an issue."""

from collections.abc import Sequence
from typing import Any

from experiments.reports.data import POLICIES, Artifacts, Row, silent
from experiments.reports.domains import domain_head, domain_rows
from experiments.reports.play import EPISODE_HEAD, episode_rows, suite_rows
from experiments.reports.reasons import reason_rows
from experiments.reports.sections import timing_rows, total_time
from experiments.reports.verdict import sentences


def markdown(run: Artifacts) -> str:
    """Policies, candidates and stages; what was not measured is a dash."""
    said = " ".join(sentences(run.policies))
    parts = [_policies(run), _episodes(run), _suites(run), said, _domains(run), _candidates(run),
             _reasons(run), _stages(run)]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _policies(run: Artifacts) -> str:
    if not run.policies:
        return ""
    sets = sorted({name for p in run.policies.values() for name in p.get("perplexity", {})})
    head = ["policy", "held-out reward", "on held-out pivots", "malformed", "not ended"]
    rows = [
        [
            POLICIES[name],
            _interval(policy["heldout"]),
            _interval(policy["heldout_pivots"]),
            f"{policy['malformed_share']:.0%}",
            f"{policy['truncated_share']:.0%}",
            *(f"{policy['perplexity'][s]['perplexity']:.2f}" for s in sets),
        ]
        for name, policy in run.policies.items()
    ]
    return table([*head, *(f"perplexity {name}" for name in sets)], rows)


def _interval(entry: Row) -> str:
    if entry["mean"] is None:
        return "–"
    bounds = "" if entry["low"] is None else f" [{entry['low']:.3f}, {entry['high']:.3f}]"
    return f"{entry['mean']:.3f}{bounds}"


def _episodes(run: Artifacts) -> str:
    rows = episode_rows(run)
    return table(EPISODE_HEAD, rows) if rows else ""


def _suites(run: Artifacts) -> str:
    head = ["Out of domain", *(POLICIES[name] for name in run.policies)]
    rows = [[name, *cells] for name, cells in suite_rows(run)]
    return table(head, rows) if rows else ""


def _domains(run: Artifacts) -> str:
    rows = [
        [row["name"], row["candidates"], row["silent"], row["pivots"], *row["rewards"],
         row["change"]]
        for row in domain_rows(run)
    ]  # fmt: skip
    return table(domain_head(run), rows) if rows else ""


def _candidates(run: Artifacts) -> str:
    if run.candidates_audit is None or run.select_audit is None:
        return ""
    status, split = run.select_audit["status"], run.candidates_audit["by_split"]
    flat, judged = silent(status)
    rows = [
        ["assistant turns read", f"{run.candidates_audit['turns']:,}"],
        ["candidates (train + held out)", f"{split['train']} + {split['heldout']}"],
        ["tokens of their trunks, and of a row for each", _sharing(run.candidates_audit)],
        ["train candidates with zero variance", f"{flat} of {judged} ({flat / judged:.0%})"],
        ["mixed, but too easy", str(status.get("too_easy", 0))],
        ["pivots kept", str(run.select_audit["selected"])],
        ["updates on them", str(len(run.train))],
    ]
    return table(["", "count"], rows)


def _reasons(run: Artifacts) -> str:
    rows = [list(row.values()) for row in reason_rows(run)]
    head = ["what the verifier said of the profiled samples", "accepted", "rejected", "no verdict"]
    return table(head, rows) if rows else ""


def _sharing(audit: Row) -> str:
    trunks, flat = audit["trunk_tokens"], audit["flat_tokens"]
    return f"{trunks:,}, {flat:,} ({flat / trunks:.1f} times as many)"


def _stages(run: Artifacts) -> str:
    columns = ("stage", "time", "tokens", "drafted", "memory")
    rows = [[row[name] for name in columns] for row in timing_rows(run)]
    head = ["stage", "time", "tokens", "of them from drafts", "peak memory so far"]
    return table(head, [*rows, ["all", total_time(run), "", "", ""]])


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of Markdown."""
    lines: list[Sequence[Any]] = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: Any) -> str:
    """On one line and without bars of its own: a verifier may quote what a model wrote."""
    return " ".join(str(value).split()).replace("|", "\\|")
