"""The best one-to-one assignment between what was expected and what was done."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
Scores = dict[str, float]


def paired(
    expected: Sequence[T],
    actual: Sequence[T],
    compare: Callable[[T, T], Scores],
    criteria: Sequence[str],
    ordered: bool = False,
) -> Scores:
    """Means of `criteria` over the best one-to-one pairs of two non-empty lists.

    `compare` gives the criteria of a pair, or {} where it is none. Whatever has no partner counts
    0, so a mean is 1 only if nothing is missing and nothing is surplus. `ordered` pairs by place.
    """
    table = [[compare(a, b) for b in actual] for a in expected]
    if ordered:
        pairs = [(i, i) for i in range(min(len(expected), len(actual)))]
    else:
        # Being a pair at all weighs most.
        weights = [[len(s) + sum(s.values()) for s in row] for row in table]
        pairs = assign(weights)
    found = [table[i][j] for i, j in pairs if table[i][j]]
    total = max(len(expected), len(actual))
    return {name: sum(scores[name] for scores in found) / total for name in criteria}


def assign(weights: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Pairs (row, column) of greatest total weight that use no row or column twice.

    The Hungarian algorithm by shortest augmenting paths: O(rows * columns * min(rows, columns)).
    Every row of `weights` has the same length; the shorter side is matched wholly.
    """
    if not weights or not weights[0]:
        return []
    if len(weights) > len(weights[0]):
        turned = assign(list(zip(*weights, strict=True)))
        return sorted((row, column) for column, row in turned)
    columns = range(1, len(weights[0]) + 1)
    # Potentials keep every reduced cost at least 0; index 0 is the virtual start.
    row_potential = [0.0] * (len(weights) + 1)
    column_potential = [0.0] * (len(columns) + 1)
    owner = [0] * (len(columns) + 1)
    for row in range(1, len(weights) + 1):
        owner[0] = row
        least, before = [math.inf] * (len(columns) + 1), [0] * (len(columns) + 1)
        seen, column = {0}, 0
        while owner[column]:
            current = owner[column]
            for j in columns:
                cost = -weights[current - 1][j - 1] - row_potential[current] - column_potential[j]
                if j not in seen and cost < least[j]:
                    least[j], before[j] = cost, column
            nearest = min((j for j in columns if j not in seen), key=least.__getitem__)
            step = least[nearest]
            for j in range(len(columns) + 1):
                if j in seen:
                    row_potential[owner[j]] += step
                    column_potential[j] -= step
                else:
                    least[j] -= step
            column = nearest
            seen.add(column)
        while column:
            owner[column] = owner[before[column]]
            column = before[column]
    return sorted((owner[j] - 1, j - 1) for j in columns if owner[j])
