"""What a policy answers to out-of-domain questions, how often it is right, and what changed."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from pivotrl_jax.evaluation.bootstrap import Interval, clustered_mean
from pivotrl_jax.evaluation.suites.answers import chosen, written
from pivotrl_jax.evaluation.suites.questions import Question
from pivotrl_jax.models import ModelConfig, Params
from pivotrl_jax.sampling import EngineSettings, SamplingSettings
from pivotrl_jax.text import ChatTemplate, Tokenizer

SCHEMA = pa.schema(
    {
        "question_id": pa.string(),
        "suite": pa.string(),
        "score": pa.float64(),
        "parts": pa.list_(pa.bool_()),
        "answer": pa.string(),
        "truncated": pa.bool_(),
        "tokens": pa.int64(),
    }
)


def greedy(max_tokens: int) -> SamplingSettings:
    """The likeliest token each time."""
    return SamplingSettings(top_k=1, max_tokens=max_tokens)


def evaluate_suites(
    params: Params,
    cfg: ModelConfig,
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    key: PRNGKeyArray,
    sampling: SamplingSettings,
    engine: EngineSettings,
    mesh: Mesh,
) -> pa.Table:
    """One row per question, in their order, as `SCHEMA` has it: the answer and what it is worth.

    Questions with options are answered by likelihood, the others in writing, as a chat. An answer
    that the cap on tokens cut off is scored as it stands, and marked.
    """
    to_write = [question for question in questions if not question.options]
    to_choose = [question for question in questions if question.options]
    policy = (params, cfg)
    answers = written(*policy, to_write, tokenizer, template, key, sampling, engine, mesh)
    answers += chosen(*policy, to_choose, tokenizer, template, mesh)
    of = {q.id: a for q, a in zip([*to_write, *to_choose], answers, strict=True)}
    rows = []
    for question in questions:
        answer = of[question.id]
        parts = list(question.check(answer.text))
        rows.append(
            {
                "question_id": question.id,
                "suite": question.suite,
                "score": float(all(parts)),
                "parts": parts,
                "answer": answer.text,
                "truncated": answer.truncated,
                "tokens": answer.tokens,
            }
        )
    return pa.Table.from_pylist(rows, SCHEMA)


def accuracy(table: pa.Table, seed: int) -> dict[str, Interval]:
    """Of each suite, the share of its questions answered rightly, with its 95 % interval."""
    scores = _by_suite(table)
    return {
        suite: clustered_mean(list(own.values()), list(own), seed) for suite, own in scores.items()
    }


def part_accuracy(table: pa.Table, seed: int) -> dict[str, Interval]:
    """Of each suite, the share of right parts of answers: IFEval's accuracy per instruction."""
    found = {}
    for suite in _by_suite(table):
        rows = [row for row in table.to_pylist() if row["suite"] == suite]
        parts = [part for row in rows for part in row["parts"]]
        clusters = [row["question_id"] for row in rows for _ in row["parts"]]
        found[suite] = clustered_mean(parts, clusters, seed)
    return found


def accuracy_change(after: pa.Table, before: pa.Table, seed: int) -> dict[str, Interval]:
    """Of each suite, the mean of after - before over the questions that both tables have."""
    changes = _changes(after, before)
    return {
        suite: clustered_mean(list(own.values()), list(own), seed) for suite, own in changes.items()
    }


def mean_change(after: pa.Table, before: pa.Table, seed: int) -> Interval:
    """The mean over suites of `accuracy_change`: every suite weighs the same, whatever its size."""
    return _mean_of_suites(_changes(after, before), seed)


def mean_accuracy(table: pa.Table, seed: int) -> Interval:
    """The mean over suites of `accuracy`."""
    return _mean_of_suites(_by_suite(table), seed)


def _by_suite(table: pa.Table) -> dict[str, dict[str, float]]:
    """Of each suite, the score of every question by its id."""
    found: dict[str, dict[str, float]] = {}
    columns = (table[name].to_pylist() for name in ("suite", "question_id", "score"))
    for suite, question, score in zip(*columns, strict=True):
        found.setdefault(suite, {})[question] = score
    return found


def _changes(after: pa.Table, before: pa.Table) -> dict[str, dict[str, float]]:
    old = _by_suite(before)
    return {
        suite: shared
        for suite, own in _by_suite(after).items()
        if (shared := {q: s - old[suite][q] for q, s in own.items() if q in old.get(suite, {})})
    }


def _mean_of_suites(values: dict[str, dict[str, float]], seed: int) -> Interval:
    """The mean of the suites' means, its interval that of questions drawn within their suites."""
    size = sum(map(len, values.values()))
    mean = float(np.mean([np.mean(list(own.values())) for own in values.values()]))
    # Each question's deviation from its suite's mean, weighed so that suites count alike: the mean
    # of these numbers is that of the suites, and their spread the one within suites.
    weighed = [
        mean + (value - np.mean(list(own.values()))) * size / (len(values) * len(own))
        for own in values.values()
        for value in own.values()
    ]
    return clustered_mean(weighed, [q for own in values.values() for q in own], seed)
