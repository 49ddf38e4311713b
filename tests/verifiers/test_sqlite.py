"""Attempts to get out of the copy, to change it, and to use it up."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from pivotrl_jax.verifiers.sql import sqlite
from pivotrl_jax.verifiers.sql.databases import Databases
from pivotrl_jax.verifiers.sql.mysql import Refused
from pivotrl_jax.verifiers.sql.sqlite import OutOfTime, Sandbox

ARCHIVE = Path(__file__).parents[2] / "experiments/data/sql/intercode_spider_sqlite.tar.gz"

# Said to the copy itself, without the rewriting of MySQL that stands in front of it.
FORBIDDEN = [
    "ATTACH DATABASE '{file}' AS other",
    "ATTACH ':memory:' AS other",
    "VACUUM INTO '{file}'",
    "VACUUM",
    "SELECT writefile('{file}', 'x')",
    "SELECT readfile('/etc/passwd')",
    "SELECT edit('x', 'touch {file}')",
    "SELECT load_extension('{file}')",
    "SELECT fts3_tokenizer('simple')",
    "SELECT * FROM city INTO OUTFILE '{file}'",
    "SELECT LOAD_FILE('/etc/passwd')",
    ".read {file}",
    ".output {file}",
    "PRAGMA query_only = OFF",
    "PRAGMA writable_schema = ON",
    "PRAGMA temp_store_directory = '{file}'",
    "PRAGMA database_list",
    "SELECT * FROM pragma_database_list",
    "SELECT COUNT(*) FROM pragma_database_list",
    "SELECT * FROM pragma_table_info('city')",
    "SELECT COUNT(*) FROM json_each('[1, 2]')",
    "SELECT value FROM json_tree('[1, 2]')",
    "SELECT token FROM fts3tokenize('simple', 'a b')",
    "SELECT * FROM bytecode('SELECT 1')",
    "SELECT * FROM dbstat",
    "SELECT * FROM sqlite_master",
    "SELECT COUNT(*) FROM sqlite_schema",
    "SELECT * FROM temp.sqlite_master",
    "SELECT sql FROM (SELECT sql FROM sqlite_master)",
    "CREATE TABLE own (x)",
    "CREATE TEMP TABLE own (x)",
    "CREATE TEMP VIEW own AS SELECT 1",
    "CREATE VIRTUAL TABLE own USING fts5(x)",
    "CREATE TRIGGER own AFTER INSERT ON city BEGIN SELECT 1; END",
    "INSERT INTO city SELECT * FROM city",
    "REPLACE INTO city SELECT * FROM city",
    "UPDATE city SET Name = 'x'",
    "DELETE FROM city",
    "WITH old AS (SELECT ID FROM city) DELETE FROM city WHERE ID IN old",
    "DROP TABLE city",
    "ALTER TABLE city RENAME TO town",
    "REINDEX",
    "ANALYZE",
    "BEGIN",
    "SAVEPOINT own",
    "SELECT 1; DROP TABLE city",
    "SELECT random()",
    "SELECT CURRENT_TIMESTAMP",
    "SELECT sqlite_version()",
    "SELECT zeroblob(1000000000)",
    "SELECT randomblob(1000000000)",
    "SELECT printf('%1000000000d', 1)",
    "SELECT hex(zeroblob(100000000))",
    "SELECT 'a\0b'",
    "SELECT '\ud800'",
    "SELECT ?",
]

GROWING = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
LONG = (
    "WITH RECURSIVE b(s) AS (SELECT 'aaaaaaaaaaaaaaaa' UNION ALL SELECT replace(s, 'a', 'aa') "
    "FROM b LIMIT 11), c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 100000), "
    "l(s) AS (SELECT concat(s, x) FROM b, c WHERE length(s) > 10000) "
)


def nested(levels: int, times: int) -> str:
    """WITH clauses that SQLite expands to times ** levels tables before it runs anything."""
    names = [
        f"c{i} AS (SELECT 1 FROM {', '.join(f'c{i - 1} t{j}' for j in range(times))})"
        for i in range(1, levels)
    ]
    return f"WITH c0 AS (SELECT 1), {', '.join(names)} SELECT 1 FROM c{levels - 1}"


BOMBS = [
    ("SELECT COUNT(*) FROM city a, city b, city c", "more than 3000000 steps"),
    (GROWING + "SELECT COUNT(*) FROM c", "more than 3000000 steps"),
    (GROWING + "SELECT x FROM c", "more than 10000 rows"),
    ("SELECT * FROM city a, city b", "more than 10000 rows"),
    ("SELECT GROUP_CONCAT(Name) FROM city", "too big"),
    ("SELECT REPLACE(GROUP_CONCAT(1), '1', '111111') FROM city", "too big"),
    (LONG + "SELECT s FROM l", "1000000 characters"),
    (LONG + "SELECT s FROM l ORDER BY s", "too much memory"),
    (LONG + "SELECT COUNT(DISTINCT s) FROM l", "too much memory"),
    (nested(30, 2), "too much memory"),
    (nested(4, 60), "too much memory"),
    (LONG + "SELECT SUM(INSTR(s, CONCAT(LEFT(s, 8000), 'b'))) FROM l", "stopped after"),
    (LONG + "SELECT SUM(LENGTH(TRIM(s, 'ab'))) FROM l", "stopped after"),
    (LONG + f"SELECT SUM(s LIKE '%{'a%' * 20}b') FROM l, city", "stopped after|steps"),
    (GROWING + f"SELECT SUM(CONCAT('{'a' * 240}', x) REGEXP 'a*a*b') FROM c", "stopped after"),
    ("SELECT 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' REGEXP '(a+)+b'", "exception"),
    (f"SELECT 'a' LIKE '{'%a' * 100}'", "too complex"),
    (f"SELECT {'(' * 400}1{')' * 400}", "stack overflow|too large"),
    (f"SELECT {'NOT ' * 900}1", "stack overflow|too large"),
    (f"SELECT {'(SELECT ' * 200}1{')' * 200}", "stack overflow|too large"),
    (f"SELECT 1{' UNION SELECT 1' * 200}", "too many terms"),
    (f"SELECT COUNT(*) FROM {', '.join(f'city t{i}' for i in range(64))}", "steps"),
    (
        f"SELECT COUNT(*) FROM city {' '.join(f'NATURAL JOIN city t{i}' for i in range(40))}",
        "too large|steps",
    ),
]


@pytest.fixture(scope="module")
def databases() -> Databases:
    return Databases(str(ARCHIVE))


@pytest.fixture(scope="module")
def world(databases: Databases) -> Sandbox:
    return databases._open("world_1")


@pytest.mark.parametrize("query", FORBIDDEN)
def test_nothing_but_reading_the_copy(world: Sandbox, query: str, tmp_path: Path) -> None:
    file = tmp_path / "escaped"
    with contextlib.chdir(tmp_path), pytest.raises(Refused):
        world.run(query.replace("{file}", str(file)))
    assert list(tmp_path.iterdir()) == []
    assert world.run("SELECT COUNT(*) FROM city").rows == ((4079,),)
    assert world._connection.in_transaction is False


def test_the_connection_itself_is_read_only(world: Sandbox) -> None:
    """The authorizer is not the only thing in the way."""
    world._connection.set_authorizer(None)
    try:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            world._connection.execute("DELETE FROM city")
        with pytest.raises(sqlite3.OperationalError, match="too many attached"):
            world._connection.execute("ATTACH ':memory:' AS other")
    finally:
        world._confine()


@pytest.mark.parametrize(("query", "said"), BOMBS, ids=[f"{i}" for i in range(len(BOMBS))])
def test_every_query_ends_soon(databases: Databases, query: str, said: str) -> None:
    with pytest.raises((Refused, OutOfTime), match=said):
        databases.answer("world_1", query)
    assert databases.answer("world_1", "SELECT COUNT(*) FROM city").rows == ((4079,),)


def test_memory_is_bounded_for_the_whole_process(world: Sandbox) -> None:
    assert world.run("SELECT 1").rows == ((1,),)
    with contextlib.closing(sqlite3.connect(":memory:")) as other:
        assert other.execute("PRAGMA hard_heap_limit").fetchone() == (128 * 2**20,)


def test_results_are_cut_by_rows_and_by_characters(world: Sandbox) -> None:
    assert len(world.run(GROWING + "SELECT x FROM c LIMIT 10000").rows) == 10_000
    with pytest.raises(Refused, match="more than 10000 rows"):
        world.run(GROWING + "SELECT x FROM c LIMIT 10001")
    assert len(world.run(LONG + "SELECT s FROM l LIMIT 60").rows) == 60
    with pytest.raises(Refused, match="1000000 characters"):
        world.run(LONG + "SELECT s FROM l LIMIT 62")


@pytest.mark.parametrize(
    ("value", "same"),
    [(1, 1.0), ("1", 1), ("2.50", 2.5), ("Kabul", "KABUL"), (0.1 + 0.2, 0.3), (1e15 + 0.0, 10**15)],
)
def test_values_that_are_equal(value: object, same: object) -> None:
    assert sqlite.comparable(value) == sqlite.comparable(same)


@pytest.mark.parametrize(
    ("value", "other"),
    [(1, 2), ("01", 1), ("a", "b"), (None, 0), (None, ""), (0.3, 0.3000001), (b"1", "1"),
     (2**60, 2**60 + 1), (float("inf"), 1), ("nan", 0), ("1e3", 1000)],
)  # fmt: skip
def test_values_that_differ(value: object, other: object) -> None:
    assert sqlite.comparable(value) != sqlite.comparable(other)


def test_what_a_query_reads(world: Sandbox) -> None:
    answer = world.run("WITH x AS (SELECT Name n FROM city) SELECT COUNT(*) FROM x, country c")
    assert answer.reads == {("city", "name"), ("country", "")}
    assert answer.tables == {"city", "country"}
    assert world.run("SELECT 3").reads == frozenset()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "broken.sqlite").write_bytes(b"SQLite format 3\0" + b"\1" * 2000)
    with pytest.raises(sqlite3.DatabaseError):
        Databases(str(tmp_path)).answer("broken", "SHOW TABLES")


def test_answers_and_copies_are_kept_but_not_for_ever(databases: Databases) -> None:
    first = databases.answer("pets_1", "SELECT * FROM pets")
    assert databases.answer("pets_1", "SELECT * FROM pets") is first
    for i in range(100):
        databases.answer("pets_1", f"SELECT {i} FROM pets")
    assert databases.answer("pets_1", "SELECT * FROM pets") is not first
