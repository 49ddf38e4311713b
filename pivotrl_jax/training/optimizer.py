"""AdamW with a schedule and global-norm clipping, by optax."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import optax

from pivotrl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """`schedule` is what the rate does after the linear warm-up, over the run's remaining steps.

    The parameters whose leaves are named in `frozen` ("router", "embed") keep their values: their
    gradients count neither for a step nor for the norm that is clipped, and they do not decay.
    """

    learning_rate: float = 1e-6
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    frozen: tuple[str, ...] = ()


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
    """Clip by global norm, then AdamW; norms, biases and sinks are not decayed, frozen leaves
    stay.

    Raises UserError, when it first sees the parameters, for a frozen leaf that they do not have.
    """
    still = functools.partial(named, names=settings.frozen)
    # Only where asked for, so that checkpoints without it keep their layout.
    fixed = [optax.masked(optax.set_to_zero(), still)] if settings.frozen else []

    def shrinking(params: Any) -> Any:
        return jax.tree.map(lambda on, off: on and not off, decayed(params), still(params))

    return optax.chain(
        *fixed,
        optax.clip_by_global_norm(settings.clip_norm),
        optax.adamw(
            schedule(settings, steps),
            b1=settings.b1,
            b2=settings.b2,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            mask=shrinking,
        ),
    )


def decayed(params: Any) -> Any:
    """True for matrices, False for norms, biases and sinks."""
    return jax.tree.map_with_path(
        lambda path, _: not path[-1].name.endswith(("norm", "bias", "sinks")), params
    )


def named(params: Any, names: Sequence[str]) -> Any:
    """True for the leaves of these names."""
    found = {path[-1].name for path, _ in jax.tree.leaves_with_path(params)}
    for name in names:
        if name not in found:
            raise UserError(
                f"optimizer.frozen: the model has no parameter {name!r}; "
                f"it has {', '.join(sorted(found))}"
            )
    return jax.tree.map_with_path(lambda path, _: path[-1].name in names, params)
