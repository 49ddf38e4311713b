"""Arms of a study: the same data for all, what they share, and what their figures come to."""

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments import ablations, artifacts, context, episodes, textworld
from experiments.config import to_config
from experiments.context import Run
from experiments.flops import flops
from experiments.settings import Settings
from experiments.stages import evaluate, rollouts
from experiments.studies import arms, runs, tune
from experiments.studies import summary as study_summary
from pivotrl_jax.errors import UserError
from pivotrl_jax.parallel import make_mesh

WORKDIR = Path("study")


@pytest.fixture(scope="module")
def settings() -> dict[str, Settings]:
    config = to_config(textworld.study())
    return {arm.name: runs.settings_of(config, arm, 3, WORKDIR) for arm in arms.ARMS}


def test_every_arm_has_the_same_data_and_the_same_measures(settings):
    for name in ("data", "text", "model", "evaluation", "environment", "suites"):
        assert len({str(getattr(own, name)) for own in settings.values()}) == 1, name
    # Decides which turns are short enough to be candidates.
    assert len({str(own.profile.sampling) for own in settings.values()}) == 1
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
    runs.take_base(run, first)
    files = {str(p.relative_to(run.workdir)) for p in run.workdir.rglob("*") if p.is_file()}
    assert files == own
    (run.workdir / "evaluate/base_suites.parquet").write_text("own")
    runs.take_base(run, first)
    assert (run.workdir / "evaluate/base_suites.parquet").read_text() == "own"


def sample_and_train(path: Path) -> None:
    """A profile of three candidates on two trunks, another one of the policy in training, and two
    steps."""
    candidates = [
        {"split": split, "trunk": trunk, "history_tokens": start, "action_tokens": 5}
        for split, trunk, start in [
            ("train", 0, 20), ("train", 0, 60), ("train", 1, 30), ("heldout", 2, 900),
        ]
    ]  # fmt: skip
    samples = [{"length": 6, "drafted": 4}, {"length": 9, "drafted": 0}]
    chosen = [{"candidate_id": "a", "selected": True}]
    for name, rows in {
        "candidates/candidates": candidates,
        "profile/train/samples-00000": samples[:1],
        "profile/train/samples-00001": samples,
        "profile/heldout/samples-00000": samples,
        "profile/1/train/samples-00000": samples,
        "profile/1/select/table": chosen,
    }.items():
        file = path / f"{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), file)
    step = {
        "rollout_turns": 32, "sampled_tokens": 70, "drafted_tokens": 30, "prefill_tokens": 80,
        "row_tokens": 100, "action_tokens": 60, "expert_tokens": 7,
    }  # fmt: skip
    (path / "train").mkdir()
    (path / "train/metrics.jsonl").write_text(2 * (json.dumps(step) + "\n"))
    (path / "sft").mkdir()
    step = {"row_tokens": 40, "action_tokens": 9}
    (path / "sft/metrics.jsonl").write_text(json.dumps(step) + "\n")


def test_a_frozen_base_costs_no_gradients_of_its_own(tmp_path, play):
    path = tmp_path / "run"
    play(path, "pivotrl", {"a": [1]}, {})
    sample_and_train(path)
    described = json.loads((path / "config.json").read_text())
    described["config"]["lora"] = {"rank": 8}
    (path / "config.json").write_text(json.dumps(described))
    # Forward, back to the inputs, and for updates on pivots pi_0's forward pass.
    assert flops(path, [])["training"] == 4 * (40 * 1000 + 9 * 10) + 2 * (
        6 * (100 * 1000 + 60 * 10) + 4 * 7 * 10 + 2 * ((80 + 40) * 1000 + 40 * 10)
    )


