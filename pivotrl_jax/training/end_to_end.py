"""One end-to-end step: play whole episodes, turn their scores into advantages, update."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, PRNGKeyArray

from kernels.grpo import AdvantageSettings
from pivotrl_jax.environments import Ending, Played, Task
from pivotrl_jax.models import Params, Remat
from pivotrl_jax.models.lora import Trained, policy_of
from pivotrl_jax.objectives.names import require
from pivotrl_jax.parallel import fetch, put_whole, row_shards
from pivotrl_jax.sampling import SamplingSettings
from pivotrl_jax.training.batches import episode_batch
from pivotrl_jax.training.loop import Step
from pivotrl_jax.training.optimizer import OptimizerSettings
from pivotrl_jax.training.pivotrl import (
    Update,
    require_untruncated,
    reward_metrics,
    statistics_of,
    times,
)
from pivotrl_jax.training.state import TrainState
from pivotrl_jax.training.watch import Watch
from pivotrl_jax.trees import chunks

Unfinished = Literal["mask", "score", "fail"]
# As many episodes of every task as the settings have samples, in the order of the tasks.
Play = Callable[[Params, Sequence[Task], PRNGKeyArray], Sequence[Played]]


@dataclasses.dataclass(frozen=True)
class EndToEndSettings:
    """`tasks` a step, each played in `samples` (G) whole episodes.

    `unfinished` says what an episode is that the environment did not end (too many turns or
    tokens, an action cut off): "mask" takes it out of its group, "score" counts what it is worth
    as it stands, "fail" counts 0. The malformed penalty of `advantage` replaces the advantage of
    every episode with an action that cannot be parsed.
    """

    steps: int = 100
    tasks: int = 16
    samples: int = 16
    unfinished: Unfinished = "mask"
    row_multiple: int = 512
    remat: Remat = "full"
    save_every: int = 5
    advantage: AdvantageSettings = dataclasses.field(default_factory=AdvantageSettings)
    optimizer: OptimizerSettings = dataclasses.field(default_factory=OptimizerSettings)
    sampling: SamplingSettings = dataclasses.field(default_factory=SamplingSettings)

    def __post_init__(self) -> None:
        require("end_to_end.unfinished", self.unfinished, get_args(Unfinished))
        require_untruncated(self.sampling, "end_to_end")


def episode_step(
    play: Play,
    tasks: Sequence[Task],
    reference: Trained | None,
    update: Update,
    settings: EndToEndSettings,
    learning_rates: Sequence[float],
    key: PRNGKeyArray,
    mesh: Mesh,
    watch: Watch | None = None,
    base: Params | None = None,
) -> Step:
    """The step that `training.loop.run_steps` runs: indices of tasks to metrics.

    `update` takes batches of plain rows; `base` is what adapters in training are of. The draws of
    step n use `fold_in(key, n)`, so that a resumed run plays the same episodes. Until the update
    begins, `watch` may abandon the step; that holds for calls of the devices within `play`, too,
    where it has the same watch.
    """
    watch = watch or Watch()

    def step(
        state: TrainState, indices: np.ndarray, number: int
    ) -> tuple[TrainState, Mapping[str, float]]:
        began = time.monotonic()
        own_key = jax.random.fold_in(key, put_whole(np.uint32(number)))
        with jax.profiler.TraceAnnotation("sample"):
            played = play(policy_of(state.params, base), [tasks[i] for i in indices], own_key)
        sampled = time.monotonic()
        episodes = chunks(played, settings.samples)
        rewards_PK, valid_PK, malformed_PK = outcomes(episodes, settings.unfinished)
        batch = episode_batch(
            episodes,
            rewards_PK,
            valid_PK,
            malformed_PK,
            multiple=settings.row_multiple,
            shards=row_shards(mesh),
        )
        with watch("update"):
            state, metrics = update(state, reference, batch)
            scalars = {name: float(value) for name, value in fetch(metrics).items()}
        stats = statistics_of(rewards_PK, valid_PK)
        scalars |= reward_metrics(rewards_PK, valid_PK, stats) | episode_metrics(played)
        tokens = int(scalars["sampled_tokens"])
        return state, scalars | {"lr": learning_rates[number], **times(began, sampled, tokens)}

    return step


def outcomes(
    episodes: Sequence[Sequence[Played]], unfinished: Unfinished
) -> tuple[Float[np.ndarray, "P K"], Bool[np.ndarray, "P K"], Bool[np.ndarray, "P K"]]:
    """Rewards of the K episodes of each of P tasks, which of them count, which are malformed."""
    scores_PK = np.array([[episode.score for episode in own] for own in episodes], np.float32)
    done_PK = np.array([[episode.ending == "done" for episode in own] for own in episodes])
    malformed_PK = np.array(
        [[any(move.malformed for move in episode.moves) for episode in own] for own in episodes]
    )
    rewards_PK = np.where(done_PK, scores_PK, 0) if unfinished == "fail" else scores_PK
    valid_PK = done_PK if unfinished == "mask" else np.ones_like(done_PK)
    return rewards_PK, valid_PK, malformed_PK


def episode_metrics(played: Sequence[Played]) -> dict[str, float]:
    """Means over all episodes, those out of their groups included; shares of actions.

    `rollout_turns` and `sampled_tokens` are what the policy was asked for in all, `prefill_tokens`
    what it read besides: each token of an episode once, the opening once for a task's episodes.
    """
    moves = [move for episode in played for move in episode.moves]
    sampled = sum(move.end - move.start for move in moves)
    begun = [episode for episode in played if episode.moves]
    openings = {episode.task.id: episode.moves[0].start for episode in begun}
    later = sum(episode.moves[-1].end - episode.moves[0].start for episode in begun)
    mean = lambda found: float(np.mean(found)) if found else float("nan")  # noqa: E731
    endings = {
        f"ending/{name}": mean([episode.ending == name for episode in played])
        for name in get_args(Ending)
    }
    return endings | {
        "score_mean": mean([episode.score for episode in played]),
        "win_rate": mean([episode.score == 1 for episode in played]),
        "episode_turns": len(moves) / len(played),
        "episode_tokens": mean([len(episode.tokens) for episode in played]),
        "rollout_turns": len(moves),
        "sampled_tokens": sampled,
        "prefill_tokens": sum(openings.values()) + later - sampled,
        "malformed_share": mean([move.malformed for move in moves]),
        "invalid_share": mean([not move.valid for move in moves]),
    }
