"""Samples of several domains in one batch: each is judged as its own domain alone would."""

import json

import numpy as np
import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.models.pretrained import resolve
from pivotrl_jax.pivots import Grading, Judging, Rollouts, Turn, judge, sample_records
from pivotrl_jax.sampling import Sample
from pivotrl_jax.text import Tokenizer, action_format
from pivotrl_jax.trajectories import Action, ToolCall
from pivotrl_jax.verifiers import verifier
from pivotrl_jax.verifiers.recipe import Recipe
from pivotrl_jax.verifiers.recipes import SAME_COMMAND

EXPERTS = {
    "terminal": Action("", (ToolCall("bash", {"command": "ls -l -a"}),)),
    "tools": Action("", (ToolCall("ls", {"path": "a"}),)),
}
GRADINGS = {
    "terminal": Grading(action_format("fenced_bash"), verifier("command"), SAME_COMMAND, "exclude"),
    "tools": Grading(
        action_format("hermes"),
        verifier("tool_call"),
        Recipe("same_kind", accept=(("kind", 1.0),)),
        "fail",
    ),
}
TEXTS = [
    "```bash\nls -al\n```",
    "```bash\nls\n```",
    '<tool_call>\n{"name": "ls", "arguments": {"path": "a"}}\n</tool_call>',
    '<tool_call>\n{"name": "ls", "arguments": {"path": "b"}}\n</tool_call>',
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return resolve("SmolLM2-135M-Instruct").tokenizer


def rollout(tokenizer: Tokenizer, domains: list[str]) -> Rollouts:
    """All texts at a turn of each of `domains`; the last sample of each reached the cap."""
    turns = [
        Turn(f"{i}", "t", domain, i, 0, 1, 2, EXPERTS[domain]) for i, domain in enumerate(domains)
    ]
    tokens = [np.array(tokenizer.encode(text), np.int32) for text in TEXTS]
    group = [
        Sample(own, np.zeros(len(own)), np.zeros(len(own)), k == len(TEXTS) - 1)
        for k, own in enumerate(tokens)
    ]
    return Rollouts(turns, [group] * len(turns))


def test_each_turn_is_judged_by_the_rules_of_its_domain(tokenizer: Tokenizer) -> None:
    domains = ["tools", "terminal", "tools"]
    together = Judging(tokenizer, GRADINGS)
    judged = judge(rollout(tokenizer, domains), together)
    records = list(sample_records(rollout(tokenizer, domains), judged, together))
    for i, domain in enumerate(domains):
        alone = Judging(tokenizer, {domain: GRADINGS[domain]})
        mine = judge(rollout(tokenizer, [domain]), alone)
        np.testing.assert_array_equal(judged.rewards_PK[i], mine.rewards_PK[0])
        np.testing.assert_array_equal(judged.valid_PK[i], mine.valid_PK[0])
        assert (judged.reasons[i], judged.errors[i]) == (mine.reasons[0], mine.errors[0])
        own = list(sample_records(rollout(tokenizer, [domain]), mine, alone))
        for record, expected in zip(records[4 * i : 4 * i + 4], own, strict=True):
            assert record | {"candidate_id": "0"} == expected
    np.testing.assert_array_equal(judged.rewards_PK, [[0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 1, 1]])
    # What reached the cap counts in one domain and not in the other.
    np.testing.assert_array_equal(judged.valid_PK[:, 3], [True, False, True])


def test_records_hold_the_criteria_of_their_own_domain(tokenizer: Tokenizer) -> None:
    judging = Judging(tokenizer, GRADINGS)
    drawn = rollout(tokenizer, ["terminal", "tools"])
    records = list(sample_records(drawn, judge(drawn, judging), judging))
    for record, domain in zip(records[::4], ("terminal", "tools"), strict=True):
        assert list(json.loads(record["criteria"])) == list(GRADINGS[domain].verifier.criteria)


def test_a_recipe_may_name_criteria_of_its_own_verifier_only(tokenizer: Tokenizer) -> None:
    own = set(GRADINGS["terminal"].verifier.criteria) - set(GRADINGS["tools"].verifier.criteria)
    wrong = Recipe("wrong", accept=((min(own), 1.0),))
    tools = Grading(action_format("hermes"), verifier("tool_call"), wrong, "fail")
    with pytest.raises(UserError, match="recipe 'wrong'"):
        Judging(tokenizer, {"terminal": GRADINGS["terminal"], "tools": tools})
