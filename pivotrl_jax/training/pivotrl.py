"""One PivotRL step: sample at the pivots, verify, turn verdicts into advantages, update."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, PRNGKeyArray

from kernels.grpo import AdvantageSettings
from pivotrl_jax.errors import UserError
from pivotrl_jax.models import ModelConfig, Params, Remat
from pivotrl_jax.models.lora import Trained, policy_of
from pivotrl_jax.objectives import GroupStats, Normalisation, group_statistics
from pivotrl_jax.parallel import fetch, put_whole, row_shards
from pivotrl_jax.pivots import (
    Checked,
    Judged,
    Judging,
    Rollouts,
    Row,
    Turn,
    joined,
    kind,
    reward,
    rollouts,
    verify,
)
from pivotrl_jax.sampling import EngineSettings, Sample, SamplingSettings
from pivotrl_jax.training.batches import policy_batch
from pivotrl_jax.training.optimizer import OptimizerSettings
from pivotrl_jax.training.state import TrainState
from pivotrl_jax.training.update import Metrics, PolicyBatch
from pivotrl_jax.training.watch import Watch


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """`rows` trees a step, each with up to `pivots_per_row` pivots of one trajectory and `samples`
    (G) actions per pivot.

    `malformed_penalty` replaces the advantage of unparsable actions (None: off). `curriculum` says
    which pivots a step takes: each once an epoch, or, "online", those whose samples so far promise
    mixed outcomes (`pivots.online`). `sft_coef` weighs the supervised loss of the experts' actions
    at a step's pivots, a mean over their tokens, against the objective; their other turns stay out,
    so that nothing is learnt from that has not been selected. With `overlap` a step is sampled
    before the update of the one before it, see `training.ahead`.

    With `replay_routes` the experts that sampled tokens went through are recorded, and their tokens
    go through the same ones in the update, whatever the router would choose there. The metric
    `experts/changed_routes` is the share of pairs of a layer and such a token for which it would
    choose others.
    """

    steps: int = 100
    rows: int = 16
    pivots_per_row: int = 4
    samples: int = 16
    row_multiple: int = 512
    remat: Remat = "full"
    normalisation: Normalisation = "std"
    std_epsilon: float = 1e-6
    min_valid: int = 2
    malformed_penalty: float | None = None
    curriculum: Literal["epochs", "online"] = "epochs"
    sft_coef: float = 0.0
    overlap: bool = False
    replay_routes: bool = False
    save_every: int = 5
    optimizer: OptimizerSettings = dataclasses.field(default_factory=OptimizerSettings)
    sampling: SamplingSettings = dataclasses.field(default_factory=SamplingSettings)

    @property
    def advantage(self) -> AdvantageSettings:
        return AdvantageSettings(
            self.normalisation, self.std_epsilon, self.min_valid, self.malformed_penalty
        )

    def __post_init__(self) -> None:
        require_untruncated(self.sampling, "train")


def require_experts(cfg: ModelConfig) -> None:
    """Raises UserError for a model without routes that could be replayed."""
    if cfg.experts is None:
        raise UserError(
            f"train.replay_routes needs a model with experts, and {cfg.name} has none; set it to "
            "False"
        )


def require_untruncated(sampling: SamplingSettings, path: str) -> None:
    """Raises UserError for settings of `path` under which the ratio of eq. 7 is another one."""
    if sampling.top_k or sampling.top_p < 1:
        raise UserError(
            f"{path}.sampling must not truncate: with top_k or top_p the importance ratio of "
            "eq. 7 is not that of the sampled distribution; set top_k=0 and top_p=1"
        )


Update = Callable[[TrainState, Trained | None, PolicyBatch], tuple[TrainState, Metrics]]
# Turns with the rewards of their samples and which of these count, to numbers for the metrics.
Observe = Callable[[Sequence[Turn], np.ndarray, np.ndarray], Mapping[str, float]]


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """A step's samples, in the order of its rows, and their verdicts, which a thread makes."""

    indices: np.ndarray
    rows: Sequence[Row]
    rollout: Rollouts
    verdicts: Sequence[Future[list[list[Checked]]]]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PivotStep:
    """The step that `training.loop.run_steps` runs: indices, which `rows_of` turns to rows, to
    metrics.

    `update` takes batches of plain rows; `observe` is told the rewards of each turn's samples and
    adds to the metrics. `base` is what adapters in training are of. The draws of step n use
    `fold_in(key, n)`, so that a resumed run draws the same samples. `thread` verifies the samples
    of a row while the next rows are decoded; how long the step waits for the last verdicts is the
    metric `seconds_verdicts_waited`, a part of `seconds_sampling`. Every call of the devices is
    under `watch`: until the update begins, it may abandon the step.
    """

    cfg: ModelConfig
    rows_of: Callable[[np.ndarray], Sequence[Row]]
    trunks: Sequence[np.ndarray]
    reference: Trained | None
    update: Update
    judging: Judging
    settings: TrainSettings
    engine: EngineSettings
    learning_rates: Sequence[float]
    key: PRNGKeyArray
    mesh: Mesh
    thread: Executor
    observe: Observe = lambda turns, rewards_PK, valid_PK: {}
    watch: Watch = dataclasses.field(default_factory=Watch)
    base: Params | None = None

    def __post_init__(self) -> None:
        if self.settings.replay_routes:
            require_experts(self.cfg)

    def __call__(
        self, state: TrainState, indices: np.ndarray, number: int
    ) -> tuple[TrainState, Mapping[str, float]]:
        began = time.monotonic()
        return self.learn(state, self.draw(state.params, indices, number), number, began)

    def draw(self, trained: Trained, indices: np.ndarray, number: int) -> Drawn:
        """The samples of step `number` from the policy of these parameters."""
        rows, settings = self.rows_of(indices), self.settings
        # One shape for all steps, also those whose trajectories have fewer pivots.
        most = settings.pivots_per_row * settings.samples
        parts = rollouts(
            policy_of(trained, self.base),
            self.cfg,
            rows,
            self.trunks,
            settings.samples,
            jax.random.fold_in(self.key, put_whole(np.uint32(number))),
            self.judging.tokenizer,
            settings.sampling,
            dataclasses.replace(self.engine, most=most),
            self.mesh,
            routes=settings.replay_routes,
            device=self.watch,
        )
        # Rows come in the order in which they end.
        with jax.profiler.TraceAnnotation("sample"):
            found = {part.turns[0].id: (part, self._verify(part)) for part in parts}
        ordered, verdicts = zip(*(found[own[0].id] for _, own in rows), strict=True)
        return Drawn(indices, rows, joined(ordered), verdicts)

    def recall(self, indices: np.ndarray, samples: Sequence[Sequence[Sample]]) -> Drawn:
        """Samples that `draw` gave; their verdicts are made again."""
        rows = self.rows_of(indices)
        rollout = Rollouts([turn for _, own in rows for turn in own], samples)
        return Drawn(indices, rows, rollout, [self._verify(rollout)])

    def _verify(self, part: Rollouts) -> Future[list[list[Checked]]]:
        return self.thread.submit(verify, part, self.judging)

    def learn(
        self, state: TrainState, drawn: Drawn, number: int, began: float
    ) -> tuple[TrainState, Mapping[str, float]]:
        """The update of step `number`, which began at `began` (`time.monotonic()`)."""
        self.watch.check()
        settings, rollout, asked = self.settings, drawn.rollout, time.monotonic()
        checked = [own for verdicts in drawn.verdicts for own in verdicts.result()]
        waited = time.monotonic() - asked
        judged = reward(rollout, checked, self.judging)
        sampled = time.monotonic()
        batch = policy_batch(
            drawn.rows,
            self.trunks,
            rollout,
            judged.rewards_PK,
            judged.valid_PK,
            judged.malformed_PK,
            pivots=settings.pivots_per_row,
            multiple=settings.row_multiple,
            shards=row_shards(self.mesh),
            experts=settings.sft_coef != 0,
        )
        with self.watch("update"):
            state, metrics = self.update(state, self.reference, batch)
            scalars = {name: float(value) for name, value in fetch(metrics).items()}
        scalars |= group_metrics(judged, rollout)
        scalars |= self.observe(rollout.turns, judged.rewards_PK, judged.valid_PK)
        return state, scalars | {
            "prefill_tokens": sum(max(turn.end for turn in part) for _, part in drawn.rows),
            "lr": self.learning_rates[number],
            "seconds_verdicts_waited": waited,
            **times(began, sampled, _tokens(rollout)),
        }


