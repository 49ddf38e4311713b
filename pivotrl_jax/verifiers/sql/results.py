"""When two results are the same."""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from itertools import groupby

from pivotrl_jax.verifiers.sql.mysql import Ordering, Refused
from pivotrl_jax.verifiers.sql.sqlite import Answer, Row

# In turn: a number of rows, and the rows that may stand there in any order.
Groups = list[tuple[int, Counter[Row]]]


def groups(answer: Answer, ordering: Ordering | None, run: Callable[[str], Answer]) -> Groups:
    """The freedom that the expert's query leaves to the order of its rows.

    Without a top-level ORDER BY all rows are one group. With one, rows that tie in its keys are a
    group, and where LIMIT cuts through a tie, the tied rows beyond it belong to the group too: the
    query does not say which of them it wants. `run` asks for the keys; if they cannot be had, every
    row has its place.
    """
    if ordering is None:
        return [(len(answer.rows), Counter(answer.rows))]
    try:
        return _tied(answer, ordering, run)
    except (Refused, IndexError):
        return [(1, Counter([row])) for row in answer.rows]


def same_rows(expected: Groups, actual: Sequence[Row]) -> bool:
    """Whether `actual` is one of the results that `expected` stands for; duplicates count."""
    if len(actual) != sum(size for size, _ in expected):
        return False
    start = 0
    for size, allowed in expected:
        if not Counter(actual[start : start + size]) <= allowed:
            return False
        start += size
    return True


def overlap(expected: Collection[Hashable], actual: Collection[Hashable]) -> float:
    """F1 of two collections as multisets; 1 where both are empty."""
    total = len(expected) + len(actual)
    common = (Counter(expected) & Counter(actual)).total()
    return 2 * common / total if total else 1.0


def _tied(answer: Answer, ordering: Ordering, run: Callable[[str], Answer]) -> Groups:
    positions, extra = _keys(ordering, answer.columns)
    asked = [word for term in extra for word in (",", "(", *term, ")")]
    rows = run(" ".join([*ordering.head, *asked, *ordering.tail])).rows
    width, begin = len(answer.columns), ordering.offset
    end = begin + len(answer.rows)
    found: Groups = []
    start = 0
    for _, tied in groupby(rows, key=lambda row: tuple(row[i] for i in positions)):
        allowed = Counter(row[:width] for row in tied)
        stop = start + allowed.total()
        if (size := min(stop, end) - max(start, begin)) > 0:
            found.append((size, allowed))
        start = stop
    return found


def _keys(ordering: Ordering, columns: tuple[str, ...]) -> tuple[list[int], list[tuple[str, ...]]]:
    """Where the sort keys stand in the rows once the `extra` terms are appended to them."""
    positions: list[int] = []
    extra: list[tuple[str, ...]] = []
    for term in ordering.terms:
        name = term[0].strip("`").casefold() if len(term) == 1 else ""
        if name.isdecimal():
            positions.append(int(name) - 1)
        elif name in columns:
            positions.append(columns.index(name))
        elif ordering.open:
            positions.append(len(columns) + len(extra))
            extra.append(term)
        else:
            raise Refused("sorted by what it does not return")
    return positions, extra
