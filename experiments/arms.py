"""The arms of a study: one run each on the same expert data, told apart by a few settings."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from jax.sharding import Mesh


@dataclasses.dataclass(frozen=True)
class Arm:
    """`overrides` by their path below `config`.

    An arm `like` another one profiles the same policy at the same candidates: it takes that one's
    samples instead of drawing them again.
    """

    name: str
    title: str
    overrides: Mapping[str, Any]
    like: str | None = None


@dataclasses.dataclass(frozen=True)
class Study:
    """`prepare` makes what the configuration reads, unless it is there; the first of `arms` trains
    nothing."""

    prepare: Callable[[Mesh], None]
    arms: tuple[Arm, ...]


def _arm(name: str, title: str, like: str | None = None, **overrides: Any) -> Arm:
    paths = {path.replace("__", "."): value for path, value in overrides.items()}
    return Arm(name, title, MappingProxyType(paths), like)


EXACT = (("exact", 1.0),)
ARMS = (
    _arm("base", "Base", train__steps=0),
    _arm("sft", "SFT", train__steps=0, sft__epochs=3),
    _arm("pivotrl", "PivotRL"),
    _arm("no_filter", "random turns", "pivotrl", selection__criterion="random"),
    _arm("strict", "strict match on pivots", "pivotrl", reward__updates=EXACT),
    _arm(
        "neither",
        "strict match on random turns",
        "pivotrl",
        selection__criterion="random",
        reward__updates=EXACT,
    ),
    _arm("end_to_end", "end-to-end GRPO", train__steps=0, end_to_end__steps=60),
    _arm("reprofile", "PivotRL, profiled again", "pivotrl", reprofile__every=20),
    _arm("online", "PivotRL, online choice", "pivotrl", train__curriculum="online"),
    _arm(
        "leave_one_out",
        "PivotRL, leave-one-out advantages",
        "pivotrl",
        train__normalisation="leave_one_out",
    ),
    _arm("after_sft", "PivotRL after SFT", sft__epochs=1),
)
