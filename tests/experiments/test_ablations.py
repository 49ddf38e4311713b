"""Arms of a study: the same data for all, what they share, and what their figures come to."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments import ablations, arms, episodes, evaluate_stages, study_summary, textworld
from experiments.config import to_config
from experiments.context import Run
from experiments.settings import Settings
from pivotrl_jax.errors import UserError
from pivotrl_jax.parallel import make_mesh

WORKDIR = Path("study")


@pytest.fixture(scope="module")
def settings() -> dict[str, Settings]:
    config = to_config(textworld.study())
    return {arm.name: ablations.settings_of(config, arm, 3, WORKDIR) for arm in arms.ARMS}


def test_every_arm_has_the_same_data_and_the_same_measures(settings):
    for name in ("data", "text", "model", "evaluation", "environment", "suites"):
        assert len({str(getattr(own, name)) for own in settings.values()}) == 1, name
    shared = {name for name, own in settings.items() if own.profile.samples_from}
    assert {own.profile.samples_from for own in settings.values()} == {None, "study/pivotrl/3"}
    assert shared == {arm.name for arm in arms.ARMS if arm.like}
    assert {own.reward.recipe for own in settings.values()} == {textworld.study().reward.recipe}
    assert {own.seed for own in settings.values()} == {3}


def test_no_two_arms_are_the_same_run(settings):
    assert len({str(own) for own in settings.values()}) == len(arms.ARMS)


def test_arms_that_update_on_pivots_take_as_many_samples(settings):
    steps = {
        name: (own.train.steps, own.train.rows, own.train.pivots_per_row, own.train.samples)
        for name, own in settings.items()
        if own.train.steps
    }
    assert set(steps.values()) == {(60, 16, 2, 8)}
    assert set(settings) - set(steps) == {"base", "sft", "end_to_end"}


def test_a_chosen_arm_brings_those_that_it_builds_on():
    names = [arm.name for arm in ablations.chosen(arms.ARMS, ["strict"])]
    assert names == ["base", "pivotrl", "strict"]
    assert ablations.chosen(arms.ARMS, None) == list(arms.ARMS)
    with pytest.raises(UserError, match="no arm 'strickt'; the study has base, sft"):
        ablations.chosen(arms.ARMS, ["strickt"])


def test_whole_seeds_come_first():
    order = [(arm.name, seed) for arm, seed in ablations.runs(arms.ARMS[:2], 2)]
    assert order == [("base", 0), ("sft", 0), ("base", 1), ("sft", 1)]


def test_a_file_without_a_study_is_told():
    with pytest.raises(UserError, match=r"experiments/swe\.py describes no study"):
        ablations.study_of("experiments/swe.py")
    assert ablations.study_of("experiments/textworld.py") is textworld.STUDY


def test_the_base_is_evaluated_once(tmp_path):
    run = Run(textworld.study(), tmp_path / "sft/0", make_mesh(textworld.study().mesh))
    first = tmp_path / "base/0"
    own = {"evaluate/base/part.parquet", "evaluate/base_suites.parquet", "done/evaluate_base"}
    for file in own:
        (first / file).parent.mkdir(parents=True, exist_ok=True)
        (first / file).write_text(file)
    (first / "evaluate/sft.json").write_text("not the base's")
    ablations.take_base(run, first)
    files = {str(p.relative_to(run.workdir)) for p in run.workdir.rglob("*") if p.is_file()}
    assert files == own
    (run.workdir / "evaluate/base_suites.parquet").write_text("own")
    ablations.take_base(run, first)
    assert (run.workdir / "evaluate/base_suites.parquet").read_text() == "own"


def test_figures_are_means_over_seeds_and_paired_changes(tmp_path, play):
    both = {"base": arms.ARMS[0], "pivotrl": arms.ARMS[2]}
    for seed in range(2):
        wins = {"a": [1 - seed, 0], "b": [0]}
        play(tmp_path / f"base/{seed}", "base", wins, {"x1": 1, "y1": 0})
    for seed in range(2):
        path = tmp_path / f"pivotrl/{seed}"
        play(path, "pivotrl", {"a": [1, 1], "b": [seed]}, {"x1": 1, "y1": 1})
        (path / "train").mkdir()
        line = json.dumps({"groups": 4, "row_tokens": 100}) + "\n"
        (path / "train/metrics.jsonl").write_text(2 * line)
    found = study_summary.summary(tmp_path, list(both.values()), 3)
    measured = found["pivotrl"]["means"]
    # Tasks' means are 1, 1 and 1/2; groups weigh the same. Before, they were 1/2, 0 and 0.
    assert measured["in_domain/greedy"]["mean"]["mean"] == pytest.approx((1 + 0.5) / 2)
    assert measured["in_domain/greedy"]["change"]["mean"] == pytest.approx((0.75 + 0.5) / 2)
    assert measured["ood"]["mean"]["mean"] == 1
    assert measured["ood"]["change"]["mean"] == pytest.approx(0.5)
    below = found["base"]["means"]["in_domain/greedy"]["below_pivotrl"]
    assert below["mean"] == pytest.approx((0.75 + 0.5) / 2)
    assert measured["in_domain/greedy"]["below_pivotrl"]["mean"] == 0
    assert [measured[f"ood/{s}"]["change"]["mean"] for s in "xy"] == [0, 1]
    own = found["pivotrl"]["seeds"]["1"]
    assert own["in_domain"] == {"greedy": pytest.approx(1.0)}
    assert own["turns"] == {"profile": 0, "training": 2 * 4 * 8}
    assert own["flops"] == 8 * 200 * 1000
    assert own["seconds"] == 3 + 7
    assert list(found["base"]["seeds"]) == ["0", "1"]


BLANK = {"task": "t", "sample": 0, "turns": 2, "tokens": 6, "malformed": 1, "invalid": 0}


def test_only_seeds_that_both_have_are_held_against_each_other(tmp_path, play):
    """Of PivotRL seed 1 is still to come, in which Base wins everything, and of SFT seed 0."""
    play(tmp_path / "base/0", "base", {"a": [0]}, {})
    play(tmp_path / "base/1", "base", {"a": [1]}, {})
    play(tmp_path / "pivotrl/0", "pivotrl", {"a": [1]}, {})
    play(tmp_path / "sft/1", "sft", {"a": [0]}, {})
    found = study_summary.summary(tmp_path, arms.ARMS[:3], 2)
    sft = found["sft"]["means"]["in_domain/greedy"]
    assert sft["below_pivotrl"] is None
    assert sft["change"]["mean"] == -1
    assert found["base"]["means"]["in_domain/greedy"]["mean"]["mean"] == 0.5
    assert found["base"]["means"]["in_domain/greedy"]["below_pivotrl"]["mean"] == 1
    assert found["pivotrl"]["means"]["in_domain/greedy"]["change"]["mean"] == 1
    assert "ood" not in found["base"]["means"]


def episodes_table(played: list[tuple[str, str, str, float]]) -> pa.Table:
    names = ("task", "group", "mode", "score")
    rows = [BLANK | {"ending": "done"} | dict(zip(names, each, strict=True)) for each in played]
    return pa.Table.from_pylist(rows, episodes.SCHEMA)


def test_a_change_of_the_win_rate_is_paired_by_task(tmp_path):
    """Two episodes of each task; the second task, and what is not won outright, is no win."""
    before = [("1", "a", "sampled", 1.0), ("1", "a", "sampled", 0.0), ("2", "b", "sampled", 0.5)]
    after = [("2", "b", "sampled", 1.0), ("1", "a", "sampled", 1.0), ("1", "a", "sampled", 1.0)]
    after.append(("1", "a", "greedy", 1.0))
    found = episodes.episode_changes(episodes_table(after), episodes_table(before), 0)
    assert found == {"sampled": {"mean": 0.75, "low": 0.5, "high": 1.0}}


def test_scores_hold_what_changed_from_every_policy_that_played(tmp_path):
    for policy, score in (("base", 0.0), ("sft", 1.0)):
        table = episodes_table([("1", "a", "greedy", score), ("2", "b", "greedy", score)])
        pq.write_table(table, tmp_path / f"{policy}_episodes.parquet")
    for policy, change in (("sft", 1.0), ("base", -1.0)):
        (other,) = {"base", "sft"} - {policy}
        scores = {"policy": policy, "against": {other: {"heldout": 1}, "pivotrl": {}}}
        evaluate_stages.add_played(scores, tmp_path, "episodes", 0)
        evaluate_stages.add_played(scores, tmp_path, "suites", 0)
        assert scores["episodes"]["greedy"]["win_rate"]["mean"] == (change + 1) / 2
        assert scores["against"][other]["heldout"] == 1
        assert scores["against"][other]["episodes"]["greedy"]["mean"] == change
        assert not scores["against"]["pivotrl"]
        assert "suites" not in scores


def test_scores_of_episodes_by_mode():
    played = [("a", "greedy", 1.0, "done"), ("b", "greedy", 0.5, "turns")]
    played += [("a", "sampled", 0.0, "done")]
    names = ("group", "mode", "score", "ending")
    rows = [BLANK | dict(zip(names, each, strict=True)) for each in played]
    found = episodes.episode_scores(pa.Table.from_pylist(rows, episodes.SCHEMA), 0)
    assert found["greedy"]["win_rate"]["mean"] == 0.5
    assert found["greedy"]["score"]["mean"] == 0.75
    assert found["greedy"]["endings"]["turns"] == 0.5
    assert found["sampled"]["malformed_share"] == 0.5
    assert found["sampled"]["episodes"] == 1
