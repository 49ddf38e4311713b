"""The report of a study, from its runs and summary.json.

    python -m experiments.studies.report --workdir=runs/study-textworld-study --out=docs

Writes study.html, one self-contained page; study.md, the same for a repository; and the folder
study/ with the figures of study.md and summary.json. Without --out they lie in the work directory.
What a person has to say of the figures is study/notes.md, which stands in both pages.
"""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.reports import charts
from experiments.reports import page as report_page
from experiments.reports.data import Row
from experiments.reports.figures import Figure
from experiments.reports.markdown import table
from experiments.studies.claims import REPRODUCED, UNDECIDED, findings, rule
from experiments.studies.figures import deviation_figures, interval_figures, turns_figure
from experiments.studies.tables import (
    MEASURES,
    Table,
    arms_table,
    arms_tables,
    claims_table,
    cost_table,
    scores_table,
    seeds_table,
    suites_table,
    tuned_table,
)
from experiments.versions import in_words
from pivotrl_jax.errors import UserError

INTERVALS = (
    "Intervals are 95 % bootstraps over tasks, or over the questions of each suite; tasks of one "
    "group, such as a database, are drawn together. Differences are paired by task or question. "
    "Per cent, and points."
)
SEEDS = (
    "Results are averaged over seeds first, in a difference over those that both arms have. "
    "Intervals do not hold how much seeds differ, which the table of seeds shows."
)


@dataclasses.dataclass(frozen=True)
class Section:
    title: str
    tables: Sequence[Table]
    figures: Sequence[Figure]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """What both pages say. `facts` are what the study was, by their names; `notes` is Markdown."""

    title: str
    lead: str
    facts: Mapping[str, str]
    sections: Sequence[Section]
    notes: str


def write(workdir: Path, out: Path) -> Path:
    """Both pages and the figures; returns the path of study.md.

    Raises UserError where `workdir` has no summary.json with a run in it.
    """
    notes = out / "study" / "notes.md"
    report = _report(workdir, notes.read_text(encoding="utf-8") if notes.exists() else "")
    style = report_page.asset("chart.css")
    for figure in (figure for section in report.sections for figure in section.figures):
        report_page.save(out / _file(figure), charts.standalone(figure.chart, style))
    report_page.save(out / "study" / "summary.json", (workdir / "summary.json").read_text())
    said = report_page.from_markdown(report.notes)
    page = report_page.page("study.html.j2", report=report, notes=said)
    report_page.save(out / "study.html", page)
    report_page.save(out / "study.md", markdown(report))
    return out / "study.md"


def _report(workdir: Path, notes: str) -> Report:
    path = workdir / "summary.json"
    if not path.exists():
        raise UserError(f"{path} is not there; give --workdir of a study (experiments.ablations)")
    summary = json.loads(path.read_text(encoding="utf-8"))
    if not summary:
        raise UserError(f"{path} has no finished run yet; run the study's command again")
    first = workdir / _most_telling(summary)
    described = json.loads((first / "config.json").read_text(encoding="utf-8"))
    config = described["config"]
    return Report(
        f"{config['name']} · {config['preset']}",
        _lead(summary),
        _facts(first, described, summary),
        _sections(workdir, summary, described["device"]),
        notes,
    )


def _most_telling(summary: Row) -> str:
    """The folder of a run that has gone through the most stages: PivotRL's, if it is there."""
    arm = "pivotrl" if "pivotrl" in summary else next(iter(summary))
    return f"{arm}/{next(iter(summary[arm]['seeds']))}"


def _lead(summary: Row) -> str:
    verdicts = [found.verdict for found in findings(summary)]
    if not verdicts:
        return "The arms that are done speak to none of the paper's claims."
    reproduced, undecided = (verdicts.count(word) for word in (REPRODUCED, UNDECIDED))
    return (
        f"Of {len(verdicts)} findings on the paper's claims, {reproduced} reproduce them, "
        f"{len(verdicts) - reproduced - undecided} do not; undecided: {undecided}."
    )


