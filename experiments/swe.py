"""PivotRL on software-engineering agents: mini-swe-agent and SWE-agent trajectories.

    python -m experiments.run --config=experiments/swe.py            # :laptop
    python -m experiments.run --config=experiments/swe.py:smoke
    python -m experiments.run --config=experiments/swe.py:host --config.data.path=DIR
    python -m experiments.run --config=experiments/swe.py:pod --config.data.path=DIR

preset   hardware                    time        what comes out
smoke    2 CPU cores, 8 GiB          2 minutes   every stage once; figures mean nothing
laptop   2 CPU cores, 8 GiB          25 minutes  the table in README.md
host     one accelerator host        not run yet
pod      TPU pod or GPU hosts        not run yet (mixture of experts is still to come)
"""

import dataclasses

import ml_collections

from experiments.settings import (
    DataSettings,
    ModelSettings,
    ProfileSettings,
    RewardSettings,
    Settings,
    SftSettings,
    TextSettings,
    to_config,
)
from pivotrl_jax.evaluation import EvaluationSettings
from pivotrl_jax.objectives import PolicySettings, Recipe
from pivotrl_jax.parallel import MeshSettings
from pivotrl_jax.pivots import SelectionSettings
from pivotrl_jax.sampling import EngineSettings, SamplingSettings
from pivotrl_jax.training import OptimizerSettings, TrainSettings
from pivotrl_jax.verifiers.recipes import SAME_TARGET, SAME_TOOL

replace = dataclasses.replace


def laptop() -> Settings:
    """SmolLM2-135M on 2 cores; observations are clipped so that several turns fit a short trunk."""
    sampling = SamplingSettings(temperature=1.0, max_tokens=96)
    return Settings(
        name="swe",
        preset="laptop",
        seed=0,
        data=DataSettings(path="experiments/data/swe", limit=48),
        text=TextSettings(
            action_format="fenced_bash",
            tool_role="user",  # SmolLM2's template knows no role "tool"
            trunk_tokens=1024,
            clip_observation=48,
            clip_task=192,
        ),
        model=ModelSettings(name="SmolLM2-135M-Instruct"),
        mesh=MeshSettings(),
        engine=EngineSettings(rows=8, slots=128),
        reward=RewardSettings(verifier="command", recipe=SAME_TARGET),
        sft=SftSettings(
            rows=2,
            row_multiple=256,
            optimizer=OptimizerSettings(
                learning_rate=3e-4, warmup_steps=3, schedule="cosine", weight_decay=0.01
            ),
        ),
        profile=ProfileSettings(samples=8, sampling=sampling),
        selection=SelectionSettings(threshold=0.6),
        objective=PolicySettings(kl_coef=0.001),
        train=TrainSettings(
            steps=8,
            rows=2,
            pivots_per_row=3,
            samples=8,
            optimizer=OptimizerSettings(learning_rate=2e-5, warmup_steps=1),
            sampling=sampling,
        ),
        evaluation=EvaluationSettings(samples=4, ood_texts=24, ood_tokens=256),
    )


def smoke() -> Settings:
    """A few trajectories, a few steps: does every stage work?"""
    base = laptop()
    sampling = replace(base.profile.sampling, max_tokens=48)
    return replace(
        base,
        preset="smoke",
        data=replace(base.data, path="experiments/data/swe/swebench*", limit=8),
        text=replace(base.text, trunk_tokens=512, clip_observation=32, clip_task=96),
        # Any command with the expert's program: a policy of a few steps needs the lower bar.
        reward=replace(base.reward, recipe=Recipe("same_program", (("program", 1.0),))),
        sft=replace(base.sft, rows=1),
        engine=EngineSettings(rows=4, slots=16),
        profile=ProfileSettings(samples=4, sampling=sampling),
        selection=SelectionSettings(threshold=1.0),
        train=replace(base.train, steps=2, rows=1, samples=4, row_multiple=256, sampling=sampling),
        evaluation=replace(base.evaluation, samples=2, ood_texts=4, ood_tokens=128),
    )


def host() -> Settings:
    """One accelerator host with Qwen3-1.7B: observations to 8k tokens, trunks to 16k."""
    base = laptop()
    sampling = SamplingSettings(temperature=1.0, max_tokens=1024)
    return replace(
        base,
        preset="host",
        data=replace(base.data, limit=None),
        text=TextSettings(
            action_format="hermes",
            tool_role="tool",
            trunk_tokens=16_384,
            clip_observation=8_192,
            clip_task=8_192,
        ),
        model=ModelSettings(name="hub:Qwen/Qwen3-1.7B", dtype="bfloat16"),
        sft=replace(base.sft, rows=8, row_multiple=2048),
        engine=EngineSettings(rows=16, slots=256, chunk=64, row_multiple=2048),
        profile=ProfileSettings(samples=16, sampling=sampling),
        train=replace(
            base.train,
            steps=130,
            rows=16,
            samples=16,
            row_multiple=2048,
            optimizer=OptimizerSettings(learning_rate=1e-6),
            sampling=sampling,
        ),
        evaluation=EvaluationSettings(samples=8),
    )


def pod() -> Settings:
    """The paper's: Qwen3-30B-A3B-Thinking-2507, 64 pivots x 16 samples, nothing clipped."""
    base = host()
    sampling = SamplingSettings(temperature=1.0, max_tokens=8_192)
    return replace(
        base,
        preset="pod",
        text=replace(
            base.text, trunk_tokens=32_768, clip_observation=None, clip_task=None, reasoning="keep"
        ),
        model=ModelSettings(name="hub:Qwen/Qwen3-30B-A3B-Thinking-2507", dtype="bfloat16"),
        reward=RewardSettings(verifier="tool_name", recipe=SAME_TOOL),
        sft=replace(base.sft, epochs=0),
        engine=EngineSettings(rows=64, slots=1024, chunk=128, row_multiple=4096),
        profile=ProfileSettings(samples=16, sampling=sampling),
        train=replace(base.train, rows=64, pivots_per_row=1, row_multiple=4096, sampling=sampling),
    )


PRESETS = {"laptop": laptop, "smoke": smoke, "host": host, "pod": pod}


def get_config(preset: str = "laptop") -> ml_collections.ConfigDict:
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}; use one of {', '.join(PRESETS)}")
    return to_config(PRESETS[preset]())
