"""Every real expert command against itself, and final commands against the reference."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pivotrl_jax.text import ParsedAction
from pivotrl_jax.trajectories.schema import Action, Context, ToolCall
from pivotrl_jax.verifiers import Sql, Verdict

DATA = Path(__file__).parents[2] / "experiments/data/sql"


@pytest.fixture(scope="module")
def verify() -> Sql:
    return Sql(str(DATA / "intercode_spider_sqlite.tar.gz"))


@pytest.fixture(scope="module")
def sessions() -> list[dict[str, Any]]:
    with gzip.open(DATA / "intercode_sql_gpt4_success.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def judge(verify: Sql, db: str, *queries: str) -> Verdict:
    expert, sampled = (Action("", (ToolCall("sql", {"query": query}),)) for query in queries)
    return verify(expert, ParsedAction(sampled), Context(facts={"db": db}))


def test_every_expert_command_against_itself(verify: Sql, sessions: list[dict[str, Any]]) -> None:
    count: Counter[tuple[bool, bool]] = Counter()
    for session in sessions:
        for action, valid in zip(session["actions"], session["valid_action"], strict=True):
            verdict = judge(verify, session["db"], action, action)
            assert verdict.error is None
            assert verdict.criteria["exact"] == verdict.criteria["kind"] == 1
            assert verdict.criteria["result"] == verdict.criteria["executes"]
            count[valid, bool(verdict.criteria["result"])] += 1
    # By whether MySQL accepted the command, and whether the copy runs it.
    assert count == {(True, True): 1866, (True, False): 6, (False, False): 787, (False, True): 3}


def test_final_commands_give_the_reference_result(
    verify: Sql, sessions: list[dict[str, Any]]
) -> None:
    verdicts = [judge(verify, s["db"], s["gold"], s["actions"][-1]) for s in sessions]
    assert not any(verdict.error for verdict in verdicts)
    # Of the other 55, nearly all return nothing, or 0, and read other columns than the reference.
    assert sum(verdict.criteria["result"] for verdict in verdicts) == 586
