"""The arms of a study: one run each on the same expert data, told apart by a few settings."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jax.sharding import Mesh

from experiments.settings import Settings


@dataclasses.dataclass(frozen=True)
class Arm:
    """`overrides` by their path below `config`; `tuned` is the path of the learning rate that
    trials choose (None: no trials). An arm with `rate_of` another takes what that one's chose.

    An arm `like` another one profiles the same policy at the same candidates: it takes that one's
    samples instead of drawing them again.
    """

    name: str
    title: str
    overrides: Mapping[str, Any]
    like: str | None = None
    tuned: str | None = None
    rate_of: str | None = None


@dataclasses.dataclass(frozen=True)
class Study:
    """`prepare` makes what a preset's settings read, unless it is there; the first of `arms` trains
    nothing.

    What is `tuned` has one trial for each of `factors`, of its configured learning rate. `rates`,
    by arm, are what earlier trials chose: a study without trials of its own runs at them.
    """

    prepare: Callable[[Mesh, Settings], None]
    arms: tuple[Arm, ...]
    factors: tuple[float, ...] = (1 / 8, 1 / 2, 2.0, 8.0)
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)


SFT_RATE, PIVOT_RATE, EPISODE_RATE = (
    f"{stage}.optimizer.learning_rate" for stage in ("sft", "train", "end_to_end")
)


def arm(
    name: str,
    title: str,
    like: str | None = None,
    tuned: str | None = PIVOT_RATE,
    rate_of: str | None = None,
    **overrides: Any,
) -> Arm:
    """Overrides as keywords, with two underscores for a dot."""
    paths = {path.replace("__", "."): value for path, value in overrides.items()}
    return Arm(name, title, paths, like, tuned, rate_of)


def variant(name: str, title: str, like: str | None = "pivotrl", **overrides: Any) -> Arm:
    """PivotRL with something changed, at PivotRL's learning rate."""
    return arm(name, title, like, tuned=None, rate_of="pivotrl", **overrides)


EXACT = (("exact", 1.0),)
ARMS = (
    arm("base", "Base", tuned=None, train__steps=0),
    arm("sft", "SFT", tuned=SFT_RATE, train__steps=0, sft__epochs=3),
    arm("pivotrl", "PivotRL"),
    arm("no_filter", "random turns", "pivotrl", selection__criterion="random"),
    arm("strict", "strict match on pivots", "pivotrl", reward__updates=EXACT),
    arm(
        "neither",
        "strict match on random turns",
        "pivotrl",
        selection__criterion="random",
        reward__updates=EXACT,
    ),
    arm(
        "end_to_end",
        "end-to-end GRPO",
        tuned=EPISODE_RATE,
        train__steps=0,
        end_to_end__steps=60,
    ),
    variant("reprofile", "PivotRL, profiled again", reprofile__every=20),
    variant("online", "PivotRL, online choice", train__curriculum="online"),
    variant(
        "leave_one_out",
        "PivotRL, leave-one-out advantages",
        train__normalisation="leave_one_out",
    ),
    variant("with_sft", "PivotRL with expert turns as SFT", train__sft_coef=0.1),
    variant("after_sft", "PivotRL after SFT", None, sft__epochs=1),
)
