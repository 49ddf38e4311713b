"""Pairs of commands on real databases, and what cannot be judged."""

import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.text import FencedSql, ParsedAction
from pivotrl_jax.trajectories.schema import Action, Context, ToolCall
from pivotrl_jax.verifiers import Sql, Verdict, verifier

DATA = Path(__file__).parents[2] / "experiments/data/sql"
ARCHIVE = str(DATA / "intercode_spider_sqlite.tar.gz")
SESSIONS = DATA / "intercode_sql_gpt4_success.jsonl.gz"


@pytest.fixture(scope="module")
def verify() -> Sql:
    return Sql(ARCHIVE)


def sql(query: Any) -> Action:
    return Action("", (ToolCall("sql", {"query": query}),))


def judge(verify: Sql, db: str, expert: str, sampled: str) -> Verdict:
    verdict = verify(sql(expert), ParsedAction(sql(sampled)), Context(facts={"db": db}))
    if verdict.error is None:
        assert tuple(verdict.criteria) == verify.criteria
        assert all(0 <= score <= 1 for score in verdict.criteria.values())
    return verdict


EQUAL = [
    ("pets_1", "DESCRIBE pets", "SHOW COLUMNS FROM pets"),
    ("pets_1", "DESCRIBE pets", "desc `PETS`;"),
    ("pets_1", "DESCRIBE pets", "show full columns in pets_1.pets"),
    ("pets_1", "DESCRIBE pets", "EXPLAIN pets"),
    ("pets_1", "SHOW TABLES", "show tables;"),
    ("pets_1", "SHOW TABLES", "SELECT table_name FROM information_schema.tables"),
    ("pets_1", "SHOW TABLES LIKE '%pet%'", 'SHOW TABLES LIKE "%PET%"'),
    (
        "pets_1",
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'pets'",
        "SELECT COLUMN_NAME FROM INFORMATION_SCHEMA.COLUMNS WHERE TABLE_NAME = 'PETS' "
        "AND table_schema = DATABASE()",
    ),
    # Names and case of the columns, aliases, quoting, comments.
    ("pets_1", "SELECT COUNT(*) FROM pets", "select count(*) as n from Pets # all of them"),
    ("pets_1", "SELECT COUNT(*) FROM pets", "SELECT COUNT(PetID) FROM pets"),
    (
        "pets_1",
        "SELECT Fname FROM student WHERE LName = 'Smith'",
        'SELECT fname FROM student WHERE lname = "smith" -- case',
    ),
    ("pets_1", "SELECT Fname FROM student", "SELECT UPPER(`Fname`) FROM `student`"),
    # Numbers by value.
    ("pets_1", "SELECT AVG(weight) FROM pets", "SELECT SUM(weight) / COUNT(*) FROM pets"),
    ("pets_1", "SELECT 7 / 2 FROM pets", "SELECT 3.5 FROM pets"),
    ("pets_1", "SELECT MAX(pet_age) FROM pets", "SELECT MAX(pet_age) * 1.0 FROM pets"),
    ("pets_1", "SELECT MAX(pet_age) FROM pets", "SELECT CONCAT(MAX(pet_age), '') FROM pets"),
    ("pets_1", "SELECT PetID, NULL FROM pets", "SELECT PetID, NULLIF(1, 1) FROM pets"),
    # Another way to the same rows.
    (
        "pets_1",
        "SELECT Fname FROM student WHERE StuID IN (SELECT StuID FROM has_pet)",
        "SELECT MIN(Fname) FROM student s JOIN has_pet h ON s.StuID = h.StuID GROUP BY h.StuID",
    ),
    (
        "concert_singer",
        "SELECT country FROM singer WHERE age > 40 INTERSECT SELECT country FROM singer "
        "WHERE age < 30",
        "SELECT DISTINCT country FROM singer WHERE age > 40 AND country IN "
        "(SELECT country FROM singer WHERE age < 30)",
    ),
    (
        "world_1",
        "SELECT COUNT(*) FROM country WHERE GovernmentForm REGEXP 'republic|Republic'",
        "SELECT COUNT(*) FROM country WHERE LOWER(GovernmentForm) LIKE '%republic%'",
    ),
    (
        "world_1",
        "SELECT SUM(IF(Continent = 'Asia', Population, 0)) FROM country",
        "SELECT SUM(Population) FROM country WHERE Continent = 'Asia'",
    ),
    ("world_1", "SELECT Name FROM city LIMIT 2, 3", "SELECT Name FROM city LIMIT 3 OFFSET 2"),
    (
        "dog_kennels",
        "SELECT YEAR(date_of_birth) FROM dogs",
        "SELECT LEFT(date_of_birth, 4) FROM dogs",
    ),
    # Blanks at the end of a text do not count, as MySQL's recorded answer of 1 shows.
    (
        "flight_2",
        "SELECT COUNT(*) FROM airports WHERE City = 'Aberdeen'",
        "SELECT COUNT(*) FROM airports WHERE City = 'ABERDEEN '",
    ),
    # Order where the expert asks for none.
    ("pets_1", "SELECT PetID FROM pets", "SELECT PetID FROM pets ORDER BY weight DESC"),
    # Rows that tie may change places.
    (
        "concert_singer",
        "SELECT Name FROM singer ORDER BY Country",
        "SELECT Name FROM singer ORDER BY Country, Age DESC",
    ),
    (
        "concert_singer",
        "SELECT Name, Country AS c FROM singer ORDER BY c DESC",
        "SELECT Name, Country FROM singer ORDER BY 2 DESC, Name DESC",
    ),
    (
        "concert_singer",
        "SELECT DISTINCT Country FROM singer ORDER BY Age",
        "SELECT DISTINCT Country AS c FROM singer ORDER BY Age",
    ),
    # LIMIT cuts through a tie: any of the tied rows will do.
    (
        "concert_singer",
        "SELECT Name FROM singer ORDER BY Is_male LIMIT 1",
        "SELECT Name FROM singer ORDER BY Is_male, Age DESC LIMIT 1",
    ),
    (
        "concert_singer",
        "SELECT Country, COUNT(*) FROM singer GROUP BY Country ORDER BY COUNT(*) LIMIT 1, 1",
        "SELECT Country, COUNT(*) FROM singer GROUP BY Country ORDER BY COUNT(*), Country DESC "
        "LIMIT 1",
    ),
]

