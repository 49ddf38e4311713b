"""The host half of the sampler: a queue of requests for every resident trunk."""

import dataclasses
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int, PRNGKeyArray

from pivotrl_jax.models import ModelConfig, Params
from pivotrl_jax.models.experts import UNKNOWN
from pivotrl_jax.parallel import fetch, put_rows, row_shards
from pivotrl_jax.sampling.drafts import follow_experts, groups
from pivotrl_jax.sampling.engine import advance, decoding_layers, load_trunks
from pivotrl_jax.sampling.slots import Drawn, Refill, idle_slots
from pivotrl_jax.sampling.tokens import SamplingSettings, sample_keys
from pivotrl_jax.sampling.types import DeviceCalls, EngineSettings, Request, Sample
from pivotrl_jax.trees import round_up


class _Row:
    """One row of the engine: the trunk it serves, what waits for a slot, what is done."""

    def __init__(self) -> None:
        self.trunk = -1  # idle
        self.waiting: deque[tuple[int, Request, Sample]] = deque()
        self.in_slot: dict[int, tuple[int, Sample]] = {}  # slot to number and draft
        self.done: dict[int, Sample] = {}

    def serve(self, trunk: int, requests: Sequence[Request], drafts: Sequence[Sample]) -> None:
        """Takes a trunk; a sample that followed its expert to the end is done already."""
        self.trunk, self.done = trunk, {}
        for number, (request, drafted) in enumerate(zip(requests, drafts, strict=True)):
            if drafted.truncated:
                self.waiting.append((number, request, drafted))
            else:
                self.done[number] = drafted


def sample(
    params: Params,
    cfg: ModelConfig,
    trunks: Sequence[np.ndarray],
    requests: Sequence[Sequence[Request]],
    key: PRNGKeyArray,
    ends: tuple[int, ...],
    sampling: SamplingSettings,
    engine: EngineSettings,
    mesh: Mesh,
    done: Collection[int] = (),
    *,
    routes: bool = False,
    device: DeviceCalls = jax.profiler.TraceAnnotation,
) -> Iterator[tuple[int, list[Sample]]]:
    """Serves the requests of every trunk; yields (number of the trunk, its samples) as they end.

    The trunks in `done` are left out. (The shapes of arrays, and by them the last bits of
    log-probs, follow from all requests, so that a resumed run draws what an undisturbed one does.)

    A trunk is prefilled once for all its requests, and the samples follow the expert's action as
    far as they agree with it. Between chunks of decoding, free slots take the next requests of
    their trunk, and finished rows the next trunk, so that short samples do not wait for long ones.

    With `routes` samples have theirs; ValueError for a model without experts.
    """
    shape, length = engine_shape(requests, engine, mesh)
    sizes = _prefill_sizes(requests, length, engine.row_multiple)
    most = max((len(group) for own in requests for group in groups(own)), default=1)
    layers = decoding_layers(params, cfg)
    slots = idle_slots(cfg, sampling, shape, length, routes=routes)
    rows = [_Row() for _ in range(shape[0])]
    pending = deque(number for number in range(len(requests)) if number not in done)
    while pending or any(row.trunk >= 0 for row in rows):
        for given in _assign(rows, pending, sizes, row_shards(mesh)):
            size = sizes[given[0].trunk]
            tokens_QL = np.stack([_padded(trunks[one.trunk], size) for one in given])
            places_Q = np.array([one.place for one in given], np.int32)
            with device("prefill"):
                slots, hidden_QLD, routes_QLNJ = load_trunks(
                    params, cfg, slots, *put_rows((tokens_QL, places_Q), mesh)
                )
            wanted = [() if one.row is None else requests[one.trunk] for one in given]
            with device("draft"):
                drafts = follow_experts(
                    params, hidden_QLD, tokens_QL, wanted, most, key, ends, sampling, mesh,
                    fetch(routes_QLNJ),
                )  # fmt: skip
            _serve(rows, given, wanted, drafts)
        refill = _next(rows, key, shape[1], sampling.max_tokens, mesh)
        with device("decode"):
            slots = advance(params, layers, cfg, slots, refill, sampling, ends, engine.chunk)
            running, lengths, drawn, chosen = fetch(
                (slots.running_RB, slots.length_RB, slots.drawn, slots.routes_RBSNJ)
            )
        _harvest(running, lengths, drawn, chosen, rows, ends)
        yield from _finished(rows)


