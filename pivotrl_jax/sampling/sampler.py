"""The host half of the sampler: a queue of requests for every resident trunk."""

import dataclasses
from collections import deque
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from pivotrl_jax.models import ModelConfig, Params
from pivotrl_jax.parallel import rows as row_sharding
from pivotrl_jax.sampling.engine import Refill, Slots, advance, load_trunks, sample_keys
from pivotrl_jax.sampling.tokens import SamplingSettings
from pivotrl_jax.trees import round_up


@dataclasses.dataclass(frozen=True)
class Request:
    """One sample: continue `trunk[:start]`; drawn with (run key, `candidate`, `sample`)."""

    start: int
    candidate: int  # uint32
    sample: int


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """One sampled action of T tokens, the end-of-turn token included unless `truncated`.

    `behaviour` is the log-prob of each token under the distribution it was drawn from (tempered,
    truncated, renormalised), `plain` the one at temperature 1 with nothing left out.
    """

    tokens: Int[np.ndarray, "T"]
    behaviour: Float[np.ndarray, "T"]
    plain: Float[np.ndarray, "T"]
    truncated: bool


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """`rows` trunks in memory with `slots` each; refilled every `chunk` tokens. Trunks are padded
    to a multiple of `row_multiple`, so that few shapes are compiled."""

    rows: int = 4
    slots: int = 16
    chunk: int = 16
    row_multiple: int = 512


def sample(
    params: Params,
    cfg: ModelConfig,
    trunks: Sequence[np.ndarray],
    requests: Sequence[Sequence[Request]],
    key: PRNGKeyArray,
    eot: int,
    sampling: SamplingSettings,
    engine: EngineSettings,
    mesh: Mesh,
) -> list[list[Sample]]:
    """Serves the requests of at most `engine.rows` trunks; results in the order of `requests`.

    Each trunk is prefilled once for all its requests. A trunk's free slots take its next requests
    between chunks, so that short samples do not wait for long ones.
    """
    longest = max((r.start for own in requests for r in own), default=1)
    trunks_RL = np.zeros((engine.rows, round_up(longest, engine.row_multiple)), np.int32)
    for row, trunk in enumerate(trunks):
        trunks_RL[row, : min(len(trunk), longest)] = trunk[:longest]
    slots = load_trunks(params, cfg, _put(trunks_RL, mesh), sampling, engine.slots)
    queues = [deque(enumerate(own)) for own in requests]
    done: list[dict[int, Sample]] = [{} for _ in requests]
    owner: dict[tuple[int, int], int] = {}
    while owner or any(queues):
        refill = _next(queues, owner, key, engine, mesh)
        slots = advance(params, cfg, slots, refill, sampling, eot, engine.chunk)
        _harvest(slots, owner, done, eot)
    return [[own[i] for i in range(len(own))] for own in done]


def _next(
    queues: list[deque[tuple[int, Request]]],
    owner: dict[tuple[int, int], int],
    key: PRNGKeyArray,
    engine: EngineSettings,
    mesh: Mesh,
) -> Refill:
    """Gives every free slot the next request of its trunk, and notes whose it is now."""
    shape = (engine.rows, engine.slots)
    fresh, start = np.zeros(shape, bool), np.zeros(shape, np.int32)
    candidate, number = np.zeros(shape, np.uint32), np.zeros(shape, np.int32)
    for row, queue in enumerate(queues):
        for slot in range(engine.slots):
            if queue and (row, slot) not in owner:
                owner[row, slot], request = queue.popleft()
                fresh[row, slot], start[row, slot] = True, request.start
                candidate[row, slot], number[row, slot] = request.candidate, request.sample
    keys = sample_keys(key, _put(candidate, mesh), _put(number, mesh))
    return Refill(_put(fresh, mesh), _put(start, mesh), keys)


def _harvest(
    slots: Slots, owner: dict[tuple[int, int], int], done: list[dict[int, Sample]], eot: int
) -> None:
    """Moves the samples of ended slots to `done` and frees the slots."""
    running, length, drawn = jax.device_get((slots.running_RB, slots.length_RB, slots.drawn))
    for row, slot in [place for place in owner if not running[place]]:
        n = length[row, slot]
        tokens = drawn.tokens_RBS[row, slot, :n].copy()
        done[row][owner.pop((row, slot))] = Sample(
            tokens,
            drawn.behaviour_RBS[row, slot, :n].copy(),
            drawn.plain_RBS[row, slot, :n].copy(),
            truncated=bool(tokens[-1] != eot),
        )


def _put(x: Bool[np.ndarray, "..."] | Int[np.ndarray, "..."], mesh: Mesh) -> jax.Array:
    return jax.device_put(x, row_sharding(mesh, x.shape))
