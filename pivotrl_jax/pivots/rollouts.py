"""One-turn rollouts: sample K actions at every turn."""

import dataclasses
import zlib
from collections.abc import Iterator, Sequence, Set

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from pivotrl_jax.models import ModelConfig, Params
from pivotrl_jax.sampling import (
    DeviceCalls,
    EngineSettings,
    Request,
    Sample,
    SamplingSettings,
    sample,
)
from pivotrl_jax.text import Tokenizer
from pivotrl_jax.trajectories import NO_CONTEXT, Action, Context
from pivotrl_jax.trees import chunks


@dataclasses.dataclass(frozen=True)
class Turn:
    """A candidate ready to be sampled: its history is `trunk[:start]` of trunk number `trunk`."""

    id: str
    trajectory_id: str
    domain: str
    turn: int
    trunk: int
    start: int
    end: int
    expert: Action
    context: Context = NO_CONTEXT


Row = tuple[int, Sequence[Turn]]  # turns of one trunk, and its number


@dataclasses.dataclass(frozen=True, eq=False)
class Rollouts:
    """K samples of each of P turns."""

    turns: Sequence[Turn]
    samples: Sequence[Sequence[Sample]]


def joined(parts: Sequence[Rollouts]) -> Rollouts:
    """All of `parts` as one, in their order."""
    return Rollouts(
        [turn for part in parts for turn in part.turns],
        [group for part in parts for group in part.samples],
    )


def plan(turns: Sequence[Turn], most: int | None = None) -> list[Row]:
    """Turns by trunk, at most `most` to a row (None: all), the fullest rows first.

    Rows that are decoded together then end at about the same time.
    """
    by_trunk: dict[int, list[Turn]] = {}
    for turn in turns:
        by_trunk.setdefault(turn.trunk, []).append(turn)
    rows = [
        (trunk, part) for trunk, own in by_trunk.items() for part in chunks(own, most or len(own))
    ]
    return sorted(rows, key=lambda row: -len(row[1]))


def rollouts(
    params: Params,
    cfg: ModelConfig,
    rows: Sequence[Row],
    trunks: Sequence[np.ndarray],
    samples: int,
    key: PRNGKeyArray,
    tokenizer: Tokenizer,
    sampling: SamplingSettings,
    engine: EngineSettings,
    mesh: Mesh,
    done: Set[str] = frozenset(),
    *,
    routes: bool = False,
    device: DeviceCalls = jax.profiler.TraceAnnotation,
) -> Iterator[Rollouts]:
    """`samples` actions at every turn of `rows`, one `Rollouts` a row, in the order they end.

    The draws of a turn depend on `key`, its id and the sample's number, not on the batch. Rows
    whose turns are all in `done` (ids) are left out. With `routes` samples have theirs.
    """
    requests = [
        [
            Request(t.start, t.end, zlib.crc32(t.id.encode()), k)
            for t in part
            for k in range(samples)
        ]
        for _, part in rows
    ]
    histories = [trunks[trunk] for trunk, _ in rows]
    finished = {i for i, (_, part) in enumerate(rows) if {t.id for t in part} <= done}
    served = sample(
        params, cfg, histories, requests, key, tokenizer.ends, sampling, engine, mesh, finished,
        routes=routes,
        device=device,
    )  # fmt: skip
    for number, out in served:
        yield Rollouts(rows[number][1], chunks(out, samples))
