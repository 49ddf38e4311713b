"""What an agent of InterCode-SQL reads: results and errors in the words of MySQL's Python driver.

The copies are SQLite. What they do not keep cannot be printed: secondary keys, blanks at the end
of texts, and that sums and means of whole numbers are decimals in MySQL.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from types import MappingProxyType
from typing import Any

from pivotrl_jax.verifiers.sql.mysql import kind, tokens
from pivotrl_jax.verifiers.sql.sqlite import Answer

_DATE = re.compile(r"\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d)?")

# Where a name may be unknown, in the order in which MySQL looks.
_CLAUSES: Mapping[str, str] = MappingProxyType(
    {
        "select": "field list",
        "where": "where clause",
        "on": "on clause",
        "group": "group statement",
        "having": "having clause",
        "order": "order clause",
    }
)
_ORDER = tuple(_CLAUSES.values())
_SYNTAX = (
    "You have an error in your SQL syntax; check the manual that corresponds to your MySQL server "
    "version for the right syntax to use near '{name}' at line 1"
)
_TOO_LONG = "Query execution was interrupted, maximum statement execution time exceeded"
# SQLite's words and MySQL's.
_ERRORS: Sequence[tuple[re.Pattern[str], str]] = (
    (
        re.compile(r"no such table(?:: (?:\w+\.)?(?P<name>.+))?"),
        "Table '{database}.{name}' doesn't exist",
    ),
    (re.compile(r"no such column: (?P<name>.+)"), "Unknown column '{name}' in '{clause}'"),
    (
        re.compile(r"ambiguous column name: (?P<name>.+)"),
        "Column '{name}' in {clause} is ambiguous",
    ),
    (re.compile(r"no such function: (?P<name>.+)"), "FUNCTION {database}.{name} does not exist"),
    (re.compile(r'near "(?P<name>.*)": syntax error', re.DOTALL), _SYNTAX),
    (re.compile(r"takes more than \d+ steps|stopped after .*"), _TOO_LONG),
)


def rows(command: str, answer: Answer) -> str:
    """The rows of an answer as the driver's `fetchall` prints them."""
    if kind(command) != "schema":
        return str([tuple(map(_value, row)) for row in answer.values])
    if answer.columns[:2] != ("column_name", "column_type"):
        # The server keeps the names of databases and tables in lower case.
        return str([(name.lower(), *rest) for name, *rest in answer.values])
    sole = sum(row[3] == "PRI" for row in answer.values) == 1
    return str([_described(*row, sole_key=sole) for row in answer.values])


def error(database: str, command: str, reason: str) -> str:
    """Why a command does not run: SQLite's reason in MySQL's words where there are such."""
    for pattern, words in _ERRORS:
        if found := pattern.fullmatch(reason):
            # Of DESCRIBE the reason does not name the table, which is the command's last word.
            name = found.groupdict("").get("name", "") or tokens(command)[-1].strip("`")
            clause = _clause(command, name)
            return words.format(name=name, database=database.lower(), clause=clause)
    return reason


def _value(value: Any) -> Any:
    """Dates are kept as texts in SQLite, and MySQL has a type for them."""
    found = _DATE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return value
    try:
        return (datetime if found[1] else date).fromisoformat(value)
    except ValueError:
        return value


def _described(
    name: str, declared: str, null: str, key: str, default: str | None, *, sole_key: bool
) -> tuple[Any, ...]:
    """One column as DESCRIBE tells of it; whole numbers that alone are the key count upwards."""
    stated = None if default in (None, "NULL") else str(default).strip("'").encode()
    extra = "auto_increment" if key and sole_key and declared.lower() == "int" else ""
    return name, declared.lower().encode(), null, key, stated, extra


def _clause(command: str, name: str) -> str:
    """The clause in which MySQL misses a name first: the outer query's before a subquery's."""
    found = [word.casefold() for word in tokens(command)]
    wanted = [word.casefold() for word in tokens(name)]
    clauses, at = [], [""]
    for index, word in enumerate(found):
        at[-1] = _CLAUSES.get(word, "" if word == "from" else at[-1])
        if word == "(":
            at.append(at[-1])
        elif word == ")" and len(at) > 1:
            at.pop()
        elif found[index : index + len(wanted)] == wanted and at[-1]:
            clauses.append((len(at), _ORDER.index(at[-1]), at[-1]))
    return min(clauses)[-1] if clauses else "field list"
