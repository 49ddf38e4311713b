"""How often answers are right, suite by suite, and what changed from one policy to another.

Tables are those of `evaluate_suites`. Intervals are bootstraps over questions,
drawn within their suite.
"""

from collections.abc import Mapping

import pyarrow as pa

from pivotrl_jax.evaluation.bootstrap import Interval, clustered_mean, stratified_mean

Scores = Mapping[str, Mapping[str, float]]  # of each suite, of every question by its id


def accuracy(table: pa.Table, seed: int) -> dict[str, Interval]:
    """Of each suite, the share of questions answered rightly."""
    return _means(_scores(table), seed)


def part_accuracy(table: pa.Table, seed: int) -> dict[str, Interval]:
    """Of each suite, the share of right parts of answers: IFEval's accuracy per instruction."""
    parts: dict[str, tuple[list[bool], list[str]]] = {}
    for row in table.to_pylist():
        values, questions = parts.setdefault(row["suite"], ([], []))
        values += row["parts"]
        questions += [row["question_id"]] * len(row["parts"])
    return {suite: clustered_mean(*own, seed) for suite, own in parts.items()}


def mean_accuracy(table: pa.Table, seed: int) -> Interval:
    """The mean over suites of `accuracy`: every suite weighs the same, whatever its size."""
    return _mean_of_suites(_scores(table), seed)


def accuracy_change(after: pa.Table, before: pa.Table, seed: int) -> dict[str, Interval]:
    """Of each suite, the mean of after - before over the questions that both tables have."""
    return _means(_changes(after, before), seed)


def mean_change(after: pa.Table, before: pa.Table, seed: int) -> Interval:
    """The mean over suites of `accuracy_change`: every suite weighs the same, whatever its size."""
    return _mean_of_suites(_changes(after, before), seed)


def _scores(table: pa.Table) -> Scores:
    found: dict[str, dict[str, float]] = {}
    columns = (table[name].to_pylist() for name in ("suite", "question_id", "score"))
    for suite, question, score in zip(*columns, strict=True):
        found.setdefault(suite, {})[question] = score
    return found


def _changes(after: pa.Table, before: pa.Table) -> Scores:
    old, new = _scores(before), _scores(after)
    found = {
        suite: {q: own[q] - old[suite][q] for q in own if q in old[suite]}
        for suite, own in new.items()
        if suite in old
    }
    return {suite: own for suite, own in found.items() if own}


def _means(scores: Scores, seed: int) -> dict[str, Interval]:
    return {
        suite: clustered_mean(list(own.values()), list(own), seed) for suite, own in scores.items()
    }


def _mean_of_suites(scores: Scores, seed: int) -> Interval:
    return stratified_mean([list(own.values()) for own in scores.values()], seed)