def test_figures_are_means_over_seeds_and_paired_changes(tmp_path, play):
    both = {"base": arms.ARMS[0], "pivotrl": arms.ARMS[2]}
    for seed in range(2):
        wins = {"a": [1 - seed, 0], "b": [0]}
        play(tmp_path / f"base/{seed}", "base", wins, {"x1": 1, "y1": 0})
    for seed in range(2):
        path = tmp_path / f"pivotrl/{seed}"
        play(path, "pivotrl", {"a": [1, 1], "b": [seed]}, {"x1": 1, "y1": 1})
        sample_and_train(path)
    found = study_summary.summary(tmp_path, list(both.values()))
    measured = found["pivotrl"]["means"]
    # Tasks' means are 1, 1 and 1/2. Before, they were 1/2, 0 and 0.
    assert measured["in_domain/greedy"]["mean"]["mean"] == pytest.approx(2.5 / 3)
    assert measured["in_domain/greedy"]["change"]["mean"] == pytest.approx(2 / 3)
    assert measured["ood"]["mean"]["mean"] == 1
    assert measured["ood"]["change"]["mean"] == pytest.approx(0.5)
    below = found["base"]["means"]["in_domain/greedy"]["below_pivotrl"]
    assert below["mean"] == pytest.approx(2 / 3)
    assert measured["in_domain/greedy"]["below_pivotrl"]["mean"] == 0
    assert [measured[f"ood/{s}"]["change"]["mean"] for s in "xy"] == [0, 1]
    own = found["pivotrl"]["seeds"]["1"]
    assert own["in_domain"] == {"greedy": pytest.approx(1.0)}
    assert own["turns"] == {"profile": 3 + 2, "training": 2 * 32}
    assert own["tokens"] == {"profile": 6 + 15 + 15, "training": 2 * 70}
    assert own["flops"] == {
        # Each profile reads 65 + 35 tokens of trunks, and decodes 2 + 11 or 11.
        "profile": 2 * ((100 + 13) * 1000 + 13 * 10) + 2 * ((100 + 11) * 1000 + 11 * 10),
        "training": 6 * (40 * 1000 + 9 * 10)
        + 2 * (8 * (100 * 1000 + 60 * 10) + 6 * 7 * 10 + 2 * ((80 + 40) * 1000 + 40 * 10)),
    }
    assert own["seconds"] == 3 + 7
    assert found["base"]["seeds"]["0"]["flops"] == {"profile": 0, "training": 0}
    assert found["base"]["tuned"] is None
    assert list(found["base"]["seeds"]) == ["0", "1"]


def test_the_base_is_judged_alike_in_all_arms(settings):
    """Or the arms with strict match could not take its evaluation (`take_base`)."""
    first, *others = (rollouts.rewards(own) for own in settings.values())
    assert all(own == first for own in others)
    reward = dataclasses.replace(settings["base"].reward, truncated="fail")
    other = dataclasses.replace(settings["base"], reward=reward)
    assert rollouts.rewards(other) != first


BLANK = {"task": "t", "sample": 0, "turns": 2, "tokens": 6, "malformed": 1, "invalid": 0}


def test_only_seeds_that_both_have_are_held_against_each_other(tmp_path, play):
    """Of PivotRL seed 1 is still to come, in which Base wins everything, and of SFT seed 0."""
    play(tmp_path / "base/0", "base", {"a": [0]}, {})
    play(tmp_path / "base/1", "base", {"a": [1]}, {})
    play(tmp_path / "pivotrl/0", "pivotrl", {"a": [1]}, {})
    play(tmp_path / "sft/1", "sft", {"a": [0]}, {})
    found = study_summary.summary(tmp_path, arms.ARMS[:3])
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
        evaluate.add_played(scores, tmp_path, "episodes", 0)
        evaluate.add_played(scores, tmp_path, "suites", 0)
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


def test_samples_of_another_arm_took_their_time_there(tmp_path, play):
    for name in ("pivotrl", "strict"):
        play(tmp_path / name / "0", "pivotrl", {"a": [1]}, {"x1": 1})
    path = tmp_path / "strict/0/config.json"
    described = json.loads(path.read_text())
    described["config"]["profile"]["samples_from"] = str(tmp_path / "pivotrl/0")
    path.write_text(json.dumps(described))

    def seconds(arm: str) -> float:
        return study_summary.figures(tmp_path / arm / "0")["seconds"]

    assert (seconds("pivotrl"), seconds("strict")) == (10, 13)
    # Of another policy it drew its own.
    (tmp_path / "strict/0/profile/train/manifest.json").write_text('{"policy": "another"}')
    assert seconds("strict") == 10