DIFFERENT = [
    ("pets_1", "DESCRIBE pets", "DESCRIBE student"),
    ("pets_1", "DESCRIBE pets", "DESCRIBE nothing"),
    ("pets_1", "DESCRIBE pets", "SHOW CREATE TABLE pets"),
    ("pets_1", "SHOW TABLES", "SHOW TABLES LIKE 'pet%'"),
    ("pets_1", "SELECT Fname, Age FROM student", "SELECT Age, Fname FROM student"),
    ("pets_1", "SELECT Fname FROM student", "SELECT Fname, Age FROM student"),
    ("pets_1", "SELECT Sex FROM student", "SELECT DISTINCT Sex FROM student"),
    ("pets_1", "SELECT Fname FROM student", "SELECT Fname FROM student LIMIT 5"),
    (
        "pets_1",
        "SELECT PetType FROM pets",
        "SELECT IF(PetID = 2002, 'cat', PetType) FROM pets",
    ),
    ("pets_1", "SELECT weight FROM pets", "SELECT weight + 0.001 FROM pets"),
    ("pets_1", "SELECT AVG(weight) FROM pets", "SELECT ROUND(AVG(weight), 1) FROM pets"),
    ("pets_1", "SELECT pet_age FROM pets", "SELECT NULLIF(pet_age, 1) FROM pets"),
    ("pets_1", "SELECT COUNT(*) FROM pets", "SELECT 0 FROM pets"),
    # The expert orders its rows.
    ("pets_1", "SELECT PetID FROM pets ORDER BY PetID", "SELECT PetID FROM pets ORDER BY -PetID"),
    (
        "concert_singer",
        "SELECT Name FROM singer ORDER BY Country, Age",
        "SELECT Name FROM singer ORDER BY Country, Age DESC",
    ),
    (
        "concert_singer",
        "SELECT DISTINCT Name, Age FROM singer ORDER BY Age",
        "SELECT DISTINCT Name, Age FROM singer ORDER BY Name",
    ),
    (
        "concert_singer",
        "SELECT Name FROM singer ORDER BY Age LIMIT 2",
        "SELECT Name FROM singer ORDER BY Age DESC LIMIT 2",
    ),
    (
        "concert_singer",
        "SELECT Name FROM singer ORDER BY Age LIMIT 2, 1",
        "SELECT Name FROM singer ORDER BY Age LIMIT 1",
    ),
    # Any query without a match returns nothing, or 0.
    (
        "pets_1",
        "SELECT Fname FROM student WHERE Age > 99",
        "SELECT PetType FROM pets WHERE weight > 999",
    ),
    ("pets_1", "SELECT COUNT(*) FROM student WHERE Age > 99", "SELECT 0"),
    ("pets_1", "SELECT MAX(Age) FROM student WHERE Age > 99", "SELECT NULL FROM student LIMIT 1"),
]


