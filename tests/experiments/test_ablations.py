"""Arms of a study: the same data for all, what they share, and what their figures come to."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments import ablations, arms, episodes, study_summary, textworld
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


def play(path: Path, policy: str, wins: dict[str, list[int]], answers: dict[str, int]) -> None:
    """A finished run with these greedy wins of two groups' tasks, and answers to questions."""
    evaluate = path / "evaluate"
    evaluate.mkdir(parents=True)
    blank = dict.fromkeys(("turns", "tokens", "malformed", "invalid", "sample"), 1)
    rows = [
        {**blank, "task": f"{group}{i}", "group": group, "mode": "greedy", "ending": "done",
         "score": float(won)}
        for group, own in wins.items()
        for i, won in enumerate(own)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, episodes.SCHEMA)
    pq.write_table(table, evaluate / f"{policy}_episodes.parquet")
    asked = [{"suite": q[0], "question_id": q, "score": float(s)} for q, s in answers.items()]
    pq.write_table(pa.Table.from_pylist(asked), evaluate / f"{policy}_suites.parquet")
    scores = {"heldout": {"mean": 0.5}, "episodes": episodes.episode_scores(table, 0)}
    (evaluate / f"{policy}.json").write_text(json.dumps(scores))
    config = {"train": {"samples": 8}, "objective": {"kl_coef": 0.001}}
    (path / "config.json").write_text(json.dumps({"config": config, "parameters": 1000}))
    stages = {"train": 7.0, "evaluate_base": 99.0}
    lines = [{"stage": name, "seconds": n, "tokens": 50} for name, n in stages.items()]
    (path / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "done").mkdir()
    (path / "done/summary").touch()


def test_figures_are_means_over_seeds_and_paired_changes(tmp_path):
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
    own = found["pivotrl"]["seeds"]["1"]
    assert own["in_domain"] == {"greedy": pytest.approx(1.0)}
    assert own["turns"] == {"profile": 0, "training": 2 * 4 * 8}
    assert own["flops"] == 8 * 200 * 1000
    assert own["seconds"] == 7
    assert list(found["base"]["seeds"]) == ["0", "1"]
    assert "| PivotRL | 0.750 (+0.625" in study_summary.table(found)


def test_scores_of_episodes_by_mode():
    blank = {"task": "t", "sample": 0, "turns": 2, "tokens": 6, "malformed": 1, "invalid": 0}
    played = [("a", "greedy", 1.0, "done"), ("b", "greedy", 0.5, "turns")]
    played += [("a", "sampled", 0.0, "done")]
    names = ("group", "mode", "score", "ending")
    rows = [blank | dict(zip(names, each, strict=True)) for each in played]
    found = episodes.episode_scores(pa.Table.from_pylist(rows, episodes.SCHEMA), 0)
    assert found["greedy"]["win_rate"]["mean"] == 0.5
    assert found["greedy"]["score"]["mean"] == 0.75
    assert found["greedy"]["endings"]["turns"] == 0.5
    assert found["sampled"]["malformed_share"] == 0.5
    assert found["sampled"]["episodes"] == 1
