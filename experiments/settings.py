"""Every field of a run as frozen dataclasses."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

from pivotrl_jax.environments import Split
from pivotrl_jax.errors import UserError
from pivotrl_jax.evaluation import EvaluationSettings
from pivotrl_jax.models import ModelConfig, Remat
from pivotrl_jax.models.config import Precision
from pivotrl_jax.models.lora import LoraSettings
from pivotrl_jax.objectives import PolicySettings, Recipe
from pivotrl_jax.parallel import MeshSettings
from pivotrl_jax.pivots import (
    KINDS,
    Caps,
    OnlineSettings,
    ReprofileSettings,
    SelectionSettings,
    Truncated,
)
from pivotrl_jax.sampling import EngineSettings, SamplingSettings
from pivotrl_jax.training import EndToEndSettings, OptimizerSettings, TrainSettings
from pivotrl_jax.trajectories import SWE_TURN, TurnRule
from pivotrl_jax.verifiers.judge import EndpointSettings
from pivotrl_jax.verifiers.recipe import Conditions


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """`path` is a file, a directory or a glob; `limit` trajectories are read (None: all).

    Trajectories of one `split_by`, "task_id" or the name of a fact, are never split. `turns` says
    which assistant turns may be candidates.
    """

    path: str
    format: str = "auto"
    limit: int | None = None
    heldout_share: float = 0.2
    split_by: str = "task_id"
    turns: TurnRule = SWE_TURN


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """How trajectories become tokens; see `pivotrl_jax.text.render`.

    A turn is a candidate when history and action fit `trunk_tokens` and the expert's action fits
    the token cap of its rollouts. `thinking` is what a template that asks for `enable_thinking` is
    told (None: nothing).
    """

    action_format: str
    tool_role: Literal["tool", "user"]
    trunk_tokens: int
    clip_observation: int | None
    clip_task: int | None
    reasoning: Literal["keep", "drop"] = "drop"
    thinking: bool | None = None


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """`name` as `models.pretrained.resolve` takes it; `layers` keeps only the first of them, which
    makes a small model of real weights for trials of the machinery (None: all). `matmul_precision`
    as `models.ModelConfig` has it."""

    name: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    matmul_precision: Precision = "float32"
    layers: int | None = None

    def configured(self, cfg: ModelConfig) -> ModelConfig:
        """An architecture as these settings change it."""
        layers = cfg.layers if self.layers is None else min(self.layers, cfg.layers)
        return dataclasses.replace(cfg, layers=layers, matmul_precision=self.matmul_precision)


@dataclasses.dataclass(frozen=True)
class SftSettings:
    """Warm start on the training candidates' expert actions; 0 epochs: none."""

    epochs: int = 1
    rows: int = 4
    row_multiple: int = 512
    remat: Remat = "full"
    save_every: int = 10
    optimizer: OptimizerSettings = dataclasses.field(default_factory=OptimizerSettings)


@dataclasses.dataclass(frozen=True)
class ProfileSettings:
    """`samples` (K) actions per candidate.

    `samples_from` is the work directory of another run: what it sampled from the same policy at the
    same candidates is judged by this run's rewards instead of being drawn again.
    """

    samples: int = 16
    samples_from: str | None = None
    sampling: SamplingSettings = dataclasses.field(default_factory=SamplingSettings)


@dataclasses.dataclass(frozen=True)
class JudgeSettings:
    """An LLM that judges what the verifier's rules leave open; see `verifiers.tiered`.

    It is asked where neither every condition of `accept` nor any of `reject` holds. Its criterion
    is "judge", which the recipe must name to count it. Without a URL there is no judge; without a
    cache of its own the answers are kept in the work directory.
    """

    endpoint: EndpointSettings = dataclasses.field(
        default_factory=lambda: EndpointSettings(url="", model="")
    )
    disagreement: Literal["error", "not_equal"] = "error"
    accept: Conditions = ()
    reject: Conditions = ()


@dataclasses.dataclass(frozen=True)
class RewardSettings:
    """The verifier, the recipe over its criteria, and what a truncated sample is.

    With `updates`, training rewards what meets these conditions instead, while profiles and
    evaluation keep the recipe (an ablation). `databases` is where the verifier "sql" finds its
    databases, and "textworld" its games.
    """

    verifier: str
    recipe: Recipe
    truncated: Truncated = "exclude"
    judge: JudgeSettings = dataclasses.field(default_factory=JudgeSettings)
    updates: Conditions = ()
    databases: str | None = None