RATES = {"sft": [1.25e-4, 5e-4, 2e-3, 8e-3]}
RATES |= {stage: [3.75e-5, 1.5e-4, 6e-4, 2.4e-3] for stage in ("train", "end_to_end")}


def test_every_arm_has_as_many_trials_that_differ_in_its_rate_alone():
    config = to_config(textworld.study())
    own_trials = [arm for arm in arms.ARMS if arm.tuned]
    assert [arm.name for arm in own_trials] == [
        "sft", "pivotrl", "no_filter", "strict", "neither", "end_to_end"
    ]  # fmt: skip
    for arm in own_trials:
        stage = arm.tuned.split(".")[0]
        plain = runs.settings_of(config, arm, 0, WORKDIR)
        configured = getattr(plain, stage).optimizer.learning_rate
        own = tune.trials(arm, textworld.STUDY.factors, configured)
        assert [trial.name for trial in own] == [f"{arm.name}-{n}" for n in range(4)]
        found = [runs.settings_of(config, trial, 0, WORKDIR) for trial in own]
        rates = [getattr(each, stage).optimizer.learning_rate for each in found]
        assert rates == RATES[stage]
        assert {(each.environment.split, each.suites.names) for each in found} == {
            ("validation", ())
        }
        changes = artifacts.differences(context.as_json(plain), context.as_json(found[0]))
        fields = {line.split(":")[0] for line in changes} - {"profile.samples_from"}
        # This study reads no more texts than that anyway.
        assert fields == {arm.tuned, *tune.VALIDATION} - {"evaluation.ood_texts"}


def test_trials_of_one_policy_share_their_samples():
    by_name = {arm.name: arm for arm in arms.ARMS}
    shared = {
        name: [trial.like for trial in tune.trials(by_name[name], (1.0, 3.0), 1e-3)]
        for name in ("sft", "pivotrl", "strict")
    }
    assert shared == {
        "sft": [None, None],
        "pivotrl": [None, "pivotrl-0"],
        "strict": ["pivotrl-0", "pivotrl-0"],
    }


WON = {"pivotrl": (1, 3, 2, 0), "strict": (2, 0, 2, 1), "sft": (0, 0, 0, 0)}  # of four, by trial


def test_trials_choose_the_rate_that_wins_most_and_arms_take_it(tmp_path, play, monkeypatch):
    """And of equal rates the smallest."""
    ran = []

    def run_arm(config, arm, first, seed, workdir):
        ran.append((arm.name, seed, runs.settings_of(config, arm, seed, workdir)))
        name, _, number = arm.name.partition("-")
        wins = WON[name][int(number)] if number else 0
        play(
            workdir / arm.name / str(seed),
            "pivotrl",
            {"a": [n < wins for n in range(4)]},
            {"x1": 1},
        )

    monkeypatch.setattr(runs, "run_arm", run_arm)
    config, study = to_config(textworld.study()), textworld.STUDY
    own = ablations.chosen(arms.ARMS, ["sft", "strict"])
    ablations.tune(config, study, own, tmp_path, 1)
    order = ["base", *(f"{name}-{n}" for name in ("sft", "pivotrl", "strict") for n in range(4))]
    assert [name for name, _, _ in ran] == order
    assert {seed for _, seed, _ in ran} == {0}
    assert {settings.environment.split for _, _, settings in ran} == {"validation"}
    sources = {name: settings.profile.samples_from for name, _, settings in ran}
    assert sources["strict-1"] == str(tmp_path / "tune/pivotrl-0/0")
    found = study_summary.choices(tmp_path)
    assert found["pivotrl"] == {
        "field": "train.optimizer.learning_rate",
        "chosen": 1.5e-4,
        "trials": [
            {"value": rate, "greedy": wins / 4, "win_rate": wins / 4}
            for rate, wins in zip(RATES["train"], WON["pivotrl"], strict=True)
        ],
    }
    assert {name: row["chosen"] for name, row in found.items()} == {
        "sft": 1.25e-4, "pivotrl": 1.5e-4, "strict": 3.75e-5,
    }  # fmt: skip
    after = {arm.name: arm for arm in tune.tuned(arms.Study(lambda *_: None, arms.ARMS), found)}
    settings = runs.settings_of(config, after["strict"], 1, tmp_path)
    assert settings.train.optimizer.learning_rate == 3.75e-5
    assert settings.reward.updates == arms.EXACT
    assert settings.environment.split == "test"
    assert settings.profile.samples_from == str(tmp_path / "pivotrl/1")
    variants = [arm.name for arm in arms.ARMS if arm.rate_of]
    assert variants == ["reprofile", "online", "leave_one_out", "with_sft", "after_sft"]
    rates = {after[name].overrides["train.optimizer.learning_rate"] for name in variants}
    assert rates == {1.5e-4}
    assert [after[arm.name] == arm for arm in arms.ARMS].count(False) == 3 + len(variants)
    play(tmp_path / "base/0", "base", {"a": [0]}, {"x1": 1})
    play(tmp_path / "strict/0", "pivotrl", {"a": [1]}, {"x1": 1})
    summary = study_summary.summary(tmp_path, [after["base"], after["strict"]])
    assert summary["strict"]["tuned"] == found["strict"]
    assert summary["strict"]["overrides"]["train.optimizer.learning_rate"] == 3.75e-5


