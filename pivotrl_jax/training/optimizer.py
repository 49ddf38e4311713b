"""AdamW with a schedule and global-norm clipping, by optax."""

import dataclasses
from typing import Any, Literal

import jax
import optax


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """`schedule` is what the rate does after the linear warm-up, over the run's remaining steps."""

    learning_rate: float = 1e-6
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0


def schedule(settings: OptimizerSettings, steps: int) -> optax.Schedule:
    """Learning rate by update, for a run of `steps` updates."""
    peak, warmup = settings.learning_rate, settings.warmup_steps
    rest = max(steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, rest),
    }[settings.schedule]
    # The first update already moves: a rate of exactly 0 would waste its rollouts.
    ramp = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([ramp, after], [warmup])


def learning_rates(settings: OptimizerSettings, steps: int) -> list[float]:
    """The rate of every update, for the log."""
    rate = schedule(settings, steps)
    return [float(rate(step)) for step in range(steps)]


def make_optimizer(settings: OptimizerSettings, steps: int) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW; norms and biases are not decayed."""
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.adamw(
            schedule(settings, steps),
            b1=settings.b1,
            b2=settings.b2,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            mask=decayed,
        ),
    )


def decayed(params: Any) -> Any:
    """True for matrices, False for norms and biases."""
    return jax.tree.map_with_path(
        lambda path, _: not path[-1].name.endswith(("norm", "bias")), params
    )