def _facts(run: Path, described: Row, summary: Row) -> dict[str, str]:
    config = described["config"]
    base = _json(run / "evaluate" / "base.json")
    seeds = dict.fromkeys(seed for arm in summary.values() for seed in arm["seeds"])
    facts = {
        "Command": described["command"],
        "Before it": _tuning(summary),
        "Seeds": ", ".join(seeds),
        "Policy": f"{config['model']['name']}, {described['parameters']:,} parameters",
        "Expert data": _expert_data(run),
        "Updates of PivotRL": _updates(config["train"]),
        "Held-out tasks": _tasks(base, config["environment"]),
        "Out-of-domain questions": _questions(base, config["suites"]),
        "Versions": in_words(described["versions"]),
        "Device": f"{described['device']}, {described['cpu_count']} CPU cores",
    }
    return {name: fact for name, fact in facts.items() if fact}


def _tuning(summary: Row) -> str:
    """Without their trials, arms have the rates of their configuration."""
    tuned = any(arm.get("tuned") for arm in summary.values())
    return "the same command with --tune, which chose learning rates" if tuned else ""


def _expert_data(run: Path) -> str:
    turns, chosen = _json(run / "candidates" / "audit.json"), _json(run / "select" / "audit.json")
    split = turns.get("by_split", {})
    text = f"{split.get('train', 0):,} turns to train on, {split.get('heldout', 0):,} held out"
    return f"{text}; {chosen['selected']:,} pivots" if chosen else text


def _updates(train: Row) -> str:
    pivots = train["rows"] * train["pivots_per_row"]
    return (
        f"{train['steps']} of at most {pivots} pivots × {train['samples']} samples"
        if train["steps"]
        else ""
    )


def _tasks(base: Row, environment: Row) -> str:
    played = base.get("episodes", {}).get("greedy")
    if not played:
        return ""
    return (
        f"{played['episodes']:,} ({environment['split']} split), at most {environment['turns']} "
        f"turns; each once greedily and {environment['samples']} times sampled"
    )


def _questions(base: Row, suites: Row) -> str:
    asked = base.get("suites")
    return f"at most {suites['questions']} of each of {len(asked) - 1} suites" if asked else ""


def _json(path: Path) -> Row:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _sections(workdir: Path, summary: Row, device: str) -> list[Section]:
    reached = arms_tables(summary)
    played = [own for name, own in reached.items() if name != "ood"]
    played += [scores_table(summary)] if played else []
    asked = [own for name, own in reached.items() if name == "ood"]
    wins = {name: title for name, title in MEASURES.items() if name.startswith("in_domain")}
    found, tuned = findings(summary), tuned_table(summary)
    several = any(len(arm["seeds"]) > 1 for arm in summary.values())
    sections = [
        Section("Claims", [claims_table(found, rule(found))] if found else [], []),
        Section(
            "In domain",
            played,
            interval_figures(summary, wins),
            f"{INTERVALS} {SEEDS}" if several else INTERVALS,
        ),
        Section(
            "Out of domain",
            [*asked, suites_table(summary)] if asked else [],
            interval_figures(summary, {"ood": MEASURES["ood"]}),
        ),
        Section("Cost", [cost_table(summary, device)], turns_figure(workdir, summary)),
        Section("Signal in training", [], deviation_figures(workdir, summary)),
        Section("Seeds", [seeds_table(summary)], []),
        Section("Arms", [arms_table(summary), *([tuned] if tuned.rows else [])], []),
    ]
    return [section for section in sections if section.tables or section.figures]


def markdown(report: Report) -> str:
    """study.md, whose figures lie in study/."""
    facts = [
        f"- {name}: {_code(text) if name == 'Command' else text}"
        for name, text in report.facts.items()
    ]
    parts = [f"# Study: {report.title}", report.lead, "\n".join(facts), report.notes]
    for section in report.sections:
        parts += [f"## {section.title}", section.note]
        for own in section.tables:
            parts += [f"**{own.title}**", table(own.head, own.rows), own.note]
        for figure in section.figures:
            parts += [f"![{figure.title}]({_file(figure)})", f"*{figure.title}.* {figure.note}"]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _code(text: str) -> str:
    return f"`{text}`"


def _file(figure: Figure) -> str:
    """Below the folder of the pages."""
    return f"study/{re.sub('[^a-z0-9]+', '-', figure.title.lower()).strip('-')}.svg"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.studies.report", description=__doc__
    )
    parser.add_argument("--workdir", type=Path, required=True, help="work directory of a study")
    parser.add_argument("--out", type=Path, help="directory of the pages; by default --workdir")
    options = parser.parse_args()
    try:
        print(write(options.workdir, options.out or options.workdir))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
