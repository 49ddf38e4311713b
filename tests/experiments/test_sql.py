"""The presets of interactive SQL fit their data, and its study keeps databases apart."""

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from experiments import ablations, sql
from experiments.config import to_config
from experiments.context import Run
from experiments.stages.candidates import candidates_stage, read_stage
from experiments.studies import runs
from experiments.studies.arms import ARMS
from pivotrl_jax.environments.sql import split_of
from pivotrl_jax.errors import UserError
from pivotrl_jax.objectives import compile_recipe, rewards
from pivotrl_jax.parallel import make_mesh
from pivotrl_jax.text import ParsedAction
from pivotrl_jax.trajectories import (
    SWE_TURN,
    Action,
    Context,
    ToolCall,
    candidates,
    group,
    read,
    split,
)
from pivotrl_jax.verifiers import verifier


def test_no_database_stands_on_both_sides() -> None:
    settings = sql.laptop()
    sessions, _ = read(settings.data.path, limit=settings.data.limit)
    groups = {session.id: group(session, settings.data.split_by) for session in sessions}
    parts = split(groups.values(), settings.data.heldout_share, settings.seed)
    assert Counter(parts.values()) == {"train": 12, "heldout": 3}
    turns = Counter(
        candidate.split
        for session in sessions
        for candidate in candidates(session, SWE_TURN, parts[groups[session.id]])[0]
    )
    assert turns["train"] > turns["heldout"] > 60


@pytest.mark.parametrize(
    ("sampled", "reward"),
    [
        ("SELECT COUNT(Singer_ID) FROM singer", 1.0),
        ("SELECT COUNT(*) FROM singer s JOIN singer_in_concert c ON 0 = 1", 0.0),
        ("SELECT 6", 0.0),
        ("SELECT COUNT(*) FROM concert", 0.0),
    ],
)
def test_the_recipe_pays_for_the_result_that_was_looked_up(sampled: str, reward: float) -> None:
    settings = sql.laptop().reward
    verify = verifier(settings.verifier, settings.databases)
    expert, own = (
        Action("", (ToolCall("sql", {"query": query}),))
        for query in ("SELECT COUNT(*) FROM singer", sampled)
    )
    verdict = verify(expert, ParsedAction(own), Context(facts={"db": "concert_singer"}))
    criteria = np.array([[[verdict.criteria[name] for name in verify.criteria]]], np.float32)
    recipe = compile_recipe(settings.recipe, verify.criteria)
    assert rewards(criteria, np.array([[True]]), recipe).item() == reward


@pytest.fixture
def expert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "sql" / "expert.jsonl"
    monkeypatch.setattr(sql, "EXPERT", path)
    sql.STUDY.prepare(make_mesh(sql.study().mesh), sql.study())
    return path


def test_the_study_learns_from_databases_that_no_episode_is_about(expert: Path) -> None:
    kept, _ = read(str(expert))
    everything, _ = read(str(sql.SESSIONS))
    databases = Counter(str(session.facts["db"]) for session in kept)
    assert len(databases) == 9
    assert {split_of(name) for name in databases} == {"train"}
    wanted = [s.id for s in everything if split_of(str(s.facts["db"])) == "train"]
    assert [session.id for session in kept] == wanted
    assert len(kept) == 435
    with gzip.open(sql.study().environment.games, "rt") as questions:
        asked = {row["db"] for row in json.load(questions)}
    # The sources spell their names alike, or the split would be none.
    assert set(databases) <= asked
    assert len({name for name in asked if split_of(name) == "test"}) == 4
    assert sql.study().environment.split == "test"
    # A study that goes on finds what it had.
    before = expert.stat().st_mtime_ns
    sql.STUDY.prepare(make_mesh(sql.study().mesh), sql.study())
    assert expert.stat().st_mtime_ns == before


def test_most_turns_of_the_study_fit(expert: Path, tmp_path: Path) -> None:
    settings = sql.study()
    run = Run(settings, tmp_path / "run", make_mesh(settings.mesh))
    corpus = candidates_stage(run, read_stage(run))
    assert len(corpus.turns["train"]) > 450
    too_long = {"does_not_fit_trunk", "action_over_cap"}
    left_out = json.loads((run.workdir / "candidates/audit.json").read_text())["left_out"]
    assert sum(left_out.get(name, 0) for name in too_long) < 30


def test_what_the_arms_of_the_study_share() -> None:
    config = to_config(sql.study())
    arms = {arm.name: runs.settings_of(config, arm, 0, Path("study")) for arm in sql.STUDY.arms}
    assert set(arms) == {arm.name for arm in ARMS} - {"after_sft"}
    for name in ("data", "text", "model", "evaluation", "environment", "suites"):
        assert len({str(getattr(own, name)) for own in arms.values()}) == 1, name
    # The same warm start, without which there would be no mixed turn.
    assert len({own.sft for name, own in arms.items() if name not in ("base", "sft")}) == 1
    epochs = {name: own.sft.epochs for name, own in arms.items()}
    assert {epochs.pop("base"), epochs.pop("sft")} == {0, 4}
    assert set(epochs.values()) == {1}
    untrained = {name for name, own in arms.items() if not own.train.steps}
    assert untrained == {"base", "sft", "end_to_end"}
    assert ablations.study_of("experiments/sql.py") is sql.STUDY


def test_a_preset_without_episodes_is_no_study() -> None:
    with pytest.raises(UserError, match=r"preset 'laptop' plays no .* --config=a/sql\.py:study"):
        ablations.require_episodes(sql.laptop(), "a/sql.py")
    ablations.require_episodes(sql.study(), "a/sql.py")