@dataclasses.dataclass(frozen=True)
class EnvironmentSettings:
    """Whole episodes that the policy plays itself; without a `name` there are none.

    `games` is the file of TextWorld games or of SQL questions. Policies are evaluated on `tasks` of
    a `split` (None: all): once greedily, and in `samples` sampled episodes of each, of at most
    `turns` actions; and while they train, after every so many steps (`every`), in one sampled
    episode. Text, token caps and databases are those of the run's first domain.
    """

    name: Literal["", "sql", "textworld"] = ""
    games: str = ""
    split: Split = "test"
    tasks: int | None = None
    samples: int = 4
    turns: int = 10
    every: int | None = None


@dataclasses.dataclass(frozen=True)
class SuiteSettings:
    """Out-of-domain questions: `questions` of each suite in `names`, answered greedily.

    A name is that of a file in `path` or of a procedural task (`evaluation.suites`).
    """

    names: tuple[str, ...] = ()
    questions: int = 50
    max_tokens: int = 64
    path: str = "experiments/data/ood/questions"


@dataclasses.dataclass(frozen=True)
class DomainSettings:
    """What is a domain's own: expert data, their text, rewards, and which turns are pivots.

    A training step takes rows (with the online curriculum: pivots) of several domains in proportion
    to their `weight`; one of weight 0 is profiled and evaluated, but not trained on.
    """

    data: DataSettings
    text: TextSettings
    reward: RewardSettings
    selection: SelectionSettings
    caps: Caps = dataclasses.field(default_factory=Caps)
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise UserError(f"weight is {self.weight}: give every domain 0 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(DomainSettings):
    """A run. Its own data, text, reward, ... are those of the domain `domain`; `others` has more
    domains by name.

    Without `train.steps` there is no profile; `end_to_end.steps` follow the training on pivots.
    With `lora.rank` every stage trains adapters only, and pi_0 of the KL term is those it starts
    with, on the same base.
    """

    name: str
    domain: str
    preset: str
    seed: int
    model: ModelSettings
    mesh: MeshSettings
    engine: EngineSettings
    sft: SftSettings
    profile: ProfileSettings
    objective: PolicySettings
    train: TrainSettings
    evaluation: EvaluationSettings
    others: Mapping[str, DomainSettings] = dataclasses.field(default_factory=dict)
    environment: EnvironmentSettings = dataclasses.field(default_factory=EnvironmentSettings)
    suites: SuiteSettings = dataclasses.field(default_factory=SuiteSettings)
    end_to_end: EndToEndSettings = dataclasses.field(
        default_factory=lambda: EndToEndSettings(steps=0)
    )
    lora: LoraSettings = dataclasses.field(default_factory=LoraSettings)
    online: OnlineSettings = dataclasses.field(default_factory=OnlineSettings)
    reprofile: ReprofileSettings = dataclasses.field(default_factory=ReprofileSettings)
    wandb_project: str | None = None  # mirrors the metrics there; None: local files only

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [self.domain, *self.others]
        if self.domain in self.others:
            raise UserError(f"config.domain is {self.domain!r}, and so is one of config.others")
        for name in names:
            if not name or "/" in name or name in KINDS:
                raise UserError(
                    f"no domain can be named {name!r}: the name is that of folders and metrics"
                )
        if not any(own.weight for own in self.domains.values()):
            raise UserError("every domain has weight 0; give one of them more")
        if self.end_to_end.steps and not self.environment.name:
            raise UserError(
                "config.end_to_end.steps needs an environment to play in; set "
                "config.environment.name, or the steps to 0"
            )

    @property
    def domains(self) -> dict[str, DomainSettings]:
        return {self.domain: self, **self.others}

    def path(self, domain: str) -> str:
        """Where the fields of a domain stand on the command line."""
        return "config" if domain == self.domain else f"config.others.{domain}"

    def require_whole_places(self, devices: int) -> None:
        """UserError where rows of any stage do not divide by the `devices` along mesh.context."""
        sizes = {
            "engine": self.engine.row_multiple,
            "sft": self.sft.row_multiple,
            "train": self.train.row_multiple,
            "end_to_end": self.end_to_end.row_multiple,
        }
        for name, size in sizes.items():
            if size % devices:
                raise UserError(
                    f"config.{name}.row_multiple={size} does not divide by the {devices} devices "
                    "along config.mesh.context, which share every row; change one of them"
                )
