"""PivotRL on interactive SQL: InterCode sessions, and a verifier that runs the commands.

    python -m experiments.run --config=experiments/sql.py            # :laptop
    python -m experiments.run --config=experiments/sql.py:smoke
    python -m experiments.run --config=experiments/sql.py:host
    python -m experiments.run --config=experiments/sql.py:pod
    python -m experiments.ablations --config=experiments/sql.py:study \
        --arms=base,sft,pivotrl,no_filter
    python -m experiments.ablations --config=experiments/sql.py:full --seeds=3

preset   hardware                    time        what comes out
smoke    2 CPU cores, 10 GiB         2 minutes   every stage once; figures mean nothing
laptop   2 CPU cores, 10 GiB         30 minutes  figures for schemas that were never trained on
study    2 CPU cores, 10 GiB         2 hours     four arms, and episodes on unseen databases:
                                                 docs/sql/study.md
full     one accelerator             not run yet all arms, all sessions, all episodes
host     one accelerator host        not run yet
pod      TPU pod or GPU hosts        not run yet
"""

import dataclasses
import gzip
import json
from pathlib import Path

import ml_collections
from jax.sharding import Mesh

from experiments import presets
from experiments.settings import (
    DataSettings,
    EnvironmentSettings,
    RewardSettings,
    Settings,
    SuiteSettings,
    TextSettings,
)
from experiments.studies.arms import ARMS, SFT_RATE, Study, arm
from pivotrl_jax.environments.sql import split_of
from pivotrl_jax.evaluation import EvaluationSettings
from pivotrl_jax.sampling import EngineSettings
from pivotrl_jax.training import EndToEndSettings
from pivotrl_jax.verifiers.recipe import Recipe
from pivotrl_jax.verifiers.recipes import SAME_RESULT

replace = dataclasses.replace
DATA = Path("experiments/data/sql")
SESSIONS, QUESTIONS, DATABASES = (
    DATA / name
    for name in (
        "intercode_sql_gpt4_success.jsonl.gz",
        "intercode_spider_dev_tasks.json.gz",
        "intercode_spider_sqlite.tar.gz",
    )
)
EXPERT = Path("runs/sql/expert.jsonl")  # the sessions about databases to train on


def laptop() -> Settings:
    """Whole sessions fit a row, long results are clipped."""
    return presets.laptop(
        "sql",
        DataSettings(path="experiments/data/sql/*.jsonl.gz", limit=120, split_by="db"),
        TextSettings(
            action_format="fenced_sql",
            tool_role="user",  # SmolLM2's template knows no role "tool"
            trunk_tokens=1024,
            clip_observation=96,
            clip_task=192,
        ),
        RewardSettings(
            verifier="sql",
            recipe=SAME_RESULT,
            databases=str(DATABASES),
        ),
    )


def smoke() -> Settings:
    """Any command of the expert's kind is right."""
    base = laptop()
    return presets.smoke(base, replace(base.data, limit=24), Recipe("same_kind", (("kind", 1.0),)))


def host() -> Settings:
    """Results to 2k tokens."""
    text = TextSettings(
        action_format="hermes",
        tool_role="tool",
        trunk_tokens=8_192,
        clip_observation=2_048,
        clip_task=None,
    )
    return presets.host(laptop(), text)


def pod() -> Settings:
    """Nothing clipped."""
    base = host()
    text = replace(base.text, trunk_tokens=16_384, clip_observation=None, reasoning="keep")
    return presets.pod(base, text)


def study() -> Settings:
    """The arm "PivotRL", with sizes that four arms take two hours of two cores for.

    The policy as published has no mixed turn at all, so that one epoch of SFT comes before every
    profile. 200 sessions, actions of 64 tokens and dialogues of 768 are what the time allows; 20
    updates take 160 pivots, about as many as there are. Held-out turns are about databases that are
    trained on, episodes about others. Of the question sets SVAMP and GSM8K are left out, of which
    the policy as published answers nothing.
    """
    base = laptop()
    sampling = replace(base.profile.sampling, max_tokens=64)
    return replace(
        base,
        preset="study",
        # As docs/sql/study.md has it.
        model=replace(base.model, matmul_precision="float32"),
        data=DataSettings(path=str(EXPERT), limit=200, heldout_share=0.1),
        text=replace(base.text, trunk_tokens=768),
        engine=EngineSettings(rows=24, slots=192, row_multiple=256),
        sft=replace(base.sft, epochs=1, save_every=50, remat="dots"),
        profile=replace(base.profile, samples=8, sampling=sampling),
        train=replace(
            base.train,
            steps=20,
            rows=4,
            pivots_per_row=2,
            save_every=20,
            remat="dots",
            sampling=sampling,
            optimizer=replace(base.train.optimizer, warmup_steps=2),
        ),
        evaluation=EvaluationSettings(samples=1, ood_texts=4, ood_tokens=128),
        environment=EnvironmentSettings(
            name="sql", games=str(QUESTIONS), tasks=32, samples=1, turns=6
        ),
        suites=SuiteSettings(names=("ifeval", "mmlu"), questions=32, max_tokens=128),
    )


def full() -> Settings:
    """The study where an accelerator is at hand: sizes that nothing but its time limits."""
    base = study()
    return replace(
        base,
        preset="full",
        data=replace(base.data, limit=None),
        engine=EngineSettings(rows=64, slots=512, row_multiple=256),
        profile=replace(base.profile, samples=16),
        train=replace(base.train, steps=60, rows=16, samples=16),
        evaluation=replace(base.evaluation, samples=4, ood_texts=None),
        environment=replace(base.environment, tasks=None, samples=2),
        suites=SuiteSettings(names=("ifeval", "mmlu", "gsm8k", "svamp"), questions=200),
        end_to_end=EndToEndSettings(
            tasks=8, samples=8, unfinished="score", row_multiple=256, save_every=20,
            optimizer=base.train.optimizer, sampling=base.train.sampling,
        ),
    )  # fmt: skip


def prepare(mesh: Mesh, settings: Settings) -> None:
    """Writes the sessions about databases to train on, unless they are there."""
    if EXPERT.exists():
        return
    with gzip.open(SESSIONS, "rt", encoding="utf-8") as lines:
        kept = [line for line in lines if split_of(json.loads(line)["db"]) == "train"]
    EXPERT.parent.mkdir(parents=True, exist_ok=True)
    partial = EXPERT.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(EXPERT)


PRESETS = {
    "laptop": laptop,
    "smoke": smoke,
    "host": host,
    "pod": pod,
    "study": study,
    "full": full,
}


def get_config(preset: str = "laptop") -> ml_collections.ConfigDict:
    return presets.config_of(PRESETS, preset)


STUDY = Study(
    prepare,
    (
        arm("base", "Base", tuned=None, sft__epochs=0, train__steps=0),
        # To take about as long as one epoch, a profile and updates do in the arms below.
        arm("sft", "SFT", tuned=SFT_RATE, sft__epochs=4, train__steps=0),
        *(own for own in ARMS if own.name not in ("base", "sft", "after_sft")),
    ),
)
