"""A finished profile under another verifier, without sampling again.

    python -m experiments.rejudge --workdir=runs/tool_use-laptop --verifier=tool_args
    python -m experiments.rejudge --workdir=runs/swe-laptop --verifier=command --recipe=exact=1

Prints how often the two verdicts agree and how many pivots each verifier leaves, and writes every
sample on which they differ to rejudge/<verifier>.jsonl, for reading. Takes seconds; a recipe is a
comma-separated list of criterion=threshold, by default the verifier's own. Of a run on several
domains it takes one, `--domain=NAME`, and writes to rejudge/<domain>/<verifier>.jsonl.
"""

import argparse
import collections
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from experiments.config import from_config
from experiments.context import Run, open_run
from experiments.settings import Settings
from experiments.stages.candidates import Corpus, candidates_stage, read_stage
from pivotrl_jax.errors import UserError
from pivotrl_jax.pivots import group_statistics, read_samples
from pivotrl_jax.text import ParsedAction
from pivotrl_jax.trajectories import Action
from pivotrl_jax.verifiers import Verdict, Verifier, verifier, verify_many
from pivotrl_jax.verifiers.recipe import Recipe, reward
from pivotrl_jax.verifiers.recipes import DEFAULT, UPSTREAM

Row = dict[str, Any]


def rejudged(run: Run, corpus: Corpus, name: str, other: Verifier, recipe: Recipe) -> list[Row]:
    """Every sample of a domain's training profile with its reward and the other verifier's."""
    fmt = run.domains[name].fmt
    turns = {turn.id: turn for turn in corpus.turns["train"] if turn.domain == name}
    found = read_samples(run.workdir / "profile" / "train").to_pylist()
    samples = [sample for sample in found if sample["candidate_id"] in turns]
    asked: list[tuple[Action, ParsedAction, Any]] = []
    for sample in samples:
        turn = turns[sample["candidate_id"]]
        asked.append((turn.expert, fmt.parse(sample["text"]), turn.context))
    verdicts = verify_many(other, asked)
    return [
        {
            "candidate_id": sample["candidate_id"],
            "expert": fmt.print(expert),
            "sample": sample["text"],
            "reward": sample["reward"],
            "reason": sample["reason"],
            "other_reward": _reward(verdict, recipe, sample),
            "other_reason": verdict.error or verdict.reason,
        }
        for sample, (expert, _, _), verdict in zip(samples, asked, verdicts, strict=True)
    ]


def _reward(verdict: Verdict, recipe: Recipe, sample: Mapping[str, Any]) -> float | None:
    """As a run would give it: none for a verdict that failed or a sample that does not count."""
    excluded = verdict.error is not None or sample["error"] == "truncated"
    return None if excluded else reward(recipe, verdict.criteria)


def table(rows: Sequence[Row]) -> str:
    """Counts of samples by the two verdicts, and of mixed candidates under each, as Markdown."""
    counts = collections.Counter((_said(r["reward"]), _said(r["other_reward"])) for r in rows)
    names = ("accepts", "rejects", "no verdict")
    lines = ["| run \\ other | " + " | ".join(names) + " |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {a} | " + " | ".join(f"{counts[a, b]:,}" for b in names) + " |" for a in names]
    mixed = [_mixed(rows, column) for column in ("reward", "other_reward")]
    groups = len({row["candidate_id"] for row in rows})
    return "\n".join(lines) + f"\n\nmixed candidates: {mixed[0]} and {mixed[1]} of {groups}"


def _said(value: float | None) -> str:
    return "no verdict" if value is None else "accepts" if value > 0 else "rejects"


def _mixed(rows: Sequence[Row], column: str) -> int:
    """Candidates whose samples did not all get the same reward."""
    _, group = np.unique(np.array([r["candidate_id"] for r in rows], object), return_inverse=True)
    values = pa.array([row[column] for row in rows], pa.float64())
    valid = np.asarray(values.is_valid())
    rewards = values.fill_null(0).to_numpy()
    return int((group_statistics(group, rewards, valid, group.max() + 1).variance > 0).sum())


def _differing(rows: Iterable[Row]) -> Iterator[Row]:
    return (row for row in rows if _said(row["reward"]) != _said(row["other_reward"]))


def _recipe(other: Verifier, stated: str | None) -> Recipe:
    if stated is None:
        return DEFAULT.get(other.name, UPSTREAM)
    try:
        named = [condition.split("=") for condition in stated.split(",")]
        accept = tuple((criterion, float(least)) for criterion, least in named)
    except ValueError:
        raise UserError(f"--recipe={stated} is no list of criterion=threshold; give one") from None
    unknown = {criterion for criterion, _ in accept} - set(other.criteria)
    if unknown:
        raise UserError(
            f"--recipe names {', '.join(sorted(unknown))}, but {other.name!r} judges "
            f"{', '.join(other.criteria)}; use these"
        )
    return Recipe("given", accept=accept)


def _domain(run: Run, stated: str | None) -> str:
    if stated is None and len(run.domains) == 1:
        return run.settings.domain
    if stated not in run.domains:
        raise UserError(f"the run has the domains {', '.join(run.domains)}; give one as --domain")
    return stated


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.rejudge")
    parser.add_argument("--workdir", type=Path, required=True, help="a run whose profile is done")
    parser.add_argument("--verifier", required=True, help="the other verifier")
    parser.add_argument("--domain", help="which of a mixed run's domains")
    parser.add_argument("--recipe", help="criterion=threshold,... instead of the verifier's own")
    parser.add_argument("--databases", help="folder or tar of databases, for `sql`")
    options = parser.parse_args(arguments)
    other = verifier(options.verifier, options.databases)
    recipe = _recipe(other, options.recipe)
    if not (options.workdir / "done" / "profile").exists():
        raise UserError(f"{options.workdir} holds no finished profile; give the --workdir of a run")
    stored = json.loads((options.workdir / "config.json").read_text(encoding="utf-8"))["config"]
    run = open_run(from_config(Settings, stored), options.workdir)
    name = _domain(run, options.domain)
    rows = rejudged(run, candidates_stage(run, read_stage(run)), name, other, recipe)
    several = name if len(run.domains) > 1 else ""
    out = options.workdir / "rejudge" / several / f"{other.name}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) for row in _differing(rows))
    out.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{table(rows)}\ndifferences: {out}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
