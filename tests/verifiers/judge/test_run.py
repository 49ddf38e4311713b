"""A run's settings make the judge, and a run that cannot reach its judge does not start."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments import swe
from experiments.context import open_run, write_judge_stats
from experiments.settings import JudgeSettings, Settings
from pivotrl_jax.errors import UserError
from pivotrl_jax.text import ParsedAction
from pivotrl_jax.trajectories import Action, ToolCall
from pivotrl_jax.verifiers.judge import EndpointSettings


def settings(url: str) -> Settings:
    base = swe.smoke()
    endpoint = EndpointSettings(url=url, model="m", attempts=1, connect_seconds=0.5)
    judge = JudgeSettings(endpoint, reject=(("well_formed", 0.0),), accept=(("exact", 1.0),))
    return dataclasses.replace(base, reward=dataclasses.replace(base.reward, judge=judge))


def bash(command: str) -> Action:
    return Action("", (ToolCall("bash", {"command": command}),))


def test_the_judge_is_asked_where_the_rules_leave_it_open(server, tmp_path: Path) -> None:
    run = open_run(settings(server.url), tmp_path)
    asked = len(server.requests)
    verdicts = [
        run.domains["swe"].verifier(bash("ls -l"), ParsedAction(bash(command), problems))
        for command, problems in (("ls -l", ()), ("ls -l", ("bad_json",)), ("find . -ls", ()))
    ]
    assert [verdict.criteria["judge"] for verdict in verdicts] == [1, 0, 1]
    assert len(server.requests) - asked == 2  # one question, both ways round
    write_judge_stats(run)
    stats = json.loads((tmp_path / "judge" / "stats.json").read_text())["swe"]
    assert (stats["requests"], stats["failed"]) == (len(server.requests), {})
    assert list((tmp_path / "judge" / "cache").rglob("*"))


def test_what_a_resumed_run_asks_is_added(server, tmp_path: Path) -> None:
    path = tmp_path / "judge" / "stats.json"
    write_judge_stats(open_run(settings(server.url), tmp_path))
    first = json.loads(path.read_text())["swe"]
    again = open_run(settings(server.url), tmp_path)
    for _ in range(2):  # every stage writes them
        write_judge_stats(again)
    second = json.loads(path.read_text())["swe"]
    assert (
        second["requests"] == first["requests"] + again.domains["swe"].judge.client.stats().requests
    )
    assert second["requests"] > 0


def test_a_judge_that_does_not_answer_is_told_at_the_start(server, tmp_path: Path) -> None:
    server.script = [server.sends(b"no", status=500)]
    with pytest.raises(UserError, match=r"the judge at .* gives no verdict .* mend judge\.url"):
        open_run(settings(server.url), tmp_path)
