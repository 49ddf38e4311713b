"""What every stage of a run needs, resolved once from the settings."""

import dataclasses
import json
import math
import os
import shlex
import sys
from collections.abc import Mapping
from functools import cached_property, partial, reduce
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

from experiments.artifacts import added, differences, write_json
from experiments.domains import Domain
from experiments.flops import multiplied
from experiments.settings import Settings, SftSettings
from experiments.versions import versions
from pivotrl_jax.environments import Environment, InterCodeSql, TextWorldGames
from pivotrl_jax.errors import UserError
from pivotrl_jax.models import ModelConfig, Params, logical_axes, peft, shapes
from pivotrl_jax.models.lora import adapter_axes, adapter_shapes, attach, init_adapters
from pivotrl_jax.models.pretrained import Pretrained, default_cache, resolve
from pivotrl_jax.parallel import (
    VARIABLES,
    from_first,
    gather,
    make_mesh,
    require_shared,
    shardings,
)
from pivotrl_jax.pivots import Judging, Truncated
from pivotrl_jax.text import Tokenizer
from pivotrl_jax.training import (
    EndToEndSettings,
    TraceSteps,
    TrainSettings,
    Watch,
    require_experts,
)

# Streams of the run's random key.
PROFILE, EVALUATE, TRAIN, END_TO_END, ADAPTERS = 1, 2, 3, 4, 5

