"""Untrusted queries on a private copy of a SQLite database.

What stands between a query and everything else: the copy lies in memory and is read-only, an
authorizer lets only reads and listed functions pass, no file or database can be attached, and
SQL length, expression depth, values, steps, processor time, memory and results are bounded.
"""

import dataclasses
import functools
import re
import sqlite3
import time
from collections.abc import Hashable
from typing import Any

from pivotrl_jax.verifiers.sql.functions import FUNCTIONS
from pivotrl_jax.verifiers.sql.mysql import Refused

Row = tuple[Hashable, ...]

MAX_STEPS = 3_000_000  # of SQLite's virtual machine; no expert command takes 100,000
MAX_SECONDS = 1.0  # of this thread's processor time: a paused process is not a slow query
MAX_ROWS = 10_000
MAX_CHARS = 1_000_000
# Between two looks at the clock a query runs this many steps, each of which may be a function of
# values as long as the limits below allow.
_STRIDE = 50
# SQLite keeps one such limit per process. It also ends the expansion of nested WITH clauses, which
# runs before the first step.
_HEAP_BYTES = 128 * 2**20

_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 20_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 10_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 500,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 50_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 50,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 100,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}

# What MySQL has under the same name and meaning. Everything else is refused: functions that reach
# files or make large values, and those that answer differently every time.
_SHARED_FUNCTIONS = frozenset(
    {"abs", "avg", "ceil", "ceiling", "coalesce", "count", "cume_dist", "dense_rank", "exp",
     "first_value", "floor", "group_concat", "ifnull", "instr", "lag", "last_value", "lead",
     "length", "like", "ln", "lower", "ltrim", "max", "min", "mod", "nth_value", "ntile", "nullif",
     "percent_rank", "pi", "pow", "power", "rank", "replace", "round", "row_number", "rtrim",
     "sign", "sqrt", "substr", "substring", "sum", "trim", "upper"}
)  # fmt: skip
_ALLOWED_FUNCTIONS = _SHARED_FUNCTIONS | FUNCTIONS.keys() | {"database", "schema"}
_READING = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE)

_INFORMATION_SCHEMA = """
CREATE TABLE information_schema.tables (
    table_schema TEXT COLLATE NOCASE, table_name TEXT COLLATE NOCASE, table_type TEXT,
    create_statement TEXT);
CREATE TABLE information_schema.columns (
    table_schema TEXT COLLATE NOCASE, table_name TEXT COLLATE NOCASE,
    column_name TEXT COLLATE NOCASE, ordinal_position INTEGER, column_default TEXT,
    is_nullable TEXT, data_type TEXT COLLATE NOCASE, column_type TEXT COLLATE NOCASE,
    column_key TEXT COLLATE NOCASE);
"""
_CATALOGUE = frozenset({"information_schema.tables", "information_schema.columns"})
_PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,14})(?:\.\d{1,15})?")


