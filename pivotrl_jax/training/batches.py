"""From trajectories and judged rollouts to the arrays of one update."""

import itertools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from pivotrl_jax.pivots.rollouts import Rollouts, Row
from pivotrl_jax.training.update import PolicyBatch, SupervisedBatch
from pivotrl_jax.trees import TokenTree, build_row, round_up, stack

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
    size = round_up(max(ends), multiple)
    tree = stack(
        [build_row(trunk[:end], [], size) for (trunk, _), end in zip(examples, ends, strict=True)]
    )
    scored = [np.concatenate([np.arange(*span) for span in spans]) for _, spans in examples]
    index, weight = _pad(scored, round_up(max(map(len, scored)), multiple))
    return jax.tree.map(
        lambda x: micro_batches(x, micro_rows), SupervisedBatch(tree, index, weight)
    )


def policy_batch(
    rows: Sequence[Row],
    trunks: Sequence[np.ndarray],
    samples: Rollouts,
    advantage_PK: Float[np.ndarray, "P K"],
    weight_PK: Float[np.ndarray, "P K"],
    *,
    micro_rows: int,
    multiple: int,
) -> PolicyBatch:
    """One tree per row: the trunk up to its last pivot, and every sample of its pivots.

    `samples` holds the turns of `rows` in their order. A sample of weight 0 (error, truncated)
    stays out of the tree.
    """
    k = samples.lengths_PK.shape[1]
    first = np.cumsum([0] + [len(part) for _, part in rows])
    kept = [
        [(i, j) for i in range(*span) for j in range(k) if weight_PK[i, j] > 0]
        for span in itertools.pairwise(first)
    ]
    lengths = samples.lengths_PK
    heads = [trunks[trunk][: max(turn.start for turn in part)] for trunk, part in rows]
    scored = [sum(lengths[ij] for ij in own) for own in kept]
    size = round_up(max(len(h) + n for h, n in zip(heads, scored, strict=True)), multiple)
    width = round_up(max(scored), multiple)
    parts = [
        _policy_row(trunk, own, samples, advantage_PK, weight_PK, size, width)
        for trunk, own in zip(heads, kept, strict=True)
    ]
    batch = jax.tree.map(lambda *xs: np.concatenate(xs), *parts)
    return jax.tree.map(lambda x: micro_batches(x, micro_rows), batch)


def _policy_row(
    trunk: np.ndarray,
    kept: Sequence[tuple[int, int]],
    samples: Rollouts,
    advantage_PK: np.ndarray,
    weight_PK: np.ndarray,
    size: int,
    width: int,
) -> PolicyBatch:
    n = samples.lengths_PK
    branches = [(samples.turns[i].start, samples.tokens_PKS[i, j, : n[i, j]]) for i, j in kept]
    tree: TokenTree = build_row(trunk, branches, size)
    total = sum(len(suffix) for _, suffix in branches)

    def tokens(per_sample: Sequence[np.ndarray], dtype: type) -> np.ndarray:
        row = np.zeros((1, width), dtype)
        if per_sample:
            row[0, :total] = np.concatenate(per_sample)
        return row

    return PolicyBatch(
        tree=tree,
        index=tokens([len(trunk) + np.arange(total)] if total else [], np.int32),
        weight=tokens([np.full(n[ij], weight_PK[ij]) for ij in kept], np.float32),
        sample=tokens([np.full(n[ij], b) for b, ij in enumerate(kept)], np.int32),
        advantage=tokens([np.full(n[ij], advantage_PK[ij]) for ij in kept], np.float32),
        old_logp=tokens([samples.behaviour_PKS[i, j, : n[i, j]] for i, j in kept], np.float32),
    )


def _pad(scored: Sequence[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    index = np.zeros((len(scored), width), np.int32)
    weight = np.zeros((len(scored), width), np.float32)
    for row, own in enumerate(scored):
        index[row, : len(own)], weight[row, : len(own)] = own, 1
    return index, weight