@pytest.mark.parametrize(("db", "expert", "sampled"), EQUAL)
def test_equal_results(verify: Sql, db: str, expert: str, sampled: str) -> None:
    verdict = judge(verify, db, expert, sampled)
    assert (verdict.error, verdict.reason) == (None, "equal")
    assert verdict.criteria["executes"] == verdict.criteria["result"] == 1
    assert verdict.criteria["overlap"] > 0


@pytest.mark.parametrize(("db", "expert", "sampled"), DIFFERENT)
def test_different_results(verify: Sql, db: str, expert: str, sampled: str) -> None:
    verdict = judge(verify, db, expert, sampled)
    assert verdict.error is None
    assert verdict.criteria["result"] == verdict.criteria["exact"] == 0


def test_the_criteria_of_one_pair(verify: Sql) -> None:
    expert = "SELECT Fname FROM student JOIN has_pet ON student.StuID = has_pet.StuID"
    criteria = judge(verify, "pets_1", expert, "SELECT DISTINCT Fname FROM student").criteria
    # Linda has one pet and Tracy two; there are 24 first names.
    assert criteria["overlap"] == pytest.approx(2 * 2 / (3 + 24))
    assert criteria["tables"] == pytest.approx(2 * 1 / (2 + 1))
    assert (criteria["kind"], criteria["executes"], criteria["result"]) == (1, 1, 0)
    assert 0.4 < criteria["similarity"] < 1


@pytest.mark.parametrize(
    ("sampled", "reason", "kept"),
    [
        ("SELECT Fnam FROM student", "does not run: no such column: Fnam", {"kind": 1.0}),
        ("DROP TABLE student", "does not run: not a query", {"kind": 0.0}),
        ("DESCRIBE student", "another result (8 x 5 for 34 x 1)", {"kind": 0.0, "executes": 1.0}),
        ("", "does not run: not a query", {"well_formed": 1.0}),
        ("SELECT '\ud800'", "does not run: 'utf-8' codec can't encode character", {"kind": 1.0}),
        ("SELECT " + "1" * 1_000_000, "does not run: longer than 4000 characters", {"kind": 1.0}),
        ("SELECT 3", "another result (1 x 1 for 34 x 1)", {"tables": 0.0}),
    ],
)
def test_reasons(verify: Sql, sampled: str, reason: str, kept: dict[str, float]) -> None:
    verdict = judge(verify, "pets_1", "SELECT Fname FROM student", sampled)
    assert verdict.reason.startswith(reason)
    assert verdict.criteria.items() >= kept.items()
    assert verdict.criteria["result"] == 0


