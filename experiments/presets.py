"""What every experiment's presets have in common: the hardware, the model and the batch."""

import dataclasses
from collections.abc import Callable, Mapping

import ml_collections

from experiments.config import to_config
from experiments.settings import (
    DataSettings,
    DomainSettings,
    ModelSettings,
    ProfileSettings,
    RewardSettings,
    Settings,
    SftSettings,
    TextSettings,
)
from pivotrl_jax.evaluation import EvaluationSettings
from pivotrl_jax.objectives import PolicySettings
from pivotrl_jax.parallel import MeshSettings
from pivotrl_jax.pivots import SelectionSettings
from pivotrl_jax.sampling import EngineSettings, SamplingSettings
from pivotrl_jax.training import OptimizerSettings, TrainSettings
from pivotrl_jax.verifiers.recipe import Recipe

replace = dataclasses.replace


def laptop(name: str, data: DataSettings, text: TextSettings, reward: RewardSettings) -> Settings:
    """SmolLM2-135M on 2 cores, actions of up to 96 tokens.

    Backward passes make matrix products again: at bfloat16 that takes less time than to keep them,
    and two gigabytes less. At float32 `remat="dots"` is the faster one.
    """
    sampling = SamplingSettings(temperature=1.0, max_tokens=96)
    return Settings(
        name=name,
        domain=name,
        preset="laptop",
        seed=0,
        data=data,
        text=text,
        # Up to twice as fast where a CPU has matrix units for bfloat16; float32 is more exact.
        model=ModelSettings(name="SmolLM2-135M-Instruct", matmul_precision="bfloat16"),
        mesh=MeshSettings(),
        # On a CPU a slot costs its arithmetic whether its sample goes on or has ended, so that a
        # lone trunk does better with few of them that are refilled.
        engine=EngineSettings(rows=12, slots=128, most=32),
        reward=reward,
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
            row_multiple=1024,
            optimizer=OptimizerSettings(learning_rate=2e-5, warmup_steps=1),
            sampling=sampling,
        ),
        evaluation=EvaluationSettings(samples=2, ood_texts=16, ood_tokens=256),
    )


def smoke(base: Settings, data: DataSettings, recipe: Recipe) -> Settings:
    """A few trajectories, a few steps: does every stage work?

    `recipe` is one that a policy of a few steps passes at times.
    """
    sampling = replace(base.profile.sampling, max_tokens=48)
    return replace(
        base,
        preset="smoke",
        data=data,
        text=replace(base.text, trunk_tokens=512, clip_observation=32, clip_task=96),
        reward=replace(base.reward, recipe=recipe),
        sft=replace(base.sft, rows=1),
        engine=EngineSettings(rows=4, slots=16),
        profile=ProfileSettings(samples=4, sampling=sampling),
        selection=SelectionSettings(threshold=1.0),
        train=replace(base.train, steps=2, rows=1, samples=4, row_multiple=256, sampling=sampling),
        evaluation=replace(base.evaluation, samples=2, ood_texts=4, ood_tokens=128),
    )


def host(base: Settings, text: TextSettings) -> Settings:
    """Qwen3-1.7B on one accelerator host, all trajectories, actions of up to 1,024 tokens."""
    sampling = SamplingSettings(temperature=1.0, max_tokens=1024)
    return replace(
        base,
        preset="host",
        data=replace(base.data, limit=None),
        text=text,
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


def pod(base: Settings, text: TextSettings) -> Settings:
    """The paper's model and batch: Qwen3-30B-A3B-Thinking-2507, 64 pivots x 16 samples."""
    sampling = SamplingSettings(temperature=1.0, max_tokens=8_192)
    return replace(
        base,
        preset="pod",
        text=text,
        model=ModelSettings(name="hub:Qwen/Qwen3-30B-A3B-Thinking-2507", dtype="bfloat16"),
        sft=replace(base.sft, epochs=0),
        engine=EngineSettings(rows=64, slots=1024, chunk=128, row_multiple=4096),
        profile=ProfileSettings(samples=16, sampling=sampling),
        train=replace(base.train, rows=64, pivots_per_row=1, row_multiple=4096, sampling=sampling),
    )


def mixed(name: str, runs: Mapping[str, Settings]) -> Settings:
    """One run on the domains of several; all that is not a domain's own is that of the first."""
    fields = [field.name for field in dataclasses.fields(DomainSettings)]
    others = {
        domain: DomainSettings(**{field: getattr(run, field) for field in fields})
        for domain, run in list(runs.items())[1:]
    }
    return replace(next(iter(runs.values())), name=name, others=others)


def config_of(
    presets: Mapping[str, Callable[[], Settings]], preset: str
) -> ml_collections.ConfigDict:
    """The named preset as a configuration. Raises ValueError for one that is not there."""
    if preset not in presets:
        raise ValueError(f"no preset {preset!r}; use one of {', '.join(presets)}")
    return to_config(presets[preset]())