def test_a_study_without_trials_runs_at_its_own_rates():
    found = {"sft": {"field": arms.SFT_RATE, "chosen": 1e-3}}
    study = arms.Study(lambda *_: None, arms.ARMS, rates={"sft": 5e-4, "pivotrl": 1.5e-4})
    alone, after = (
        {arm.name: arm.overrides for arm in tune.tuned(study, own)} for own in ({}, found)
    )
    assert alone["sft"][arms.SFT_RATE] == 5e-4
    assert after["sft"][arms.SFT_RATE] == 1e-3
    for own in (alone, after):
        assert own["pivotrl"][arms.PIVOT_RATE] == own["online"][arms.PIVOT_RATE] == 1.5e-4
        assert arms.PIVOT_RATE not in own["no_filter"]


def test_the_text_games_have_a_rate_for_every_arm_that_trials_choose_one_for():
    assert set(textworld.STUDY.rates) == {arm.name for arm in arms.ARMS if arm.tuned}


def test_trials_that_have_not_chosen_are_told_before_the_study_runs(tmp_path):
    place = tmp_path / "tune"
    for trial in ("base", "sft-0", "sft-1", "pivotrl-0"):
        (place / trial / "0").mkdir(parents=True)
    chosen = {"sft": {"field": "sft.optimizer.learning_rate", "chosen": 1e-3}}
    tune.require_choices(ablations.chosen(arms.ARMS, ["sft", "end_to_end"]), chosen, place)
    with pytest.raises(UserError, match=r"trials of arm pivotrl .* finish them with --tune"):
        tune.require_choices(ablations.chosen(arms.ARMS, ["online"]), chosen, place)
    tune.require_choices(arms.ARMS, {}, tmp_path / "none")


def test_the_choice_is_by_greedy_and_sampled_episodes_together(tmp_path, play):
    for number, (greedy, sampled) in enumerate(((0.5, 0.0), (0.25, 0.75))):
        run = tmp_path / f"sft-{number}/0"
        play(run, "sft", {"a": [1]}, {"x1": 1})
        scores = json.loads((run / "evaluate/sft.json").read_text())
        rates = {"greedy": greedy, "sampled": sampled}
        scores["episodes"] = {mode: {"win_rate": {"mean": rate}} for mode, rate in rates.items()}
        (run / "evaluate/sft.json").write_text(json.dumps(scores))
    found = tune.choice(tune.trials(arms.ARMS[1], (1.0, 2.0), 1e-3), tmp_path)
    assert [row["win_rate"] for row in found["trials"]] == [0.25, 0.5]
    assert found["chosen"] == 2e-3
