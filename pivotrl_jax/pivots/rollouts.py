"""One-turn rollouts: sample K actions at every turn and judge them."""

import dataclasses
import json
import zlib
from collections.abc import Iterator, Sequence, Set
from typing import Any, Literal

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, PRNGKeyArray

from pivotrl_jax.models import ModelConfig, Params
from pivotrl_jax.sampling import EngineSettings, Request, Sample, SamplingSettings, sample
from pivotrl_jax.text import ActionFormat, Tokenizer
from pivotrl_jax.trajectories import NO_CONTEXT, Action, Context
from pivotrl_jax.trees import chunks
from pivotrl_jax.verifiers import Verifier, verify_many


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


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """What the verifier said of every sample. A sample with an error is not valid."""

    criteria_PKC: Float[np.ndarray, "P K C"]
    valid_PK: Bool[np.ndarray, "P K"]
    malformed_PK: Bool[np.ndarray, "P K"]
    texts: list[list[str]]
    reasons: list[list[str]]
    errors: list[list[str | None]]


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
) -> Iterator[Rollouts]:
    """`samples` actions at every turn of `rows`, one `Rollouts` a row, in the order they end.

    The draws of a turn depend on `key`, its id and the sample's number, not on the batch. Rows
    whose turns are all in `done` (ids) are left out.
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
        params, cfg, histories, requests, key, tokenizer.ends, sampling, engine, mesh, finished
    )
    for number, out in served:
        yield Rollouts(rows[number][1], chunks(out, samples))


def judge(
    rollout: Rollouts,
    tokenizer: Tokenizer,
    fmt: ActionFormat,
    verifier: Verifier,
    truncated: Literal["exclude", "fail"],
) -> Judged:
    """Parses and verifies every sample.

    `truncated` says what a sample that reached the token cap is: "exclude" takes it out of its
    group, "fail" judges what there is of it.
    """
    shape = (len(rollout.turns), len(rollout.samples[0]))
    criteria_PKC = np.zeros((*shape, len(verifier.criteria)), np.float32)
    valid_PK, malformed_PK = np.ones(shape, bool), np.zeros(shape, bool)
    texts = [[""] * shape[1] for _ in rollout.turns]
    reasons = [[""] * shape[1] for _ in rollout.turns]
    errors: list[list[str | None]] = [[None] * shape[1] for _ in rollout.turns]
    places = list(np.ndindex(shape))
    parsed = []
    for i, j in places:
        kept = [t for t in rollout.samples[i][j].tokens.tolist() if t not in tokenizer.ends]
        texts[i][j] = tokenizer.decode(kept)
        parsed.append(fmt.parse(texts[i][j]))
    turns = [rollout.turns[i] for i, _ in places]
    asked = [(turn.expert, p, turn.context) for turn, p in zip(turns, parsed, strict=True)]
    for (i, j), p, verdict in zip(places, parsed, verify_many(verifier, asked), strict=True):
        cut = rollout.samples[i][j].truncated and truncated == "exclude"
        error = "truncated" if cut else verdict.error
        if error is None:
            criteria_PKC[i, j] = [verdict.criteria[name] for name in verifier.criteria]
        valid_PK[i, j] = error is None
        malformed_PK[i, j] = bool(p.problems)
        reasons[i][j], errors[i][j] = verdict.reason, error
    return Judged(criteria_PKC, valid_PK, malformed_PK, texts, reasons, errors)


def sample_records(
    rollout: Rollouts, judged: Judged, rewards_PK: np.ndarray, criteria: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """One record per sample, as `pivots.store.SCHEMA` has it; no reward without a verdict."""
    for i, j in np.ndindex(judged.valid_PK.shape):
        drawn, valid = rollout.samples[i][j], judged.valid_PK[i, j]
        values = map(float, judged.criteria_PKC[i, j])
        yield {
            "candidate_id": rollout.turns[i].id,
            "sample": j,
            "tokens": drawn.tokens.tolist(),
            "text": judged.texts[i][j],
            "length": len(drawn.tokens),
            "drafted": drawn.drafted,
            "truncated": drawn.truncated,
            "malformed": bool(judged.malformed_PK[i, j]),
            "logp": float(drawn.plain.sum(dtype=np.float64)),
            "criteria": json.dumps(dict(zip(criteria, values, strict=True)) if valid else {}),
            "reason": judged.reasons[i][j],
            "error": judged.errors[i][j],
            "reward": float(rewards_PK[i, j]) if valid else None,
        }
