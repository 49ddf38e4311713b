"""Two domains in one run, end to end: each is read, judged, drawn and reported as its own."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import pyarrow.parquet as pq
import pytest

from experiments import mixed, presets, rejudge
from experiments.config import from_config
from experiments.context import PROFILE, Run, key_of
from experiments.reports.data import load
from experiments.reports.domains import domain_rows
from experiments.run import execute
from experiments.settings import DomainSettings, ModelSettings, Settings
from experiments.stages.candidates import candidates_stage, read_stage
from experiments.stages.rollouts import profile_stage
from experiments.stages.train import _batches
from experiments.studies.summary import figures
from pivotrl_jax.errors import UserError
from pivotrl_jax.models.config import Precision
from pivotrl_jax.parallel import MeshSettings, make_mesh
from pivotrl_jax.pivots import SelectionSettings, Turn, read_samples
from pivotrl_jax.sampling import EngineSettings, SamplingSettings
from pivotrl_jax.trajectories import Action
from pivotrl_jax.verifiers import verifier
from pivotrl_jax.verifiers.recipes import SAME_TOOL

replace = dataclasses.replace
DOMAINS = ("terminal", "sql")
WEIGHTS = {"terminal": 3.0, "sql": 1.0}
STEPS, ROWS = 2, 4


def small(own: DomainSettings, name: str) -> DomainSettings:
    return replace(
        own,
        data=replace(own.data, limit=24 if name == "terminal" else 12),
        text=replace(own.text, trunk_tokens=384, clip_observation=8, clip_task=48),
        reward=replace(own.reward, truncated="fail"),
        selection=SelectionSettings(criterion="all"),
        weight=WEIGHTS[name],
    )


@pytest.fixture(scope="module")
def workdir(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model without a warm start: what its samples are does not matter here."""
    base = mixed.smoke()
    sampling = SamplingSettings(max_tokens=48)
    settings = replace(
        small(base, "terminal"),
        others={"sql": small(base.others["sql"], "sql")},
        model=ModelSettings(name=str(small_model), layers=2),
        engine=EngineSettings(rows=2, slots=8, row_multiple=384),
        sft=replace(base.sft, epochs=0),
        profile=replace(base.profile, samples=2, sampling=sampling),
        train=replace(
            base.train, steps=STEPS, rows=ROWS, pivots_per_row=1, samples=2, sampling=sampling,
            malformed_penalty=-1.0, sft_coef=0.1,
        ),
        evaluation=replace(base.evaluation, samples=1, ood_texts=1, ood_tokens=32),
    )  # fmt: skip
    run = Run(
        settings, tmp_path_factory.mktemp("mixed"), make_mesh(MeshSettings(), jax.devices()[:1])
    )
    with jax.set_mesh(run.mesh):
        execute(run)
    return run.workdir


def test_every_sample_has_the_criteria_of_its_domain(workdir: Path) -> None:
    candidates = pq.read_table(workdir / "candidates/candidates.parquet").to_pylist()
    domain_of = {row["candidate_id"]: row["domain"] for row in candidates}
    assert set(domain_of.values()) == set(DOMAINS)
    assert all(name.startswith(f"{domain}/") for name, domain in domain_of.items())
    databases = mixed.smoke().others["sql"].reward.databases
    names = {"terminal": verifier("command").criteria, "sql": verifier("sql", databases).criteria}
    samples = read_samples(workdir / "profile/train").to_pylist()
    judged = [sample for sample in samples if sample["error"] is None]
    assert {domain_of[sample["candidate_id"]] for sample in judged} == set(DOMAINS)
    for sample in judged:
        assert list(json.loads(sample["criteria"])) == list(
            names[domain_of[sample["candidate_id"]]]
        )


def test_steps_report_both_domains_and_take_them_by_weight(workdir: Path) -> None:
    lines = (workdir / "train/metrics.jsonl").read_text().splitlines()
    assert len(lines) == STEPS
    for line in map(json.loads, lines):
        assert {"reward_mean/terminal", "reward_mean/sql"} <= line.keys()
        assert (line["groups/terminal"], line["groups/sql"]) == (3, 1)
    audit = json.loads((workdir / "select/audit.json").read_text())
    assert set(audit["domain"]) == set(audit["settings"]) == set(DOMAINS)