def times(began: float, sampled: float, tokens: int) -> dict[str, float]:
    """Durations up to now of a step that has its samples, so many tokens, since `sampled`."""
    now = time.monotonic()
    return {
        "seconds_sampling": sampled - began,
        "seconds_update": now - sampled,
        "tokens_per_second": tokens / (now - began),
    }


def _tokens(rollout: Rollouts) -> int:
    return sum(len(sample.tokens) for group in rollout.samples for sample in group)


def group_metrics(judged: Judged, rollout: Rollouts) -> dict[str, float]:
    """Reward statistics of one batch, and what it sampled; samples without a verdict count in no
    mean."""
    stats = statistics_of(judged.rewards_PK, judged.valid_PK)
    drawn = [sample for group in rollout.samples for sample in group]
    return {
        "rollout_turns": len(drawn),
        "sampled_tokens": _tokens(rollout),
        "action_length": _tokens(rollout) / len(drawn),
        "drafted_tokens": sum(sample.drafted for sample in drawn),
        **reward_metrics(judged.rewards_PK, judged.valid_PK, stats),
        "malformed_share": float(judged.malformed_PK.mean()),
        "truncated_share": float(np.mean([sample.truncated for sample in drawn])),
        "error_share": float(np.mean([e is not None for row in judged.errors for e in row])),
        **_by_label(judged, stats, [kind(turn.expert) for turn in rollout.turns]),
        **_by_label(judged, stats, [turn.domain for turn in rollout.turns]),
    }