class OutOfTime(Exception):
    """A query was stopped by the clock, so that another machine might have answered it."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """A result: its `values` as they are stored, and its `rows` in comparable form (see
    `comparable`).

    `reads` are the pairs of table and column that the query read, the column being empty where it
    only counts rows.
    """

    columns: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]
    reads: frozenset[tuple[str, str]]

    @functools.cached_property
    def rows(self) -> tuple[Row, ...]:
        return tuple(tuple(map(comparable, row)) for row in self.values)

    @property
    def tables(self) -> frozenset[str]:
        return frozenset(table for table, _ in self.reads)

    @property
    def bare(self) -> bool:
        """Whether it holds nothing but NULL and 0, as any query without a match does."""
        return all(value in (None, 0) for row in self.rows for value in row)


class Sandbox:
    """A private copy in memory of one SQLite database, for untrusted queries."""

    def __init__(self, image: bytes, database: str) -> None:
        """`image` is the content of a database file; `database` is its name in MySQL.

        Raises sqlite3.DatabaseError if it is none.
        """
        # A cached statement would not ask the authorizer again, which notes what is read.
        self._connection = sqlite3.connect(
            ":memory:", isolation_level=None, cached_statements=0, check_same_thread=False
        )
        self._connection.execute(f"PRAGMA hard_heap_limit = {_HEAP_BYTES}")
        self._connection.deserialize(image)
        self._describe(database)
        self._trim()
        tables = self._connection.execute("SELECT table_name FROM information_schema.tables")
        self._known = _CATALOGUE.union(name.casefold() for (name,) in tables)
        self._define_functions(database)
        self._reads: set[tuple[str, str]] = set()
        self._ticks, self._deadline = 0, 0.0
        self._confine()

    def run(self, sql: str) -> Answer:
        """The answer to one query.

        Raises Refused if it does not run within the limits, OutOfTime if only the clock ended it.
        """
        self._reads, self._ticks = set(), 0
        self._deadline = time.thread_time() + MAX_SECONDS
        try:
            cursor = self._connection.execute(sql)
            values = _fetch(cursor)
        except sqlite3.OperationalError as error:
            if "interrupted" not in str(error):
                raise Refused(str(error)) from None
            if self._ticks * _STRIDE <= MAX_STEPS:
                raise OutOfTime(f"stopped after {MAX_SECONDS} s") from None
            raise Refused(f"takes more than {MAX_STEPS} steps") from None
        except MemoryError:
            raise Refused("takes too much memory") from None
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise Refused(str(error)) from None
        columns = tuple(name.casefold() for name, *_ in cursor.description or ())
        return Answer(columns, values, self._noted())

    def _noted(self) -> frozenset[tuple[str, str]]:
        """The reads of real tables; SQLite names an empty column for some that it reads, too."""
        reads = {read for read in self._reads if read[0] in self._known}
        with_columns = {table for table, column in reads if column}
        return frozenset(read for read in reads if read[1] or read[0] not in with_columns)

    def _describe(self, database: str) -> None:
        """Fills information_schema, which MySQL's agents read, from SQLite's own catalogue."""
        self._connection.execute("ATTACH ':memory:' AS information_schema")
        self._connection.executescript(_INFORMATION_SCHEMA)
        self._connection.execute(
            "INSERT INTO information_schema.tables SELECT ?, name, upper('base ' || type), sql "
            "FROM main.sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'",
            [database],
        )
        self._connection.execute(
            "INSERT INTO information_schema.columns SELECT t.table_schema, t.table_name, c.name, "
            "c.cid + 1, c.dflt_value, iif(c.[notnull] OR c.pk, 'NO', 'YES'), "
            "substr(c.type, 1, instr(c.type || '(', '(') - 1), c.type, iif(c.pk, 'PRI', '') "
            "FROM information_schema.tables t, pragma_table_info(t.table_name, 'main') c"
        )

    def _trim(self) -> None:
        """Drops the blanks at the end of texts: MySQL's comparisons do not see them."""
        columns = self._connection.execute(
            "SELECT table_name, column_name FROM information_schema.columns NATURAL JOIN "
            "information_schema.tables WHERE table_type = 'BASE TABLE'"
        ).fetchall()
        for table, column in columns:
            table, column = (name.replace('"', '""') for name in (table, column))
            self._connection.execute(
                f'UPDATE OR IGNORE main."{table}" SET "{column}" = rtrim("{column}", \' \') '
                f"WHERE typeof(\"{column}\") = 'text' AND substr(\"{column}\", -1) = ' '"
            )

    def _define_functions(self, database: str) -> None:
        create = self._connection.create_function
        for name, (function, arguments) in FUNCTIONS.items():
            create(name, arguments, function, deterministic=True)
        for name in ("database", "schema"):
            create(name, 0, lambda: database, deterministic=True)

    def _confine(self) -> None:
        for setting in ("temp_store = MEMORY", "trusted_schema = OFF", "query_only = ON"):
            self._connection.execute(f"PRAGMA {setting}")
        for limit, value in _LIMITS.items():
            self._connection.setlimit(limit, value)
        self._connection.set_progress_handler(self._stop, _STRIDE)
        self._connection.set_authorizer(self._authorize)

    def _stop(self) -> bool:
        self._ticks += 1
        return self._ticks * _STRIDE > MAX_STEPS or time.thread_time() > self._deadline

    def _authorize(
        self, action: int, first: str | None, second: str | None, schema: str | None, _: str | None
    ) -> int:
        allowed = action in _READING
        if action == sqlite3.SQLITE_FUNCTION:
            allowed = (second or "").casefold() in _ALLOWED_FUNCTIONS
        elif action == sqlite3.SQLITE_READ:
            allowed = self._may_read((first or "").casefold(), (second or "").casefold(), schema)
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    def _may_read(self, table: str, column: str, schema: str | None) -> bool:
        """Also notes the read. SQLite's own catalogue is nothing that MySQL would show."""
        if table.startswith(("sqlite_", "pragma_")):
            return False
        owner = f"{schema}.{table}" if schema == "information_schema" else table
        self._reads.add((owner, column))
        return True


def _fetch(cursor: sqlite3.Cursor) -> tuple[tuple[Any, ...], ...]:
    rows: list[tuple[Any, ...]] = []
    size = 0
    for row in cursor:
        size += sum(len(value) if isinstance(value, str | bytes) else 8 for value in row)
        if len(rows) == MAX_ROWS or size > MAX_CHARS:
            raise Refused(f"answers with more than {MAX_ROWS} rows or {MAX_CHARS} characters")
        rows.append(row)
    return tuple(rows)


def comparable(value: Any) -> Hashable:
    """Equal for values that MySQL calls equal: 1 and 1.0 and "1", "Kabul" and "KABUL".

    Fractions are rounded to nine digits, so that the order of a summation does not matter.
    """
    if isinstance(value, float):
        return _rounded(value)
    if not isinstance(value, str):
        return value
    return _rounded(float(value)) if _PLAIN_NUMBER.fullmatch(value) else value.casefold()


def _rounded(number: float) -> float:
    if abs(number) < 2**53 and abs(number - round(number)) <= 1e-9 * abs(number):
        return round(number)
    return float(f"{number:.9g}")