def test_steps_tell_what_they_sampled_and_which_expert_turns_they_learnt(workdir: Path) -> None:
    candidates = pq.read_table(workdir / "candidates/candidates.parquet").to_pylist()
    lengths = [row["action_tokens"] for row in candidates if row["split"] == "train"]
    for line in map(json.loads, (workdir / "train/metrics.jsonl").read_text().splitlines()):
        assert line["rollout_turns"] == 2 * ROWS
        # A random model's samples all run into the cap.
        assert line["sampled_tokens"] == line["action_tokens"] == 48 * 2 * ROWS
        assert ROWS * min(lengths) <= line["expert_tokens"] <= ROWS * max(lengths)
        assert line["expert_tokens"] < line["prefill_tokens"] < 384 * ROWS
        assert 0 < line["sft_accuracy"] < 0.1 < 10 < line["sft_loss"] < 12
        # Every sample is malformed, and the penalty is the advantage of them all.
        assert line["loss"] == pytest.approx(1 + 0.1 * line["sft_loss"], abs=0.01)


def test_the_cost_of_a_run_adds_up(workdir: Path) -> None:
    found = figures(workdir)
    train = pq.read_table(workdir / "candidates/candidates.parquet").to_pylist()
    train = [row for row in train if row["split"] == "train"]
    samples = read_samples(workdir / "profile/train").to_pylist()
    steps = list(map(json.loads, (workdir / "train/metrics.jsonl").read_text().splitlines()))
    assert found["turns"] == {"profile": 2 * len(train), "training": STEPS * 2 * ROWS}
    assert found["tokens"] == {"profile": 48 * 2 * len(train), "training": STEPS * 48 * 2 * ROWS}
    # Two layers of 48 wide, with queries of 3 heads, and keys and values of one, of 16 each.
    body = 2 * (48 * 16 * (3 + 2) + 3 * 16 * 48 + 3 * 48 * 96 + 2 * 48)
    head = 49_152 * 48
    ends = {row["trunk"]: row["history_tokens"] + row["action_tokens"] for row in train}
    decoded = sum(row["length"] - row["drafted"] for row in samples)
    assert found["flops"]["profile"] == 2 * ((sum(ends.values()) + decoded) * body + decoded * head)
    updates = sum(
        8 * (step["row_tokens"] * body + step["action_tokens"] * head)
        + 6 * step["expert_tokens"] * head
        for step in steps
    )
    drawn = [step["sampled_tokens"] - step["drafted_tokens"] for step in steps]
    read = sum(step["prefill_tokens"] for step in steps)
    sampling = 2 * ((read + sum(drawn)) * body + sum(drawn) * head)
    assert found["flops"]["training"] == updates + sampling


def test_counts_and_rewards_stand_by_domain(workdir: Path) -> None:
    audit = json.loads((workdir / "candidates/audit.json").read_text())
    for key in ("turns", "candidates", "trunks", "flat_tokens"):
        assert sum(own[key] for own in audit["by_domain"].values()) == audit[key] > 0
    scores = json.loads((workdir / "evaluate/pivotrl.json").read_text())
    counts = [scores["domains"][name]["heldout"]["n_candidates"] for name in DOMAINS]
    assert sum(counts) == scores["heldout"]["n_candidates"] == audit["by_split"]["heldout"]
    assert min(counts) > 0
    assert [row["name"] for row in domain_rows(load(workdir))] == list(DOMAINS)
    assert {path.parent.name for path in workdir.glob("read/*/audit.json")} == set(DOMAINS)


def rows(domains: str) -> list[tuple[int, list[Turn]]]:
    named = {"a": "terminal", "b": "sql"}
    return [
        (i, [Turn(f"{i}", f"{i}", named[d], 0, i, 1, 2, Action())]) for i, d in enumerate(domains)
    ]