def engine_shape(
    requests: Sequence[Sequence[Request]], engine: EngineSettings, mesh: Mesh
) -> tuple[tuple[int, int], int]:
    """Rows and slots per row, and room for a trunk.

    As many trunks in every wave: a last trunk alone would leave all other rows idle. Fewer rows
    have more slots each.
    """
    most = engine.most or max(map(len, requests), default=1)
    longest = max((r.end for own in requests for r in own), default=1)
    waves = -(-len(requests) // engine.rows)
    rows = round_up(-(-len(requests) // max(waves, 1)), row_shards(mesh))
    slots = max(1, min(engine.slots // rows, most))
    context = mesh.shape["context"]
    if slots > context:
        slots -= slots % context
    return (rows, slots), round_up(longest, engine.row_multiple)


def _prefill_sizes(requests: Sequence[Sequence[Request]], length: int, multiple: int) -> list[int]:
    """What every trunk is padded to when it is read: as few quarters of `length` as hold it, in
    whole multiples. Four shapes are compiled at most, and a short trunk is read as a short one."""
    quarters = [min(length, round_up(-(-length * n // 4), multiple)) for n in range(1, 5)]
    ends = [max((r.end for r in own), default=1) for own in requests]
    return [next(size for size in quarters if size >= end) for end in ends]


class _Given(NamedTuple):
    """A trunk that a device prefills for one of its own rows, the number `place` among them.

    Without a `row` the result is dropped, by a place beyond all.
    """

    trunk: int
    place: int
    row: int | None


def _assign(
    rows: Sequence[_Row], pending: deque[int], sizes: Sequence[int], shards: int
) -> Iterator[list[_Given]]:
    """Gives idle rows the next trunks, in batches to prefill together: trunks of one size, one for
    each of the `shards` that the mesh divides rows into, so that no keys and values travel."""
    own = len(rows) // shards
    idle = [[n for n in range(own) if rows[s * own + n].trunk < 0] for s in range(shards)]
    while pending and any(idle):
        batch, first = [], pending[0]
        for shard, places in enumerate(idle):
            alike = (number for number in pending if sizes[number] == sizes[first])
            trunk = next(alike, None) if places else None
            if trunk is None:
                batch.append(_Given(first, own, None))
            else:
                pending.remove(trunk)
                place = places.pop(0)
                batch.append(_Given(trunk, place, shard * own + place))
        yield batch


def _serve(
    rows: Sequence[_Row],
    given: Sequence[_Given],
    requests: Sequence[Sequence[Request]],
    drafts: Sequence[Sequence[Sample]],
) -> None:
    """Hands prefilled trunks with their requests to the rows that they were given to."""
    for one, own, drafted in zip(given, requests, drafts, strict=True):
        if one.row is not None:
            rows[one.row].serve(one.trunk, own, drafted)


def _finished(rows: Sequence[_Row]) -> Iterator[tuple[int, list[Sample]]]:
    """Trunks that nothing is left to do for, and their samples; their rows are idle then."""
    for row in rows:
        if row.trunk >= 0 and not row.waiting and not row.in_slot:
            yield row.trunk, [row.done[i] for i in range(len(row.done))]
            row.trunk = -1


def _padded(trunk: np.ndarray, length: int) -> np.ndarray:
    return np.pad(trunk[:length], (0, max(0, length - len(trunk)))).astype(np.int32)


def _next(rows: Sequence[_Row], key: PRNGKeyArray, slots: int, cap: int, mesh: Mesh) -> Refill:
    """Gives every free slot the next request of its trunk, and notes whose it is now."""
    shape = (len(rows), slots)
    fresh, (start, drafted) = np.zeros(shape, bool), np.zeros((2, *shape), np.int32)
    candidate, number = np.zeros(shape, np.uint32), np.zeros(shape, np.int32)
    tokens = np.zeros((*shape, cap), np.int32)
    behaviour, plain = np.zeros((2, *shape, cap), np.float32)
    for place, row in enumerate(rows):
        for slot in range(slots):
            if row.waiting and slot not in row.in_slot:
                at = (place, slot)
                index, request, so_far = row.waiting.popleft()
                n = so_far.drafted
                row.in_slot[slot] = (index, so_far)
                fresh[at], start[at], drafted[at] = True, request.start + n, n
                candidate[at], number[at] = request.candidate, request.sample
                tokens[at][:n], behaviour[at][:n] = so_far.tokens, so_far.behaviour
                plain[at][:n] = so_far.plain
    keys = sample_keys(key, *put_rows((candidate, number), mesh))
    drawn = Drawn(*put_rows((tokens, behaviour, plain), mesh))
    fresh_RB, start_RB, drafted_RB = put_rows((fresh, start, drafted), mesh)
    return Refill(fresh_RB, start_RB, drafted_RB, drawn, keys)


def _harvest(
    running_RB: Bool[np.ndarray, "R B"],
    length_RB: Int[np.ndarray, "R B"],
    drawn: Drawn,
    routes_RBSNJ: Int[np.ndarray, "R B S N J"] | None,
    rows: Sequence[_Row],
    ends: tuple[int, ...],
) -> None:
    """Moves the samples of ended slots to their rows' `done` and frees the slots."""
    for place, row in enumerate(rows):
        for slot in [slot for slot in row.in_slot if not running_RB[place, slot]]:
            number, so_far = row.in_slot.pop(slot)
            at = (place, slot)
            ended = drawn_in(drawn, at, length_RB[at], ends, so_far.drafted)
            if so_far.routes is not None and routes_RBSNJ is not None:
                own = _joined(so_far.routes, routes_RBSNJ[at][: length_RB[at]])
                ended = dataclasses.replace(ended, routes=own)
            row.done[number] = ended


def _joined(
    draft_SNJ: Int[np.ndarray, "S N J"], slot_SNJ: Int[np.ndarray, "S N J"]
) -> Int[np.ndarray, "S N J"]:
    """The routes of an ended slot's tokens: the draft's, then those of its own."""
    own = slot_SNJ[len(draft_SNJ) :].copy()
    own[-1:] = UNKNOWN
    return np.concatenate([draft_SNJ, own])


def drawn_in(
    drawn: Drawn, at: tuple[int, int], length: int, ends: tuple[int, ...], drafted: int = 0
) -> Sample:
    """The sample of the ended slot `at` of what all slots have drawn, on the host."""
    tokens = np.array(drawn.tokens_RBS[at][:length])
    return Sample(
        tokens,
        np.array(drawn.behaviour_RBS[at][:length]),
        np.array(drawn.plain_RBS[at][:length]),
        truncated=bool(tokens[-1] not in ends),
        drafted=drafted,
    )
