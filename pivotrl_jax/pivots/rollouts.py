"""One-turn rollouts: sample K actions at every turn and judge them."""

import dataclasses
import json
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from pivotrl_jax.models import ModelConfig, Params
from pivotrl_jax.parallel import rows as row_sharding
from pivotrl_jax.sampling import Samples, SamplingSettings, sample, sample_keys
from pivotrl_jax.text import ActionFormat, Tokenizer
from pivotrl_jax.trajectories import Action
from pivotrl_jax.trees import chunks, round_up
from pivotrl_jax.verifiers import Verifier


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


@dataclasses.dataclass(frozen=True)
class RolloutSettings:
    """K samples per turn; `rows` trunks of `turns_per_row` turns each are decoded at once."""

    samples: int = 8
    rows: int = 1
    turns_per_row: int = 8
    row_multiple: int = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Rollouts:
    """The samples of P turns; arrays are NumPy, in the order of `turns`.

    `behaviour_PKS` is the log-prob under the distribution drawn from, `plain_PKS` the untempered
    one; both are 0 beyond `lengths_PK`.
    """

    turns: tuple[Turn, ...]
    tokens_PKS: Int[np.ndarray, "P K S"]
    behaviour_PKS: Float[np.ndarray, "P K S"]
    plain_PKS: Float[np.ndarray, "P K S"]
    lengths_PK: Int[np.ndarray, "P K"]
    truncated_PK: Bool[np.ndarray, "P K"]


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """What the verifier said of every sample. A sample with an error is not valid."""

    criteria_PKC: Float[np.ndarray, "P K C"]
    valid_PK: Bool[np.ndarray, "P K"]
    malformed_PK: Bool[np.ndarray, "P K"]
    texts: list[list[str]]
    reasons: list[list[str]]
    errors: list[list[str | None]]


Row = tuple[int, list[Turn]]


def plan(turns: Sequence[Turn], per_row: int) -> list[Row]:
    """Groups turns by trunk into rows of at most `per_row`, in order of first appearance."""
    by_trunk: dict[int, list[Turn]] = defaultdict(list)
    for turn in turns:
        by_trunk[turn.trunk].append(turn)
    return [(trunk, part) for trunk, own in by_trunk.items() for part in chunks(own, per_row)]


def sample_rows(
    params: Params,
    cfg: ModelConfig,
    rows: Sequence[Row],
    trunks: Sequence[np.ndarray],
    key: PRNGKeyArray,
    tokenizer: Tokenizer,
    sampling: SamplingSettings,
    settings: RolloutSettings,
    mesh: Mesh,
) -> Rollouts:
    """K actions at every turn of at most `settings.rows` rows, in one call of the decoding loop.

    A trunk is prefilled once for all its turns and samples. The draws of a turn depend on `key`,
    its id and the sample's number, not on the batch it lies in.
    """
    k, per_row = settings.samples, settings.turns_per_row
    longest = max(max(turn.start for turn in part) for _, part in rows)
    trunks_RL = np.zeros((settings.rows, round_up(longest, settings.row_multiple)), np.int32)
    start_RP = np.zeros((settings.rows, per_row), np.int32)
    ids_RP = np.zeros((settings.rows, per_row), np.uint32)
    for r, (trunk, part) in enumerate(rows):
        history = trunks[trunk][: max(turn.start for turn in part)]
        trunks_RL[r, : len(history)] = history
        start_RP[r, : len(part)] = [turn.start for turn in part]
        ids_RP[r, : len(part)] = [zlib.crc32(turn.id.encode()) for turn in part]
    put = lambda x: jax.device_put(x, row_sharding(mesh, x.shape))  # noqa: E731
    numbers_RB = np.tile(np.arange(k, dtype=np.int32), (settings.rows, per_row))
    keys = sample_keys(key, put(np.repeat(ids_RP, k, axis=1)), put(numbers_RB))
    start_RB = put(np.repeat(start_RP, k, axis=1))
    out = sample(params, cfg, put(trunks_RL), start_RB, keys, sampling, tokenizer.eot)
    return _collect(rows, jax.device_get(out), k)


