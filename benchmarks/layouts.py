"""The samples of one update in both layouts: one tree, or one row per sample."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from kernels.grpo import Groups
from pivotrl_jax.pivots import Rollouts, Turn
from pivotrl_jax.sampling import Sample
from pivotrl_jax.training import (
    PolicyBatch,
    SupervisedBatch,
    micro_batches,
    policy_batch,
    supervised_batch,
)
from pivotrl_jax.trajectories import Action
from pivotrl_jax.trees import Tree, build_row

# Trunks and branches are padded to a multiple of this. It divides all shapes of the grids, so that
# neither side pays for padding there.
MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class Point:
    """A trajectory with `pivots` candidates at equal distances, the last one after `history`
    tokens, and `samples` (K) actions of `action` tokens at each."""

    history: int
    action: int
    samples: int
    pivots: int

    @property
    def starts(self) -> list[int]:
        return [self.history * (i + 1) // self.pivots for i in range(self.pivots)]


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """Random samples, every other one a success."""

    trunk: np.ndarray
    rollout: Rollouts
    reward_PK: np.ndarray


def draw(point: Point, vocab: int) -> Drawn:
    """Samples that share nothing with the expert, so that no draft shortens their branches."""
    rng = np.random.default_rng(0)
    trunk = rng.integers(vocab, size=point.history + point.action, dtype=np.int32)
    turns = [
        Turn(str(i), "0", "random", i, 0, start, start + point.action, Action())
        for i, start in enumerate(point.starts)
    ]
    # About what a policy with random weights gives: the ratio stays near 1.
    logp = np.full(point.action, -np.log(vocab), np.float32)

    def one() -> Sample:
        tokens = rng.integers(vocab, size=point.action, dtype=np.int32)
        return Sample(tokens, logp, logp, truncated=False)

    samples = [[one() for _ in range(point.samples)] for _ in turns]
    reward_PK = np.tile(np.arange(point.samples) % 2, (point.pivots, 1)).astype(np.float32)
    return Drawn(trunk, Rollouts(turns, samples), reward_PK)


def tree_batch(drawn: Drawn) -> PolicyBatch:
    """All samples as branches of one trunk, in one micro-batch."""
    turns, valid_PK = drawn.rollout.turns, np.ones(drawn.reward_PK.shape, bool)
    rows = policy_batch(
        [(0, turns)],
        [drawn.trunk],
        drawn.rollout,
        drawn.reward_PK,
        valid_PK,
        ~valid_PK,
        pivots=len(turns),
        multiple=MULTIPLE,
    )
    return micro_batches(rows, 1)


def flat_batches(drawn: Drawn, budget: int) -> list[PolicyBatch]:
    """Every sample with its history as a row of its own; one batch per pivot.

    The rows of a pivot are equally long, so nothing is padded to the longest history. A
    micro-batch holds as many rows as fit `budget` tokens, the size of the tree.
    """
    batches = []
    for turn, group, reward_K in zip(
        drawn.rollout.turns, drawn.rollout.samples, drawn.reward_PK, strict=True
    ):
        history = drawn.trunk[: turn.start]
        rows = [_flat_row(history, sample, k, reward_K) for k, sample in enumerate(group)]
        batch = jax.tree.map(lambda *xs: np.concatenate(xs), *rows)
        micro = _largest_divisor(len(rows), budget // batch.tree.shape[1])
        batches.append(micro_batches(batch, micro))
    return batches


def _flat_row(history: np.ndarray, sample: Sample, k: int, reward_K: np.ndarray) -> PolicyBatch:
    """Sample k of a pivot; the rewards of its whole group come along, for its advantage."""
    n, start, valid_K = len(sample.tokens), len(history), np.ones(len(reward_K), bool)
    tokens = np.concatenate([history, sample.tokens])
    groups: list[Any] = [x[None, None] for x in (reward_K, valid_K, ~valid_K)]
    return PolicyBatch(
        tree=build_row([Tree(tokens)], len(tokens)),
        index=start + np.arange(n, dtype=np.int32)[None],
        weight=np.ones((1, n), np.float32),
        sample=np.full((1, n), k, np.int32),
        old_logp=sample.behaviour[None],
        groups=Groups(*groups),
    )


def _largest_divisor(rows: int, most: int) -> int:
    """The largest divisor of `rows` up to `most`: no micro-batch is filled up with empty rows."""
    return max(n for n in range(1, max(most, 1) + 1) if rows % n == 0)


def sft_batch(tokens: int, scored: int, vocab: int) -> SupervisedBatch:
    """One trunk whose last `scored` tokens are the targets."""
    trunk = np.random.default_rng(1).integers(vocab, size=tokens, dtype=np.int32)
    spans = [(tokens - scored, tokens)]
    return micro_batches(supervised_batch([(trunk, spans)], multiple=MULTIPLE), 1)


@dataclasses.dataclass(frozen=True)
class Work:
    """What a layout has to compute: tokens without padding, places of padding, pairs of a token
    and a token that it sees, and scored tokens."""

    tokens: int
    padding: int
    pairs: int
    scored: int


def work(batches: Sequence[PolicyBatch | SupervisedBatch]) -> Work:
    """Counted from the arrays. A token sees its own sequence up to itself, in either layout."""
    trees = [batch.tree for batch in batches]
    tokens = sum(int((tree.segments >= 0).sum()) for tree in trees)
    return Work(
        tokens=tokens,
        padding=sum(tree.segments.size for tree in trees) - tokens,
        pairs=sum(int((tree.positions + 1)[tree.segments >= 0].sum()) for tree in trees),
        scored=sum(int((batch.weight > 0).sum()) for batch in batches),
    )
