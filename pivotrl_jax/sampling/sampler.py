"""The host half of the sampler: a queue of requests for every resident trunk."""

import dataclasses
from collections import deque
from collections.abc import Collection, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, PRNGKeyArray

from pivotrl_jax.models import ModelConfig, Params
from pivotrl_jax.parallel import put_rows
from pivotrl_jax.sampling.engine import (
    Refill,
    Slots,
    advance,
    decoding_layers,
    idle_slots,
    load_trunks,
    sample_keys,
)
from pivotrl_jax.sampling.tokens import SamplingSettings
from pivotrl_jax.trees import chunks, round_up


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
    """At most `rows` trunks in memory, `slots` decoding slots shared out among them.

    Slots are refilled every `chunk` tokens. Trunks are padded to a multiple of `row_multiple`, so
    that few shapes are compiled.
    """

    rows: int = 8
    slots: int = 64
    chunk: int = 8
    row_multiple: int = 512


class _Row:
    """One row of the engine: the trunk it serves, what waits for a slot, what is done."""

    def __init__(self) -> None:
        self.trunk = -1  # idle
        self.waiting: deque[tuple[int, Request]] = deque()
        self.in_slot: dict[int, int] = {}  # slot to number of the request
        self.done: dict[int, Sample] = {}

    def serve(self, trunk: int, requests: Sequence[Request]) -> None:
        self.trunk, self.done = trunk, {}
        self.waiting = deque(enumerate(requests))

    @property
    def finished(self) -> bool:
        return self.trunk >= 0 and not self.waiting and not self.in_slot


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
    done: Collection[int] = (),
) -> Iterator[tuple[int, list[Sample]]]:
    """Serves the requests of every trunk; yields (number of the trunk, its samples) as they end.

    The trunks in `done` are left out. (The shapes of arrays, and by them the last bits of
    log-probs, follow from all requests, so that a resumed run draws what an undisturbed one does.)

    A trunk is prefilled once for all its requests. Between chunks of decoding, free slots take the
    next requests of their trunk, and finished rows the next trunk, so that short samples do not
    wait for long ones.
    """
    shape, length = _shape(requests, engine, mesh)
    layers = decoding_layers(params, cfg)
    slots = idle_slots(cfg, sampling, shape, length)
    rows = [_Row() for _ in range(shape[0])]
    pending = deque(number for number in range(len(requests)) if number not in done)
    while pending or any(row.trunk >= 0 for row in rows):
        for numbers, places in _assign(rows, pending, requests, mesh):
            tokens_QL = np.stack([_padded(trunks[number], length) for number in numbers])
            slots = load_trunks(params, cfg, slots, *put_rows((tokens_QL, places), mesh))
        refill = _next(rows, key, shape[1], mesh)
        slots = advance(params, layers, cfg, slots, refill, sampling, eot, engine.chunk)
        _harvest(slots, rows, eot)
        for row in rows:
            if row.finished:
                yield row.trunk, [row.done[i] for i in range(len(row.done))]
                row.trunk = -1


def _shape(
    requests: Sequence[Sequence[Request]], engine: EngineSettings, mesh: Mesh
) -> tuple[tuple[int, int], int]:
    """Rows and slots per row, and room for a trunk. Many rows of few slots end at about the same
    time; few trunks leave more slots for each."""
    most = max(map(len, requests), default=1)
    longest = max((r.start for own in requests for r in own), default=1)
    rows = round_up(min(engine.rows, len(requests)), mesh.shape["data"] * mesh.shape["fsdp"])
    slots = max(1, min(engine.slots // rows, most))
    return (rows, slots), round_up(longest, engine.row_multiple)


def _assign(
    rows: Sequence[_Row],
    pending: deque[int],
    requests: Sequence[Sequence[Request]],
    mesh: Mesh,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Gives idle rows the next trunks: batches of (trunk numbers, rows) to prefill together.

    A batch has one trunk for every device along data and fsdp; missing ones go to a row that does
    not exist.
    """
    size = mesh.shape["data"] * mesh.shape["fsdp"]
    idle = [index for index, row in enumerate(rows) if row.trunk < 0]
    for places in chunks(idle[: len(pending)], size):
        numbers = [pending.popleft() for _ in places]
        for place, number in zip(places, numbers, strict=True):
            rows[place].serve(number, requests[number])
        missing = size - len(places)
        padded = np.array([*places, *[len(rows)] * missing], np.int32)
        yield numbers + numbers[:1] * missing, padded


def _padded(trunk: np.ndarray, length: int) -> np.ndarray:
    return np.pad(trunk[:length], (0, max(0, length - len(trunk)))).astype(np.int32)


def _next(rows: Sequence[_Row], key: PRNGKeyArray, slots: int, mesh: Mesh) -> Refill:
    """Gives every free slot the next request of its trunk, and notes whose it is now."""
    shape = (len(rows), slots)
    fresh, start = np.zeros(shape, bool), np.zeros(shape, np.int32)
    candidate, number = np.zeros(shape, np.uint32), np.zeros(shape, np.int32)
    for place, row in enumerate(rows):
        for slot in range(slots):
            if row.waiting and slot not in row.in_slot:
                row.in_slot[slot], request = row.waiting.popleft()
                fresh[place, slot], start[place, slot] = True, request.start
                candidate[place, slot], number[place, slot] = request.candidate, request.sample
    keys = sample_keys(key, *put_rows((candidate, number), mesh))
    fresh_RB, start_RB = put_rows((fresh, start), mesh)
    return Refill(fresh_RB, start_RB, keys)


def _harvest(slots: Slots, rows: Sequence[_Row], eot: int) -> None:
    """Moves the samples of ended slots to their rows' `done` and frees the slots."""
    running, length, drawn = jax.device_get((slots.running_RB, slots.length_RB, slots.drawn))
    for place, row in enumerate(rows):
        for slot in [slot for slot in row.in_slot if not running[place, slot]]:
            n = length[place, slot]
            tokens = drawn.tokens_RBS[place, slot, :n].copy()
            row.done[row.in_slot.pop(slot)] = Sample(
                tokens,
                drawn.behaviour_RBS[place, slot, :n].copy(),
                drawn.plain_RBS[place, slot, :n].copy(),
                truncated=bool(tokens[-1] != eot),
            )