def test_a_domain_with_few_rows_gives_what_it_has() -> None:
    batches = _batches(rows("aaaaab"), {"terminal": 1.0, "sql": 2.0}, 4, seed=0)
    drawn = [set(next(batches).tolist()) for _ in range(12)]
    assert all(len(batch) >= 2 for batch in drawn)
    assert sum(5 in batch for batch in drawn) == 12
    assert set().union(*drawn) == set(range(6))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weight": -1.0}, "weight is -1.0"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"domain": "sql"}, "so is one of config.others"),
        ({"domain": "tool"}, "no domain can be named 'tool'"),
        ({"domain": "a/b"}, "no domain can be named 'a/b'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(mixed.smoke(), **changes)


def test_all_weights_of_zero_are_refused() -> None:
    with pytest.raises(UserError, match="every domain has weight 0"):
        replace(mixed.smoke(), weight=0.0, others={})


def test_what_two_domains_share_is_on_one_side(tmp_path: Path) -> None:
    base = mixed.smoke()
    two = {
        name: replace(base, domain=name, data=replace(base.data, limit=limit), others={})
        for name, limit in (("first", 40), ("second", 20))
    }
    settings = presets.mixed("twice", two)
    run = Run(settings, tmp_path, make_mesh(MeshSettings(), jax.devices()[:1]))
    turns = candidates_stage(run, read_stage(run)).turns
    sides = [
        {turn.trajectory_id.split("/", 1)[1] for turn in turns[part]}
        for part in ("train", "heldout")
    ]
    assert not sides[0] & sides[1]


def test_rejudge_takes_one_domain_of_several(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--workdir={workdir}", "--verifier=tool_name"]
    with pytest.raises(UserError, match="the domains terminal, sql; give one as --domain"):
        rejudge.main(arguments)
    rejudge.main([*arguments, "--domain=terminal"])
    assert "mixed candidates" in capsys.readouterr().out
    assert (workdir / "rejudge/terminal/tool_name.jsonl").exists()


def judged_anew(
    workdir: Path,
    tmp_path: Path,
    name: str = "profile/train",
    most: int | None = None,
    precision: Precision = "float32",
    **changes: Any,
) -> Run:
    """The run of `workdir` under `tool_name`, its training profile taken over as `name`."""
    stored = json.loads((workdir / "config.json").read_text())["config"]
    settings = from_config(Settings, stored)
    reward = replace(settings.reward, verifier="tool_name", recipe=SAME_TOOL)
    model = replace(settings.model, matmul_precision=precision)
    profile = replace(settings.profile, **{"samples_from": str(workdir), **changes})
    settings = replace(settings, reward=reward, profile=profile, model=model)
    run = Run(settings, tmp_path, make_mesh(MeshSettings(), jax.devices()[:1]))
    corpus = candidates_stage(run, read_stage(run))
    key, samples = key_of(run, PROFILE), settings.profile.samples
    turns = corpus.turns["train"][:most]
    with jax.set_mesh(run.mesh):
        profile_stage(run, corpus, run.base_params(), name, turns, key, samples)
    return run


def test_samples_of_another_run_are_judged_anew(workdir: Path, tmp_path: Path) -> None:
    run = judged_anew(workdir, tmp_path)
    before, after = (
        {(row["candidate_id"], row["sample"]): row for row in read_samples(path).to_pylist()}
        for path in (workdir / "profile/train", run.workdir / "profile/train")
    )
    assert before.keys() == after.keys()
    for place, row in after.items():
        for column in ("tokens", "text", "length", "drafted", "truncated", "logp", "malformed"):
            assert row[column] == before[place][column]
        if place[0].startswith("terminal/"):
            assert list(json.loads(row["criteria"])) == list(verifier("tool_name").criteria)
        else:
            assert row == before[place]


def test_a_profile_that_the_other_run_never_made_is_sampled(workdir: Path, tmp_path: Path) -> None:
    """As that of an arm that profiles again and takes its first samples from one that does not."""
    run = judged_anew(workdir, tmp_path, "profile/7/train", most=1)
    found = read_samples(run.workdir / "profile/7/train")
    assert len(found) == run.settings.profile.samples


def test_samples_drawn_otherwise_are_refused(workdir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="were drawn with another sampling; leave"):
        judged_anew(workdir, tmp_path, sampling=SamplingSettings(temperature=0.7, max_tokens=48))
    with pytest.raises(UserError, match="were drawn with another matmul_precision; leave"):
        judged_anew(workdir, tmp_path / "rounded", precision="bfloat16")
    with pytest.raises(UserError, match="holds no profile to take samples from"):
        judged_anew(workdir, tmp_path / "other", samples_from="nowhere")