def statistics_of(
    rewards_PK: Float[np.ndarray, "P K"], valid_PK: Bool[np.ndarray, "P K"]
) -> GroupStats:
    """`group_statistics` of host arrays, on the host."""
    return fetch(group_statistics(*put_whole((rewards_PK, valid_PK))))


def reward_metrics(
    rewards_PK: Float[np.ndarray, "P K"], valid_PK: Bool[np.ndarray, "P K"], stats: GroupStats
) -> dict[str, float]:
    """Of the valid samples mean and deviation, of the groups their mean deviation and how many are
    mixed; NaN of nothing."""
    kept, nan = rewards_PK[valid_PK], float("nan")
    variance = np.asarray(stats.variance_P)[np.asarray(stats.count_P) > 1]
    return {
        "reward_mean": float(kept.mean()) if kept.size else nan,
        "reward_std": float(kept.std()) if kept.size else nan,
        "group_std": float(np.sqrt(variance).mean()) if variance.size else nan,
        "mixed_share": float((variance > 0).mean()) if variance.size else nan,
    }


def _by_label(judged: Judged, stats: GroupStats, labels: Sequence[str]) -> dict[str, float]:
    """Of each label's groups their number, mean reward and share of mixed ones."""
    found: dict[str, float] = {}
    for label in sorted(set(labels)):
        own_P = np.array(labels) == label
        rewards = judged.rewards_PK[own_P][judged.valid_PK[own_P]]
        variance = np.asarray(stats.variance_P)[own_P & (np.asarray(stats.count_P) > 1)]
        found[f"groups/{label}"] = int(own_P.sum())
        # Without a verdict there is no mean.
        found |= {f"reward_mean/{label}": float(rewards.mean())} if rewards.size else {}
        found |= {f"mixed_share/{label}": float((variance > 0).mean())} if variance.size else {}
    return found