def _collect(rows: Sequence[Row], out: Samples, k: int) -> Rollouts:
    """Slots [R, B] back to turns [P, K]."""
    turns = tuple(turn for _, part in rows for turn in part)

    def gather(x: np.ndarray) -> np.ndarray:
        grouped = x.reshape(x.shape[0], -1, k, *x.shape[2:])
        return np.concatenate([grouped[r, : len(part)] for r, (_, part) in enumerate(rows)])

    return Rollouts(
        turns,
        gather(out.tokens_RBS),
        gather(out.behaviour_RBS),
        gather(out.plain_RBS),
        gather(out.lengths_RB),
        gather(out.truncated_RB),
    )


def rollouts(
    params: Params,
    cfg: ModelConfig,
    turns: Sequence[Turn],
    settings: RolloutSettings,
    **context: Any,
) -> Iterator[Rollouts]:
    """`sample_rows` over all turns, one batch of rows after the other."""
    for batch in chunks(plan(turns, settings.turns_per_row), settings.rows):
        yield sample_rows(params, cfg, batch, settings=settings, **context)


def judge(
    samples: Rollouts,
    tokenizer: Tokenizer,
    fmt: ActionFormat,
    verifier: Verifier,
    *,
    truncated: str = "exclude",
) -> Judged:
    """Parses and verifies every sample.

    `truncated` says what a sample that reached the token cap is: "exclude" takes it out of its
    group, "fail" judges what there is of it.
    """
    p, k = samples.lengths_PK.shape
    criteria_PKC = np.zeros((p, k, len(verifier.criteria)), np.float32)
    valid_PK = np.ones((p, k), bool)
    malformed_PK = np.zeros((p, k), bool)
    texts = [[""] * k for _ in range(p)]
    reasons = [[""] * k for _ in range(p)]
    errors: list[list[str | None]] = [[None] * k for _ in range(p)]
    for i, j in np.ndindex(p, k):
        ids = samples.tokens_PKS[i, j, : samples.lengths_PK[i, j]]
        text = tokenizer.decode(ids[ids != tokenizer.eot].tolist())
        parsed = fmt.parse(text)
        verdict = verifier(samples.turns[i].expert, parsed)
        error = verdict.error
        if samples.truncated_PK[i, j] and truncated == "exclude":
            error = "truncated"
        if error is None:
            criteria_PKC[i, j] = [verdict.criteria[name] for name in verifier.criteria]
        valid_PK[i, j] = error is None
        malformed_PK[i, j] = bool(parsed.problems)
        texts[i][j], reasons[i][j], errors[i][j] = text, verdict.reason, error
    return Judged(criteria_PKC, valid_PK, malformed_PK, texts, reasons, errors)


def sample_records(
    samples: Rollouts, judged: Judged, rewards_PK: np.ndarray, criteria: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """One record per sample, as `pivots.store.SCHEMA` has it; no reward without a verdict."""
    for (i, j), length in np.ndenumerate(samples.lengths_PK):
        valid = judged.valid_PK[i, j]
        values = map(float, judged.criteria_PKC[i, j])
        yield {
            "candidate_id": samples.turns[i].id,
            "sample": j,
            "tokens": samples.tokens_PKS[i, j, :length].tolist(),
            "text": judged.texts[i][j],
            "length": int(length),
            "truncated": bool(samples.truncated_PK[i, j]),
            "malformed": bool(judged.malformed_PK[i, j]),
            "logp": float(samples.plain_PKS[i, j, :length].sum(dtype=np.float64)),
            "criteria": json.dumps(dict(zip(criteria, values, strict=True)) if valid else {}),
            "reason": judged.reasons[i][j],
            "error": judged.errors[i][j],
            "reward": float(rewards_PK[i, j]) if valid else None,
        }
