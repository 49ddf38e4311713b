"""Two domains in one run, end to end: each is read, judged, drawn and reported as its own."""

import dataclasses
import json
from pathlib import Path

import jax
import pyarrow.parquet as pq
import pytest

from experiments import mixed
from experiments.context import Run
from experiments.report_data import load
from experiments.report_domains import domain_rows
from experiments.run import execute
from experiments.settings import DomainSettings, ModelSettings
from pivotrl_jax.parallel import MeshSettings, make_mesh
from pivotrl_jax.pivots import SelectionSettings, read_samples
from pivotrl_jax.sampling import EngineSettings, SamplingSettings
from pivotrl_jax.verifiers import verifier

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
            malformed_penalty=-1.0,
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
    audit = json.loads((workdir / "select/audit.json").read_text())
    assert set(audit["domain"]) == set(audit["settings"]) == set(DOMAINS)


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
