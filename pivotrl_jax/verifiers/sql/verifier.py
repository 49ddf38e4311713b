"""Functional equivalence of SQL commands, judged by running both on a copy of the database."""

import dataclasses
import functools
from typing import Any

from rapidfuzz import fuzz

from pivotrl_jax.text.actions import ParsedAction
from pivotrl_jax.trajectories.schema import Action, Context
from pivotrl_jax.verifiers.sql import mysql
from pivotrl_jax.verifiers.sql.databases import Databases, Expected
from pivotrl_jax.verifiers.sql.mysql import Refused
from pivotrl_jax.verifiers.sql.results import overlap
from pivotrl_jax.verifiers.sql.sqlite import Answer
from pivotrl_jax.verifiers.verdict import Rules, Verdict

_MAX_COMPARED = 2_000  # characters
_CRITERIA: tuple[str, ...] = (
    "well_formed", "kind", "executes", "result", "overlap", "tables", "exact", "similarity",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sql(Rules):
    """Compares one MySQL command with the expert's by what both return.

    The database is the one that `context.facts["db"]` names. Criteria, each in [0, 1]:
      well_formed  the sample parsed as exactly one call
      kind         both show the schema (SHOW, DESCRIBE) or both query
      executes     the sampled command runs
      result       equal results: the same rows as often, values as MySQL compares them, columns in
                   the expert's order whatever their names, rows in the expert's order only if its
                   query orders them and only as far (rows that tie may change places). Without a
                   match any query returns no rows, or 0: there the columns read must be equal, too
      overlap      F1 of the rows
      tables       F1 of the tables read: an answer that was not looked up reads none
      exact        same text up to blanks, comments, quoting and the case of names
      similarity   Indel similarity of these texts' first 2,000 characters
    Where the expert's command does not run, every sample is an error but one with the same text;
    a sample that only the clock stopped is an error, too.

    `databases` is a folder of NAME.sqlite files or a tar archive of them; `argument` is the
    tool's argument with the command. Raises UserError if there is nothing at `databases`.
    """

    databases: str
    argument: str = "query"
    name = "sql"
    criteria = _CRITERIA

    def __post_init__(self) -> None:
        _ = self._databases  # a wrong path is told now

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process makes copies of its own."""
        return type(self), (self.databases, self.argument)

    @functools.cached_property
    def _databases(self) -> Databases:
        return Databases(self.databases)

    def _verdict(self, expert: Action, sampled: ParsedAction, context: Context) -> Verdict:
        database = context.facts.get("db")
        wanted = self._command(expert)
        if wanted is None:
            return _error(f"the expert makes no single call with a text {self.argument!r}")
        if not isinstance(database, str):
            return _error("the record names no database: it needs the fact 'db'")
        problem, tool = _malformed(sampled), expert.calls[0].name
        given = None if problem else self._command(sampled.action, tool)
        scores = {"well_formed": float(not problem)}
        if given is not None:
            scores |= _likeness(wanted, given)
        try:
            expected = self._databases.expected(database, wanted)
        except Refused as refused:
            if not scores.get("exact"):
                return _error(f"the expert's command does not run: {refused}")
            return self._scores(scores, f"the expert's command, which does not run: {refused}")
        if given is None:
            return self._scores(scores, problem or f"no {tool} call with a text {self.argument!r}")
        try:
            actual = self._databases.answer(database, given)
        except Refused as refused:
            return self._scores(scores, f"does not run: {refused}")
        return self._scores(*_compared(scores, expected, actual))

    def _command(self, action: Action, tool: str | None = None) -> str | None:
        """The command of an action that is one call (of `tool`)."""
        if len(action.calls) != 1 or not isinstance(action.calls[0].arguments, dict):
            return None
        value = action.calls[0].arguments.get(self.argument)
        return value if isinstance(value, str) and tool in (None, action.calls[0].name) else None


def _malformed(sampled: ParsedAction) -> str:
    """Why a sample is not exactly one call, or nothing."""
    calls = len(sampled.action.calls)
    return "; ".join(sampled.problems) or (f"{calls} calls" if calls != 1 else "")


def _error(reason: str) -> Verdict:
    return Verdict({}, "", error=reason)


def _likeness(wanted: str, given: str) -> dict[str, float]:
    """What the texts alone tell."""
    normal = mysql.normal(wanted), mysql.normal(given)
    return {
        "kind": float(mysql.kind(wanted) == mysql.kind(given)),
        "exact": float(normal[0] == normal[1]),
        "similarity": fuzz.ratio(*(text[:_MAX_COMPARED] for text in normal)) / 100,
    }


def _compared(
    scores: dict[str, float], expected: Expected, actual: Answer
) -> tuple[dict[str, float], str]:
    answer = expected.answer
    tables = overlap(answer.tables, actual.tables)
    result = expected.equals(actual)
    scores = scores | {
        "executes": 1.0,
        "result": float(result),
        "overlap": overlap(answer.rows, actual.rows) if expected.comparable(actual) else 0.0,
        "tables": tables,
    }
    if result:
        return scores, "equal"
    shapes = [f"{len(a.rows)} x {len(a.columns)}" for a in (actual, answer)]
    return scores, f"another result ({shapes[0]} for {shapes[1]})"
