"""What is asked of the sampler, and what it gives."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
from jaxtyping import Float, Int

from pivotrl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Request:
    """One sample: continue `trunk[:start]`; drawn with (run key, `candidate`, `sample`).

    The trunk's own continuation `trunk[start:end]`, the expert's action with its end-of-turn
    token, is the draft; `end == start` means none. It changes the cost of a sample, not the sample.
    """

    start: int
    end: int
    candidate: int  # uint32
    sample: int


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """One sampled action of T tokens, the end-of-turn token included unless `truncated`.

    `behaviour` is the log-prob of each token under the distribution it was drawn from (tempered,
    truncated, renormalised), `plain` the one at temperature 1 with nothing left out. The first
    `drafted` tokens are the expert's and cost no decoding.

    `routes`, where they were asked for, are the J experts of N layers that each token went through,
    `models.experts.UNKNOWN` for a last token that was drawn and never read.
    """

    tokens: Int[np.ndarray, "T"]
    behaviour: Float[np.ndarray, "T"]
    plain: Float[np.ndarray, "T"]
    truncated: bool
    drafted: int = 0
    routes: Int[np.ndarray, "T N J"] | None = None


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """At most `rows` trunks in memory, `slots` decoding slots shared out among them.

    Slots are refilled every `chunk` tokens. A row has room for the longest trunk, rounded up to a
    multiple of `row_multiple`; a trunk is padded to as few quarters of that as hold it, so that few
    shapes are compiled. A trunk has no more slots than `most` (None: than samples that any of the
    trunks asks for); calls that differ in it are compiled anew.
    """

    rows: int = 8
    slots: int = 64
    chunk: int = 8
    row_multiple: int = 512
    most: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            number = getattr(self, field.name)
            if number is not None and number < 1:
                raise UserError(f"engine.{field.name} is {number}; it must be at least 1")


# `with device("decode"): ...` stands around a call of the devices and the wait for its results. It
# may raise before the call, which ends the sampling. `jax.profiler.TraceAnnotation` is one.
DeviceCalls = Callable[[str], AbstractContextManager[object]]
