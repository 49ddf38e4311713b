"""InterCode sessions: real ones, and rows that are none."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pivotrl_jax.trajectories import (
    BASH_TOOL,
    SQL_TOOL,
    SWE_TURN,
    Message,
    ToolCall,
    Trajectory,
    candidates,
    read,
)
from pivotrl_jax.trajectories.formats import FORMATS, detect
from pivotrl_jax.trajectories.intercode import intercode_bash, intercode_sql
from pivotrl_jax.trajectories.parsing import BadRow

DATA = Path(__file__).parents[2] / "experiments" / "data"
SQL_FILE = DATA / "sql" / "intercode_sql_gpt4_success.jsonl.gz"
BASH_FILE = DATA / "terminal" / "intercode_bash_success.jsonl.gz"


@pytest.fixture(scope="module")
def sql() -> list[Trajectory]:
    return read(SQL_FILE)[0]


@pytest.fixture(scope="module")
def bash() -> list[Trajectory]:
    return read(BASH_FILE)[0]


def first_row(file: Path) -> dict[str, Any]:
    with gzip.open(file) as lines:
        return json.loads(lines.readline())


@pytest.mark.parametrize(
    ("file", "name"), [(SQL_FILE, "intercode_sql"), (BASH_FILE, "intercode_bash")]
)
def test_told_from_other_formats(file: Path, name: str) -> None:
    assert detect(first_row(file)) == name
    assert name in FORMATS


def test_sql_sessions(sql: list[Trajectory]) -> None:
    assert len(sql) == 641
    assert all(session.tools == (SQL_TOOL,) and session.reward == 1 for session in sql)
    assert len({session.task_id for session in sql}) == 641
    assert len({session.facts["db"] for session in sql}) == 17
    messages = [message for session in sql for message in session.messages]
    assert Counter(message.role for message in messages) == {
        "system": 641, "user": 641, "assistant": 2662, "tool": 2662,
    }  # fmt: skip
    assert Counter(message.failed for message in messages) == {False: 5816, True: 790}
    found = [c for session in sql for c in candidates(session, SWE_TURN, "train")[0]]
    assert len(found) == 1872


def test_one_sql_session(sql: list[Trajectory]) -> None:
    session = sql[2]
    assert session.facts == {
        "db": "orchestra",
        "gold": "SELECT count(DISTINCT Nationality) FROM conductor",
        "hardness": "easy",
    }
    assert session.messages[0].role == "system"
    assert session.messages[1:5] == (
        Message("user", "Count the number of different nationalities of conductors."),
        Message(
            "assistant",
            "",
            (ToolCall("sql", {"query": "SELECT COUNT(DISTINCT nationality) FROM conductors"}),),
        ),
        Message(
            "tool",
            "Error executing query: Table 'orchestra.conductors' doesn't exist",
            failed=True,
        ),
        Message("assistant", "", (ToolCall("sql", {"query": "SHOW TABLES"}),)),
    )


def test_bash_sessions(bash: list[Trajectory]) -> None:
    assert len(bash) == 236
    assert len({session.task_id for session in bash}) == 104
    assert all(session.tools == (BASH_TOOL,) and session.domain == "terminal" for session in bash)
    turns = [m for session in bash for m in session.messages if m.role == "assistant"]
    commands = [call.arguments["command"] for turn in turns for call in turn.calls]
    assert len(turns) == 462
    # Three were cut off before their closing bracket; the environment did not run them.
    assert sum(command.startswith("execute[") for command in commands) == 3
    assert "submit" not in commands
    # What a ReAct run thinks stands before its command; when it submits, it stands alone.
    assert sum(bool(turn.content) for turn in turns) == 136
    assert Counter(len(turn.calls) for turn in turns)[0] == len(turns) - len(commands)


def row(**changed: Any) -> dict[str, Any]:
    base = {
        "task_id": 0, "db": "a", "query": "How many?", "actions": ["SELECT 1"],
        "observations": ["[(1,)]"], "valid_action": [True],
    }  # fmt: skip
    return {name: value for name, value in (base | changed).items() if value is not ...}


def test_the_least_that_a_session_states() -> None:
    session = intercode_sql(row(), "a.jsonl:1")
    assert (session.id, session.task_id, session.domain) == ("a.jsonl:1", "0", "general")
    assert (session.reward, session.facts) == (None, {"db": "a"})


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"query": ...}, "malformed_session"),
        ({"actions": 3}, "malformed_session"),
        ({"observations": []}, "malformed_session"),
        ({"valid_action": [True, True]}, "malformed_session"),
        ({"thoughts": ["a", "b"]}, "malformed_session"),
        ({"actions": [], "observations": [], "valid_action": []}, "no_assistant_turn"),
        ({"actions": [7]}, "content_not_text"),
        ({"query": None}, "content_not_text"),
    ],
)
def test_rows_that_are_no_session(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        intercode_sql(row(**changed), "a.jsonl:1")


@pytest.mark.parametrize(
    ("action", "thoughts", "text", "commands"),
    [
        ("execute[ls\n-a]", ["Look."], "Look.", ["ls\n-a"]),
        ("execute[ls] now", ["Look."], "Look.", ["execute[ls] now"]),
        ("submit", ["Done."], "Done.", []),
        ("execute[ls]", ..., "", ["execute[ls]"]),
        ("submit", ..., "", ["submit"]),
    ],
)
def test_react_actions(action: str, thoughts: Any, text: str, commands: list[str]) -> None:
    session = intercode_bash(row(db=..., fs=1, actions=[action], thoughts=thoughts), "a.jsonl:1")
    turn = session.messages[2]
    assert turn.content == text
    assert [call.arguments["command"] for call in turn.calls] == commands
    assert len(session.messages) == 3 + len(commands)
