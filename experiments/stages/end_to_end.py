"""End-to-end RL: multi-turn GRPO over whole episodes in an environment."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from experiments.context import END_TO_END, Run, key_of
from experiments.episodes import player
from experiments.stages.updates import Segment, run_segments
from pivotrl_jax.environments import Task
from pivotrl_jax.models import Params
from pivotrl_jax.models.lora import detach, policy_of
from pivotrl_jax.training import (
    Play,
    episode_step,
    in_micro_batches,
    index_batches,
    learning_rates,
    make_optimizer,
    new_state,
    policy_update,
    state_shardings,
)


def end_to_end_stage(run: Run, params: Params) -> Params:
    """Trains on episodes of the environment's training tasks, from `params`, which also is the
    frozen policy pi_0.

    Metrics and checkpoints lie in end_to_end/ of the work directory; a killed run resumes there.
    """
    settings = run.settings.end_to_end
    return train_on_episodes(
        run,
        player(run, settings.sampling, settings.samples),
        run.environment.tasks("train"),
        params,
    )


def train_on_episodes(run: Run, play: Play, tasks: Sequence[Task], params: Params) -> Params:
    """`end_to_end_stage` with episodes that `play` gives of any tasks."""
    settings = run.training(run.settings.end_to_end)
    optimizer = make_optimizer(settings.optimizer, settings.steps)
    base, own = detach(params)
    layout = state_shardings(optimizer, run.cfg, run.mesh, run.settings.lora)
    update = in_micro_batches(
        policy_update(
            run.cfg,
            optimizer,
            layout,
            run.settings.objective,
            settings.advantage,
            temperature=settings.sampling.temperature,
            remat=settings.remat,
        ),
        run.mesh,
        base=base,
    )
    reference = jax.tree.map(jnp.copy, own) if run.settings.objective.kl_coef else None
    rates = learning_rates(settings.optimizer, settings.steps)
    step = episode_step(
        play,
        tasks,
        reference,
        update,
        settings,
        rates,
        key_of(run, END_TO_END),
        run.mesh,
        run.watch,
        base,
    )
    data = index_batches([1] * len(tasks), settings.tasks, run.settings.seed)
    state = run_segments(
        run,
        "end_to_end",
        new_state(own, optimizer, layout),
        lambda state, history: Segment(0, step, data),
        steps=settings.steps,
        save_every=settings.save_every,
        note=lambda m: f"reward {m['reward_mean']:.3f}, {m['episode_turns']:.1f} turns",
        base=base,
    )
    return policy_of(state.params, base)
