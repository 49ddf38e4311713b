"""Rows and outputs that went through this package's own types keep upstream's verdicts."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pivotrl_jax.objectives import compile_recipe
from pivotrl_jax.text import ParsedAction
from pivotrl_jax.trajectories import Action, ToolCall
from pivotrl_jax.verifiers import verifier
from pivotrl_jax.verifiers.compatible.verifier import COMPATIBLE
from pivotrl_jax.verifiers.recipes import UPSTREAM
from pivotrl_jax.verifiers.rows import expert_turn, sampled_action

DATA = Path(__file__).parent / "data" / "nemo_gym_rollouts.jsonl.gz"
RECORDS = [json.loads(line) for line in gzip.decompress(DATA.read_bytes()).splitlines()]


@pytest.mark.parametrize(
    "record",
    [record for record in RECORDS if record["verifier"] != "terminus"],
    ids=lambda record: record["id"],
)
def test_recorded_rewards(record: dict[str, Any]) -> None:
    expert, context = expert_turn(record["row"])
    verdict = verifier(record["verifier"])(expert, sampled_action(record["output"]), context)
    assert (verdict.error, verdict.criteria) == (None, {"reward": record["reward"]})


def test_terminus_compares_strings() -> None:
    answers = [
        Action(json.dumps({"analysis": "", "plan": "", "commands": [{"keystrokes": keys}]}))
        for keys in ("ls -la /src\n", "ls -la /src", "pwd\n")
    ]
    row = {"expected_answer": answers[0].text, "metadata": {"harness": "terminus_2"}}
    _, context = expert_turn(row)
    verdicts = [verifier("terminus")(answers[0], ParsedAction(own), context) for own in answers]
    assert [verdict.criteria["reward"] for verdict in verdicts] == [1, 1, 0]
    assert verdicts[2].reason == "string_similarity_below_threshold"


@pytest.mark.parametrize("name", COMPATIBLE)
def test_what_upstream_raises_is_an_error_and_no_reward(name: str) -> None:
    broken = Action("", (ToolCall("ping", "{"),))
    assert compile_recipe(UPSTREAM, verifier(name).criteria)
    verdict = verifier(name)(broken, ParsedAction(broken))
    rewarded = name == "swe_pivot"  # which takes broken JSON for an empty object
    assert (verdict.criteria.get("reward") == 1) == rewarded
