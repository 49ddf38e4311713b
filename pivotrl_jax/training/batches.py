"""From trajectories and judged rollouts to the arrays of one update."""

import itertools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from pivotrl_jax.pivots import Rollouts, Row
from pivotrl_jax.training.update import PolicyBatch, SupervisedBatch
from pivotrl_jax.trees import Layout, build_row, round_up, stack

Span = tuple[int, int]


def micro_batches(x: np.ndarray, rows: int) -> np.ndarray:
    """[M * R, ...] as [M, R, ...]; rows of zeros fill the last micro-batch."""
    missing = -len(x) % rows
    x = np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)]) if missing else x
    return x.reshape(-1, rows, *x.shape[1:])


def supervised_batch(
    examples: Sequence[tuple[np.ndarray, Sequence[Span]]], *, micro_rows: int, multiple: int
) -> SupervisedBatch:
    """Trunks with the spans whose tokens are the targets. Tokens after the last span are cut."""
    ends = [max(end for _, end in spans) for _, spans in examples]
    layout = Layout(round_up(max(ends), multiple))
    tree = stack(
        [build_row(trunk[:end], [], layout) for (trunk, _), end in zip(examples, ends, strict=True)]
    )
    scored = [np.concatenate([np.arange(*span) for span in spans]) for _, spans in examples]
    index, weight = _pad(scored, round_up(max(map(len, scored)), multiple))
    return jax.tree.map(
        lambda x: micro_batches(x, micro_rows), SupervisedBatch(tree, index, weight)
    )


def policy_batch(
    rows: Sequence[Row],
    trunks: Sequence[np.ndarray],
    rollout: Rollouts,
    advantage_PK: Float[np.ndarray, "P K"],
    weight_PK: Float[np.ndarray, "P K"],
    *,
    micro_rows: int,
    multiple: int,
    reach: int,
) -> PolicyBatch:
    """One tree per row: the trunk up to its last pivot, and every sample of its pivots.

    `rollout` holds the turns of `rows` in their order; its samples have at most `reach` tokens. A
    sample of weight 0 (error, truncated) stays out of the tree.
    """
    first = np.cumsum([0] + [len(part) for _, part in rows])
    kept = [
        [(i, int(j)) for i in range(*span) for j in np.flatnonzero(weight_PK[i] > 0)]
        for span in itertools.pairwise(first)
    ]
    heads = [trunks[trunk][: max(turn.start for turn in part)] for trunk, part in rows]
    scored = [sum(len(rollout.samples[i][j].tokens) for i, j in own) for own in kept]
    layout = Layout(
        round_up(max(map(len, heads)), multiple), round_up(max(scored), multiple), reach
    )
    parts = [
        _policy_row(trunk, own, rollout, advantage_PK, weight_PK, layout)
        for trunk, own in zip(heads, kept, strict=True)
    ]
    batch = jax.tree.map(lambda *xs: np.concatenate(xs), *parts)
    return jax.tree.map(lambda x: micro_batches(x, micro_rows), batch)


def _policy_row(
    trunk: np.ndarray,
    kept: Sequence[tuple[int, int]],
    rollout: Rollouts,
    advantage_PK: np.ndarray,
    weight_PK: np.ndarray,
    layout: Layout,
) -> PolicyBatch:
    drawn = [rollout.samples[i][j] for i, j in kept]
    branches = [(rollout.turns[i].start, d.tokens) for (i, _), d in zip(kept, drawn, strict=True)]
    lengths = np.array([len(d.tokens) for d in drawn], int)
    total = lengths.sum()

    def row(values: np.ndarray, dtype: type) -> np.ndarray:
        return np.pad(values, (0, layout.branches - total)).astype(dtype)[None]

    def spread(values_PK: np.ndarray) -> np.ndarray:
        return np.repeat([values_PK[ij] for ij in kept], lengths)

    return PolicyBatch(
        tree=build_row(trunk, branches, layout),
        index=row(layout.trunk + np.arange(total), np.int32),
        weight=row(spread(weight_PK), np.float32),
        sample=row(np.repeat(np.arange(len(kept)), lengths), np.int32),
        advantage=row(spread(advantage_PK), np.float32),
        old_logp=row(np.concatenate([np.zeros(0), *(d.behaviour for d in drawn)]), np.float32),
    )


def _pad(scored: Sequence[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    index = np.zeros((len(scored), width), np.int32)
    weight = np.zeros((len(scored), width), np.float32)
    for row, own in enumerate(scored):
        index[row, : len(own)], weight[row, : len(own)] = own, 1
    return index, weight
