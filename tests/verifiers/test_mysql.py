"""MySQL's spelling in SQLite's, and any text at all."""

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pivotrl_jax.verifiers.sql import functions, mysql
from pivotrl_jax.verifiers.sql.databases import Databases
from pivotrl_jax.verifiers.sql.mysql import Refused
from pivotrl_jax.verifiers.sql.sqlite import OutOfTime

ARCHIVE = Path(__file__).parents[2] / "experiments/data/sql/intercode_spider_sqlite.tar.gz"
DATABASES = Databases(str(ARCHIVE))

VALUES = [
    ("'it''s'", "it's"),
    (r"'it\'s'", "it's"),
    ('"it\'s"', "it's"),
    ('"say ""x"""', 'say "x"'),
    (r"'a\\b'", "a\\b"),
    (r"'a\tb'", "a\tb"),
    (r"'a\%b'", r"a\%b"),
    ("'# -- /* x */'", "# -- /* x */"),
    ("1 # one\n + 1", 2),
    ("1 -- one\n + 1", 2),
    ("1 /* one */ + 1", 2),
    ("2 --1", 3),
    ("1 || 0", 1),
    ("1 && 0", 0),
    ("NULL <=> NULL", 1),
    ("6 / 4 / 3", 0.5),
    ("1 + 6 / 4", 2.5),
    ("1 / 0", None),
    ("CAST('12' AS UNSIGNED) + 1", 13),
    ("CONCAT('a', 1, 2.0, 2.5)", "a122.5"),
    ("CONCAT('a', NULL)", None),
    ("CONCAT_WS(', ', 'a', NULL, 'b')", "a, b"),
    ("IF(1 > 2, 'a', 'b')", "b"),
    ("IF(NULL, 'a', 'b')", "b"),
    ("IFNULL(NULL, 3)", 3),
    ("ISNULL(NULL)", 1),
    ("LEFT('abc', 2)", "ab"),
    ("RIGHT('abc', 2)", "bc"),
    ("RIGHT('abc', 0)", ""),
    ("REPLACE('abc', 'b', 'x')", "axc"),
    ("CHAR_LENGTH('abc')", 3),
    ("LOCATE('B', 'abc')", 2),
    ("GREATEST(1, 3, 2)", 3),
    ("LEAST(1, NULL)", None),
    ("YEAR('2013-04-05')", 2013),
    ("MONTH('2013-04-05 06:07:08')", 4),
    ("DAY('2013-4-5')", 5),
    ("DATE('2013-4-5 06:07:08')", "2013-04-05"),
    ("YEAR('soon')", None),
    ("DATE('now')", None),
    ("'Kabul' REGEXP '^k.*l$'", 1),
    ("'Kabul' RLIKE 'x|y'", 0),
    ("'Kabul' NOT REGEXP '[xyz]'", 1),
    ("NULL REGEXP 'a'", None),
    ("DATABASE()", "pets_1"),
]


@pytest.mark.parametrize(("expression", "value"), VALUES)
def test_values(expression: str, value: object) -> None:
    assert DATABASES.answer("pets_1", f"SELECT {expression}").rows == ((value,),)


@pytest.mark.parametrize(
    "pattern",
    ["(a|a)*", "(a)(b)", "a{9}", "a*b*c*", "a?b?c?", r"\1", "[[:alpha:]]", "a" * 101, "[a"],
)
def test_patterns_that_are_not_tried(pattern: str) -> None:
    with pytest.raises(Exception, match=r"REGEXP|long|unterminated"):
        functions.regexp(pattern, "a" * 200)


def test_the_slowest_pattern_ends() -> None:
    assert functions.regexp("a*a*b", "a" * 256) == 0
    with pytest.raises(ValueError, match="too long"):
        functions.regexp("a", "a" * 257)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("SELECT 1", "query"), ("with x as (select 1) select * from x", "query"), ("", "other"),
     ("/* all */ show tables", "schema"), ("desc t", "schema"), ("EXPLAIN t", "schema"),
     ("EXPLAIN SELECT 1", "other"), ("submit", "other"), ("SELECTED", "other")],
)  # fmt: skip
def test_kinds(text: str, kind: str) -> None:
    assert mysql.kind(text) == kind


@pytest.mark.parametrize(
    ("text", "terms", "offset", "is_open"),
    [
        ("SELECT a FROM t ORDER BY b DESC, f(c, d)", [("b",), ("f", "(", "c", ",", "d", ")")], 0,
         True),
        ("SELECT a FROM t ORDER BY 1 LIMIT 5", [("1",)], 0, True),
        ("SELECT a FROM t ORDER BY 1 LIMIT 5, 6", [("1",)], 5, True),
        ("SELECT a FROM t ORDER BY 1 LIMIT 5 OFFSET 6", [("1",)], 6, True),
        ("SELECT DISTINCT a FROM t ORDER BY a", [("a",)], 0, False),
        ("SELECT COUNT(DISTINCT a) FROM t ORDER BY a", [("a",)], 0, True),
        ("SELECT a FROM t UNION SELECT b FROM t ORDER BY a", [("a",)], 0, False),
    ],
)  # fmt: skip
def test_top_level_orderings(
    text: str, terms: list[tuple[str, ...]], offset: int, is_open: bool
) -> None:
    ordering = mysql.translate(text).ordering
    assert ordering is not None
    assert (list(ordering.terms), ordering.offset, ordering.open) == (terms, offset, is_open)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT a FROM (SELECT b FROM t ORDER BY c LIMIT 1) x",
        "SELECT RANK() OVER (ORDER BY a) FROM t",
        "SELECT a FROM t WHERE b IN (SELECT c FROM t ORDER BY 1)",
    ],
)
def test_orderings_below_the_top_do_not_count(text: str) -> None:
    assert mysql.translate(text).ordering is None


WORDS = st.sampled_from(
    ["SELECT", "FROM", "pets", "student", "*", ",", "(", ")", "ORDER", "BY", "LIMIT", "1", "'a'",
     '"', "'", "`", "#", "--", "/*", "\\", ";", "UNION", "WITH", "x", "AS", "DISTINCT", "SHOW",
     "TABLES", "DESCRIBE", "LIKE", "IF", "||", "/", "\0", "\ud800", "COUNT", "ASC", "OFFSET"]
)  # fmt: skip


@given(st.one_of(st.text(), st.lists(WORDS, max_size=15).map(" ".join)))
@settings(max_examples=300)
@example("SELECT 1 FROM pets ORDER BY")
@example("SELECT 1 FROM pets ORDER BY 99")
@example("SELECT PetID FROM pets ORDER BY PetID LIMIT 99999999999999999999, 1")
@example(")ORDER BY(")
def test_any_text_is_answered_or_refused(text: str) -> None:
    mysql.normal(text), mysql.kind(text)
    for run in (DATABASES.answer, DATABASES.expected):
        try:
            run("pets_1", text)
        except (Refused, OutOfTime):
            continue


@pytest.mark.parametrize("unit", ["a", "'", '"', "`", "/*", "--", "#\n", "\\", "(", ";", "1.", "e"])
def test_megabytes_are_told_apart(unit: str) -> None:
    text = "SELECT " + unit * (1_000_000 // len(unit))
    assert mysql.normal(text) == text
    assert mysql.kind(text) == "query"
    with pytest.raises(Refused, match="longer than 4000 characters"):
        DATABASES.answer("pets_1", text)
    with pytest.raises(Refused):
        DATABASES.answer("pets_1", text[: mysql.MAX_CHARS])
