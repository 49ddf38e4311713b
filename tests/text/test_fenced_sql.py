"""The fence of SQL agents is that of shell agents in another language."""

import gzip
import json
from pathlib import Path

import pytest

from pivotrl_jax.text import FencedBash, FencedSql, action_format
from pivotrl_jax.trajectories.schema import Action, ToolCall

SESSIONS = Path(__file__).parents[2] / "experiments/data/sql/intercode_sql_gpt4_success.jsonl.gz"


def test_every_real_command_comes_back() -> None:
    with gzip.open(SESSIONS, "rt", encoding="utf-8") as lines:
        commands = {command for line in lines for command in json.loads(line)["actions"]}
    assert len(commands) > 1000
    for command in commands:
        action = Action("I look.", (ToolCall("sql", {"query": command}),))
        text = FencedSql().print(action)
        assert text == f"I look.\n\n```sql\n{command}\n```"
        assert FencedSql().parse(text).action == action
        assert FencedSql().parse(text).problems == ()


def test_names() -> None:
    assert action_format("fenced_sql") == FencedSql()
    assert (FencedSql().name, FencedBash().name) == ("fenced_sql", "fenced_bash")


@pytest.mark.parametrize(
    ("text", "problem", "queries"),
    [
        ("```mysql\nSELECT 1\n```", None, ["SELECT 1"]),
        ("```sql\nSELECT '```'\n```", None, ["SELECT '```'"]),
        ("```bash\nls\n```", "no_fenced_block", []),
        ("```sqlite\nSELECT 1\n```", "no_fenced_block", []),
        ("```sql\nSELECT 1\n```\n```sql\nSELECT 2\n```", "several_fenced_blocks", []),
        ("```sql\nSELECT 1\n```\n```bash\nls\n```", "text_after_block", ["SELECT 1"]),
    ],
)
def test_reading(text: str, problem: str | None, queries: list[str]) -> None:
    parsed = FencedSql().parse(text)
    assert parsed.problems == ((problem,) if problem else ())
    assert [call.arguments["query"] for call in parsed.action.calls] == queries
    assert all(call.name == "sql" for call in parsed.action.calls)


def test_a_shell_command_is_not_printed_as_sql() -> None:
    with pytest.raises(ValueError, match="no text argument 'query'"):
        FencedSql().print(Action("", (ToolCall("bash", {"command": "ls"}),)))
