"""Evaluation of a policy: held-out turns, whole episodes, out-of-domain questions and texts."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.artifacts import write_json, write_table
from experiments.context import EVALUATE, Run, key_of
from experiments.episodes import episode_changes, episode_scores, evaluation_episodes
from experiments.progress import Progress
from experiments.stages.candidates import Corpus
from experiments.stages.rollouts import of_domain, profile_stage, select_by_domain, selected
from pivotrl_jax.evaluation import heldout_difference, heldout_reward, perplexity, read_texts
from pivotrl_jax.evaluation.suites import (
    PROCEDURES,
    Question,
    accuracy,
    accuracy_change,
    carried_questions,
    evaluate_suites,
    greedy,
    mean_accuracy,
    mean_change,
    reasoning_questions,
)
from pivotrl_jax.models import Params
from pivotrl_jax.parallel import from_first
from pivotrl_jax.pivots import read_samples


def evaluate_stage(run: Run, corpus: Corpus, params: Params, policy: str) -> pa.Table:
    """Evaluates one policy in every way that the settings ask for; resumes after each of them.

    Returns the table of the held-out candidates, which it samples in any case.
    """
    settings = run.settings.evaluation
    table = profile_stage(
        run,
        corpus,
        params,
        f"evaluate/{policy}",
        corpus.turns["heldout"],
        key_of(run, EVALUATE),
        settings.samples,
        settings.truncated,
    )
    path = run.workdir / "evaluate" / f"{policy}_ood.json"
    if not from_first(path.exists):
        write_json(path, _retention(run, params, policy))
    episodes, suites = (path.with_name(f"{policy}_{x}.parquet") for x in ("episodes", "suites"))
    if run.settings.environment.name:
        _once(episodes, partial(evaluation_episodes, run, params))
    if run.settings.suites.names:
        _once(suites, partial(_answers, run, params))
    return table


def _once(path: Path, make: Callable[[], pa.Table]) -> None:
    if not from_first(path.exists):
        write_table(path, make())


def _retention(run: Run, params: Params, policy: str) -> dict[str, Any]:
    settings = run.settings.evaluation
    texts = read_texts(Path(settings.ood_path), settings.ood_texts)
    score = partial(
        perplexity, params, run.cfg, tokenizer=run.tokenizer, mesh=run.mesh,
        max_tokens=settings.ood_tokens,
    )  # fmt: skip
    with Progress(f"evaluate/{policy} retention", len(texts), "sets") as bar:
        scores = {}
        for name, own in texts.items():
            scores[name] = score(own)
            bar.advance()
    return scores


def _answers(run: Run, params: Params) -> pa.Table:
    settings = run.settings.suites
    # A prompt is a row of its own with one sample.
    engine = dataclasses.replace(run.settings.engine, rows=run.settings.engine.slots)
    return evaluate_suites(
        params,
        run.cfg,
        suite_questions(run),
        run.tokenizer,
        run.domains[run.settings.domain].template,
        key_of(run, EVALUATE),
        greedy(settings.max_tokens),
        engine,
        run.mesh,
    )


def suite_questions(run: Run) -> list[Question]:
    """The same questions for every policy and seed."""
    settings = run.settings.suites
    carried = [name for name in settings.names if name not in PROCEDURES]
    procedural = [name for name in settings.names if name in PROCEDURES]
    return [
        *carried_questions(Path(settings.path), carried, settings.questions),
        *reasoning_questions(procedural, "test", settings.questions, 0),
    ]


def summarise(run: Run, tables: Mapping[str, pa.Table], heldout_profile: pa.Table | None) -> None:
    """Writes evaluate/<policy>.json: held-out reward, on all candidates and on pivots only.

    Held-out pivots are chosen by a profile of their own, not by the samples that are scored here:
    choosing and scoring with the same draws would flatter or punish whoever drew them. Without a
    profile none are chosen. Whole episodes and answers follow, where there are any.
    """
    chosen = _chosen(run, heldout_profile, next(iter(tables.values())))
    directory = run.workdir / "evaluate"
    for policy, table in tables.items():
        store = read_samples(directory / policy)
        others = {name: other for name, other in tables.items() if name != policy}
        compared = partial(_compared, table, others, run.settings.seed)
        scores = {
            "policy": policy,
            **compared(chosen),
            "domains": {name: compared(of_domain(chosen, name)) for name in run.domains},
            "perplexity": json.loads((directory / f"{policy}_ood.json").read_text()),
            "malformed_share": float(np.mean(store["malformed"].to_numpy())),
            "truncated_share": float(np.mean(store["truncated"].to_numpy())),
            "error_share": float(np.mean(store["error"].is_valid().to_numpy())),
        }
        for name in PLAYED:
            add_played(scores, directory, name, run.settings.seed)
        write_json(directory / f"{policy}.json", scores)


def add_played(scores: dict[str, Any], directory: Path, name: str, seed: int) -> None:
    """Scores of episodes or suites, and what changed from every other policy, paired."""
    paths = {
        who: directory / f"{who}_{name}.parquet" for who in (scores["policy"], *scores["against"])
    }
    tables = {who: pq.read_table(path) for who, path in paths.items() if path.exists()}
    own = tables.pop(scores["policy"], None)
    if own is not None:
        score, change = PLAYED[name]
        scores[name] = score(own, seed)
        for other, table in tables.items():
            scores["against"][other][name] = change(own, table, seed)


def _chosen(run: Run, profile: pa.Table | None, evaluated: pa.Table) -> pa.Table:
    if profile is not None:
        return select_by_domain(run, profile, allow_empty=True)
    nothing = pa.array(np.zeros(len(evaluated), bool))
    return evaluated.append_column("selected", nothing)


def _suite_scores(table: pa.Table, seed: int) -> dict[str, Any]:
    """Accuracy of every suite, and their mean, with intervals."""
    found = {**accuracy(table, seed), "mean": mean_accuracy(table, seed)}
    return {name: dataclasses.asdict(interval) for name, interval in found.items()}


def _suite_changes(after: pa.Table, before: pa.Table, seed: int) -> dict[str, Any]:
    """After - before of every suite's accuracy, and of their mean, with intervals."""
    found = {
        **accuracy_change(after, before, seed),
        "mean": mean_change(after, before, seed),
    }
    return {name: dataclasses.asdict(interval) for name, interval in found.items()}


# How files of episodes and of answers are scored, and what changed between two.
PLAYED = {
    "episodes": (episode_scores, episode_changes),
    "suites": (_suite_scores, _suite_changes),
}


def _compared(
    table: pa.Table, others: Mapping[str, pa.Table], seed: int, chosen: pa.Table
) -> dict[str, Any]:
    """Reward on the candidates `chosen` and on the pivots among them, and against each other
    policy."""
    parts = {
        "heldout": set(chosen["candidate_id"].to_pylist()),
        "heldout_pivots": selected(chosen),
    }
    against = {
        name: {part: heldout_difference(table, other, seed, ids) for part, ids in parts.items()}
        for name, other in others.items()
    }
    own = {part: heldout_reward(table, seed, ids) for part, ids in parts.items()}
    return own | {"against": against}
