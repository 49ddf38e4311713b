"""Plans, verdicts on sampled text and the records of a profile, with SmolLM2's own tokens."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from pivotrl_jax.models import init
from pivotrl_jax.parallel import MeshSettings, make_mesh
from pivotrl_jax.pivots import (
    SCHEMA,
    Grading,
    Judging,
    ProfileStore,
    Rollouts,
    Truncated,
    Turn,
    candidate_table,
    judge,
    plan,
    rollouts,
    sample_records,
)
from pivotrl_jax.sampling import EngineSettings, Sample, SamplingSettings
from pivotrl_jax.text import BpeTokenizer, FencedBash
from pivotrl_jax.trajectories import Action, ToolCall
from pivotrl_jax.verifiers import ToolName
from pivotrl_jax.verifiers.recipe import Recipe

GOLDEN = Path(__file__).parent.parent / "text" / "golden" / "smollm2.json"
BASH = Action("look", (ToolCall("bash", {"command": "ls"}),))
GOOD = "look\n\n```bash\nls\n```"


@pytest.fixture(scope="module")
def tokenizer() -> BpeTokenizer:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return BpeTokenizer.from_gguf(
        golden["tokens"],
        golden["merges"],
        golden["token_types"],
        "smollm",
        golden["tokens"].index("<|im_end|>"),
        golden["chat_template"],
    )


def judging(tokenizer: BpeTokenizer, truncated: Truncated) -> Judging:
    recipe = Recipe("name", accept=(("name", 1.0),))
    return Judging(tokenizer, {"swe": Grading(FencedBash(), ToolName(), recipe, truncated)})


def turn(name: str, trunk: int = 0, start: int = 1, expert: Action = BASH) -> Turn:
    return Turn(name, f"t{trunk}", "swe", start, trunk, start, start + 1, expert)


@pytest.fixture(scope="module")
def rollout(tokenizer) -> Rollouts:
    """Per turn: a good action, one without a command, and one that reached the cap."""

    def drawn(text: str, truncated: bool) -> Sample:
        tokens = np.array(tokenizer.encode(text) + [tokenizer.eot] * (not truncated), np.int32)
        logp = -np.arange(1, len(tokens) + 1, dtype=np.float32)
        return Sample(tokens, 2 * logp, logp, truncated)

    group = [drawn(GOOD, False), drawn("look", False), drawn(GOOD[:-4], True)]
    return Rollouts([turn("a"), turn("b", expert=Action("no call"))], [group, group])


def test_plan_puts_turns_of_one_trunk_into_one_row_the_fullest_first():
    turns = [turn(f"{trunk}.{i}", trunk, i) for i, trunk in enumerate((4, 7, 7, 2, 7, 2, 7, 7))]
    whole = plan(turns)
    assert [(trunk, len(part)) for trunk, part in whole] == [(7, 5), (2, 2), (4, 1)]
    halves = plan(turns, 2)
    assert [(trunk, len(part)) for trunk, part in halves] == [
        (7, 2), (7, 2), (2, 2), (4, 1), (7, 1),
    ]  # fmt: skip
    for rows in (whole, halves):
        assert all(t.trunk == trunk for trunk, part in rows for t in part)
        assert sorted(t.id for _, part in rows for t in part) == sorted(t.id for t in turns)
    assert plan([]) == []


def test_a_truncated_sample_is_excluded_or_fails(rollout, tokenizer):
    excluded = judge(rollout, judging(tokenizer, "exclude"))
    failed = judge(rollout, judging(tokenizer, "fail"))
    np.testing.assert_array_equal(excluded.valid_PK[0], [True, True, False])
    np.testing.assert_array_equal(failed.valid_PK[0], [True, True, True])
    assert excluded.errors[0] == [None, None, "truncated"]
    assert failed.errors[0] == [None, None, None]
    assert failed.reasons[0][2] == "unclosed_fence"
    np.testing.assert_array_equal(failed.criteria_PKC[0], [[1, 1, 1], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(excluded.malformed_PK[0], [False, True, True])


def test_a_verifier_that_cannot_judge_takes_the_sample_out(rollout, tokenizer):
    judged = judge(rollout, judging(tokenizer, "fail"))
    assert not judged.valid_PK[1].any()
    assert judged.errors[1] == ["the expert's action calls no tool"] * 3
    assert (judged.criteria_PKC[1] == 0).all()


def test_the_verifier_reads_the_text_without_the_end_of_turn(rollout, tokenizer):
    judged = judge(rollout, judging(tokenizer, "fail"))
    assert judged.texts[0] == [GOOD, "look", GOOD[:-4]]


def test_records_follow_the_schema_and_survive_the_store(rollout, tokenizer, tmp_path):
    judged = judge(rollout, judging(tokenizer, "exclude"))
    odd = dataclasses.replace(judged, rewards_PK=np.array([[1, 0, 7], [7, 7, 7]], np.float32))
    records = list(sample_records(rollout, odd, judging(tokenizer, "exclude")))
    assert len(records) == 6
    assert all(list(record) == SCHEMA.names for record in records)
    good, plain, cut = records[:3]
    n = len(tokenizer.encode(GOOD)) + 1
    assert (good["candidate_id"], good["sample"], good["text"]) == ("a", 0, GOOD)
    assert good["tokens"] == [*tokenizer.encode(GOOD), tokenizer.eot]
    assert (good["length"], good["logp"]) == (n, -n * (n + 1) / 2)
    assert json.loads(good["criteria"]) == {"well_formed": 1.0, "kind": 1.0, "name": 1.0}
    assert (good["reward"], plain["reward"], plain["malformed"]) == (1.0, 0.0, True)
    # No reward without a verdict, whatever number stands in its place.
    assert (cut["reward"], cut["error"], cut["truncated"]) == (None, "truncated", True)
    assert json.loads(cut["criteria"]) == {}
    assert [r["reward"] for r in records[3:]] == [None] * 3
    store = ProfileStore(tmp_path, {})
    store.append(records)
    assert store.read().to_pylist() == records


def test_rollouts_come_by_row_and_do_not_depend_on_the_rows(tiny_cfg, tiny_params, tokenizer):
    cfg = dataclasses.replace(tiny_cfg, vocab=tokenizer.vocab_size)
    params = init(jax.random.key(0), cfg)
    rng = np.random.default_rng(0)
    trunks = [rng.integers(cfg.vocab, size=n).astype(np.int32) for n in (12, 9, 15)]
    starts = [(0, 12), (1, 4), (1, 9), (2, 15), (2, 3), (2, 7)]
    turns = [turn(f"{trunk}.{start}", trunk, start) for trunk, start in starts]
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])
    how, engine = SamplingSettings(max_tokens=4), EngineSettings(2, 8, 4, 16)

    def sampled(rows, done=frozenset()) -> list[Rollouts]:
        key = jax.random.key(1)
        args = (params, cfg, rows, trunks, 3, key, tokenizer, how, engine, mesh, done)
        return list(rollouts(*args))

    parts = sampled(plan(turns))
    assert sorted(len(part.turns) for part in parts) == [1, 2, 3]
    assert all(len(group) == 3 for part in parts for group in part.samples)
    together, apart = (
        {
            t.id: [s.tokens.tolist() for s in group]
            for part in found
            for t, group in zip(part.turns, part.samples, strict=True)
        }
        for found in (parts, sampled(plan(turns[::-1], 1)))
    )
    assert together == apart
    assert together.keys() == {t.id for t in turns}
    left = sampled(plan(turns), {t.id for t in parts[0].turns})
    assert {part.turns[0].id for part in left} == {part.turns[0].id for part in parts[1:]}


def test_a_profile_of_records_gives_the_candidate_table(rollout, tokenizer, tmp_path):
    judged = judge(rollout, judging(tokenizer, "exclude"))
    records = sample_records(rollout, judged, judging(tokenizer, "exclude"))
    store = ProfileStore(tmp_path, {})
    store.append(records)
    known = store.read().select(["candidate_id"]).slice(0, 4)
    known = known.append_column("trajectory_id", known["candidate_id"])
    known = known.append_column("domain", known["candidate_id"])
    known = known.append_column("turn", store.read()["sample"].slice(0, 4))
    table = candidate_table(store.read(), known)
    assert table["n"].to_pylist() == [2, 0]
    assert table["mean"].to_pylist()[0] == 0.5