Stage = TypeVar("Stage", SftSettings, TrainSettings, EndToEndSettings)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's settings, work directory and devices, and the steps to trace; models and domains are
    made on first use."""

    settings: Settings
    workdir: Path
    mesh: Mesh
    trace: TraceSteps | None = None

    @cached_property
    def watch(self) -> Watch:
        return Watch()

    @cached_property
    def pretrained(self) -> Pretrained:
        return resolve(self.settings.model.name, dtype=self.settings.model.dtype)

    @cached_property
    def cfg(self) -> ModelConfig:
        return self.settings.model.configured(self.pretrained.cfg)

    @cached_property
    def shardings(self) -> Params:
        return shardings(shapes(self.cfg), logical_axes(self.cfg), self.mesh)

    def base_params(self) -> Params:
        """The policy as published, born sharded; cut to the configured number of layers."""
        full = self.pretrained.cfg
        params = self.pretrained.load(shardings(shapes(full), logical_axes(full), self.mesh))
        if self.cfg.layers == full.layers:
            return params
        cut = partial(jax.tree.map, lambda leaf: leaf[: self.cfg.layers])
        return dataclasses.replace(params, layers=cut(params.layers))

    def with_adapters(self, base: Params) -> Params:
        """The policy that training starts from: `base`, with adapters where the settings ask."""
        lora = self.settings.lora
        if not lora.rank:
            return base
        layout = shardings(adapter_shapes(self.cfg, lora), adapter_axes(self.cfg, lora), self.mesh)
        if lora.start is not None:
            return attach(base, peft.load(Path(lora.start), self.cfg, lora, layout))
        born = jax.jit(init_adapters, static_argnums=(1, 2), out_shardings=layout)
        return attach(base, born(key_of(self, ADAPTERS), self.cfg, lora))

    def training(self, stage: Stage) -> Stage:
        """The settings of a stage, with the learning rate of what this run trains.

        The base of adapters is frozen as a whole, so that no leaf of it has to be.
        """
        lora = self.settings.lora
        if not lora.rank:
            return stage
        rate = lora.rate * stage.optimizer.learning_rate
        own = dataclasses.replace(stage.optimizer, learning_rate=rate, frozen=())
        return dataclasses.replace(stage, optimizer=own)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.pretrained.tokenizer

    @cached_property
    def domains(self) -> dict[str, Domain]:
        cache = self.workdir / "judge" / "cache"
        return {
            name: Domain(own, self.tokenizer, cache) for name, own in self.settings.domains.items()
        }

    @cached_property
    def judge_stats_before(self) -> dict[str, Any]:
        """What the judges were asked in earlier attempts at this run."""
        return from_first(partial(_json, self.workdir / "judge" / "stats.json")) or {}

    def judging(self, truncated: Truncated | None = None) -> Judging:
        """`truncated` overrides what the settings of the domains say of such samples."""
        return Judging(
            self.tokenizer, {name: own.grading(truncated) for name, own in self.domains.items()}
        )

    def update_judging(self) -> Judging:
        """That of training updates."""
        return Judging(
            self.tokenizer, {name: own.update_grading() for name, own in self.domains.items()}
        )

    @cached_property
    def environment(self) -> Environment:
        """UserError where the settings name none."""
        settings, reward = self.settings.environment, self.settings.reward
        if settings.name == "sql":
            return InterCodeSql.load(settings.games, reward.databases or "")
        if settings.name == "textworld":
            return TextWorldGames(settings.games)
        raise UserError("config.environment.name is empty; set it to sql or textworld")


def use_compilation_cache() -> None:
    """Programs that were compiled once are read from disk, on every platform; on GPUs, what XLA
    tuned for them lies beside them. Variables of the environment (JAX_COMPILATION_CACHE_DIR, ...)
    come first."""
    own = {
        "jax_compilation_cache_dir": str(default_cache() / "compiled"),
        # Below a second, JAX's default: of 48 programs of a small run ten take 0.3 to 1 s.
        "jax_persistent_cache_min_compile_time_secs": 0.3,
    }
    for name, value in own.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def compiler_flags() -> dict[str, str]:
    """What the environment tells the compilers."""
    return {name: os.environ[name] for name in sorted({*VARIABLES.values()}) if name in os.environ}


def key_of(run: Run, stream: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(run.settings.seed), stream)


def open_run(settings: Settings, workdir: Path, trace: TraceSteps | None = None) -> Run:
    """Creates or reopens a work directory; UserError if it belongs to another configuration.

    Of several processes, all must see it and have the same configuration, or UserError.
    """
    require_shared(workdir)
    _require_alike(settings)
    run = Run(settings, workdir, make_mesh(settings.mesh), trace)
    settings.require_whole_places(run.mesh.shape["context"])
    # A misspelt name fails now, not after hours of sampling.
    run.judging()
    run.update_judging()
    if settings.train.replay_routes:
        require_experts(run.cfg)
    for domain in run.domains.values():
        if domain.judge is not None:
            domain.judge.check()
    path = workdir / "config.json"
    claimed = from_first(partial(_json, path))
    if claimed is not None:
        changed = differences(with_defaults(claimed["config"], settings), as_json(settings))
        if changed:
            raise UserError(
                f"{path} was made with other settings ({'; '.join(changed)}); choose another "
                "--workdir, or delete this one to start over"
            )
    return run


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _require_alike(settings: Settings) -> None:
    """Raises UserError where process 0 of the run has other settings."""
    changed = differences(from_first(partial(as_json, settings)), as_json(settings))
    if changed:
        raise UserError(
            f"process {jax.process_index()} was started with other settings than process 0 "
            f"({'; '.join(changed)}); give all hosts the same command"
        )


def as_json(settings: Any) -> dict[str, Any]:
    """As it reads back from a file: tuples are lists."""
    return json.loads(json.dumps(settings, default=dataclasses.asdict))


def with_defaults(old: Mapping[str, Any], settings: Any) -> dict[str, Any]:
    """What a file holds, with the defaults of fields that there were not when it was written, so
    that a newer version goes on with an older one's work."""
    filled = dict(old)
    for field in dataclasses.fields(settings):
        own, value = old.get(field.name), getattr(settings, field.name)
        if isinstance(own, Mapping) and dataclasses.is_dataclass(value):
            filled[field.name] = with_defaults(own, value)
        elif field.name not in old and field.default_factory is not dataclasses.MISSING:
            filled[field.name] = field.default_factory()
        elif field.name not in old and field.default is not dataclasses.MISSING:
            filled[field.name] = field.default
    return as_json(filled)


def claim(run: Run) -> None:
    """Makes the work directory that of this configuration, for good."""
    path = run.workdir / "config.json"
    if not from_first(path.exists):
        write_json(path, provenance(run))


def provenance(run: Run) -> dict[str, Any]:
    settings = run.settings
    return {
        "preset": settings.preset,
        "config": as_json(settings),
        "seed": settings.seed,
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(run.cfg))),
        "multiplied": multiplied(run.cfg),
        "versions": versions(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cpu_count": os.cpu_count(),
        "compiler_flags": compiler_flags(),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
    }


def write_judge_stats(run: Run) -> None:
    """How often each domain's judge was asked, what failed and what it cost.

    Other processes' questions and those of resumed runs are added.
    """
    before = run.judge_stats_before
    asked = {name: own.judge for name, own in run.domains.items() if own.judge is not None}
    if asked:
        stats = {
            name: reduce(
                added, gather(dataclasses.asdict(own.client.stats())), before.get(name, {})
            )
            for name, own in asked.items()
        }
        write_json(run.workdir / "judge" / "stats.json", stats)