@pytest.mark.parametrize(
    ("sampled", "reason"),
    [
        (FencedSql().parse("I am done."), "no_fenced_block"),
        (FencedSql().parse("```sql\nSELECT 1"), "unclosed_fence"),
        (ParsedAction(Action("hello")), "0 calls"),
        (ParsedAction(Action("", sql("SELECT 1").calls * 2)), "2 calls"),
        (ParsedAction(sql(None)), "no sql call with a text 'query'"),
        (ParsedAction(Action("", (ToolCall("bash", {"query": "SELECT 1"}),))), "no sql call"),
        (ParsedAction(Action("", (ToolCall("sql", ["SELECT 1"]),))), "no sql call"),
    ],
)
def test_what_is_no_command_scores_nothing(verify: Sql, sampled: ParsedAction, reason: str) -> None:
    verdict = verify(sql("SHOW TABLES"), sampled, Context(facts={"db": "pets_1"}))
    assert verdict.error is None
    assert reason in verdict.reason
    assert sum(verdict.criteria.values()) == verdict.criteria["well_formed"]
    assert verdict.criteria["well_formed"] == float("no sql call" in verdict.reason)


def test_an_expert_that_does_not_run_is_an_error_but_for_its_own_text(verify: Sql) -> None:
    expert = "SELECT  CURDATE()"
    assert judge(verify, "pets_1", expert, "SELECT 1").error == (
        "the expert's command does not run: no such function: CURDATE"
    )
    same = judge(verify, "pets_1", expert, "select curdate();")
    assert same.error is None
    assert (same.criteria["exact"], same.criteria["executes"], same.criteria["result"]) == (1, 0, 0)


@pytest.mark.parametrize(
    ("expert", "facts", "said"),
    [
        (Action("hello"), {"db": "pets_1"}, "no single call with a text 'query'"),
        (sql(7), {"db": "pets_1"}, "no single call with a text 'query'"),
        (sql("SHOW TABLES"), {}, "needs the fact 'db'"),
        (sql("SHOW TABLES"), {"db": "nowhere"}, "there is no database 'nowhere'"),
        (sql("SHOW TABLES"), {"db": "../pets_1"}, "there is no database '../pets_1'"),
    ],
)
def test_records_that_cannot_be_judged_are_errors(
    verify: Sql, expert: Action, facts: dict[str, Any], said: str
) -> None:
    verdict = verify(expert, ParsedAction(sql("SHOW TABLES")), Context(facts=facts))
    assert verdict.error is not None
    assert said in verdict.error
    assert verdict.criteria == {}


def test_a_folder_of_databases_does_as_well(verify: Sql, tmp_path: Path) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extract("spider_sqlite/pets_1.sqlite", tmp_path, filter="data")
    folder = tmp_path / "spider_sqlite"
    before = (folder / "pets_1.sqlite").read_bytes()
    verdict = judge(Sql(str(folder)), "pets_1", "SELECT COUNT(*) FROM pets", "SELECT 3")
    assert verdict == judge(verify, "pets_1", "SELECT COUNT(*) FROM pets", "SELECT 3")
    outside = judge(Sql(str(folder)), "../spider_sqlite/pets_1", "SHOW TABLES", "SHOW TABLES")
    assert "there is no database" in (outside.error or "")
    assert [file.name for file in folder.iterdir()] == ["pets_1.sqlite"]
    assert (folder / "pets_1.sqlite").read_bytes() == before


def test_a_used_verifier_can_be_sent_to_another_process(verify: Sql) -> None:
    judge(verify, "pets_1", "SHOW TABLES", "SHOW TABLES")
    assert pickle.loads(pickle.dumps(verify)) == verify


@pytest.mark.parametrize("path", [None, "nowhere", str(SESSIONS)])
def test_a_place_without_databases_is_told_at_once(path: str | None) -> None:
    with pytest.raises(UserError, match=r"set reward\.databases to a folder"):
        verifier("sql", path)
    assert verifier("command", path).name == "command"
