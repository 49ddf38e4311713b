"""From trajectories and judged rollouts to the arrays of one update."""

import itertools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float

from kernels.grpo import Groups
from pivotrl_jax.pivots import Rollouts, Row
from pivotrl_jax.training.update import PolicyBatch, SupervisedBatch
from pivotrl_jax.trees import Layout, build_row, round_up, stack

Span = tuple[int, int]


def supervised_batch(
    examples: Sequence[tuple[np.ndarray, Sequence[Span]]], *, multiple: int
) -> SupervisedBatch:
    """A row per trunk, with the spans whose tokens are the targets; tokens after them are cut."""
    ends = [max(end for _, end in spans) for _, spans in examples]
    layout = Layout(round_up(max(ends), multiple))
    tree = stack(
        [build_row(trunk[:end], [], layout) for (trunk, _), end in zip(examples, ends, strict=True)]
    )
    scored = [np.concatenate([np.arange(*span) for span in spans]) for _, spans in examples]
    index, weight = _pad(scored, round_up(max(map(len, scored)), multiple))
    return SupervisedBatch(tree, index, weight)


def policy_batch(
    rows: Sequence[Row],
    trunks: Sequence[np.ndarray],
    rollout: Rollouts,
    reward_PK: Float[np.ndarray, "P K"],
    valid_PK: Bool[np.ndarray, "P K"],
    malformed_PK: Bool[np.ndarray, "P K"],
    *,
    pivots: int,
    multiple: int,
    reach: int,
) -> PolicyBatch:
    """One tree per row: the trunk as far as it is used, and every sample of its pivots.

    The tokens that a sample shares with its expert are trunk tokens, scored once for each sample
    that has them; a branch holds the rest. `rollout` holds the turns of `rows`, at most `pivots` of
    each, in their order; its samples have at most `reach` tokens. A sample that is not valid
    (error, truncated) stays out.
    """
    first = np.cumsum([0] + [len(part) for _, part in rows])
    kept = [
        [(i, int(j)) for i in range(*span) for j in np.flatnonzero(valid_PK[i])]
        for span in itertools.pairwise(first)
    ]
    leaves = [
        [rollout.turns[i].start + rollout.samples[i][j].drafted for i, j in own] for own in kept
    ]
    heads = [
        trunks[trunk][: max([*(turn.start for turn in part), *own])]
        for (trunk, part), own in zip(rows, leaves, strict=True)
    ]
    scored = [sum(len(rollout.samples[i][j].tokens) for i, j in own) for own in kept]
    shared = [sum(rollout.samples[i][j].drafted for i, j in own) for own in kept]
    layout = Layout(
        round_up(max(map(len, heads)), multiple),
        round_up(max(np.subtract(scored, shared)), multiple),
        reach,
    )
    width = round_up(max(scored), multiple)

    def groups(start: int, stop: int) -> Groups:
        missing = ((0, pivots - (stop - start)), (0, 0))
        every = Groups(reward_PK, valid_PK, malformed_PK)  # type: ignore[arg-type]
        return jax.tree.map(lambda x: np.pad(x[start:stop], missing)[None], every)

    parts = [
        _policy_row(
            trunk,
            own,
            rollout,
            groups(*span),
            span[0],
            layout,
            width,
        )
        for trunk, own, span in zip(heads, kept, itertools.pairwise(first), strict=True)
    ]
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def _policy_row(
    trunk: np.ndarray,
    kept: Sequence[tuple[int, int]],
    rollout: Rollouts,
    groups: Groups,
    first: int,
    layout: Layout,
    width: int,
) -> PolicyBatch:
    drawn = [rollout.samples[i][j] for i, j in kept]
    starts = [rollout.turns[i].start for i, _ in kept]
    branches = [(s + d.drafted, d.tokens[d.drafted :]) for s, d in zip(starts, drawn, strict=True)]
    lengths = np.array([len(d.tokens) for d in drawn], int)
    own = layout.trunk + np.cumsum([0, *(len(suffix) for _, suffix in branches)])
    index = [
        np.concatenate([s + np.arange(d.drafted), at + np.arange(len(d.tokens) - d.drafted)])
        for s, d, at in zip(starts, drawn, own, strict=False)
    ]

    def row(values: np.ndarray, dtype: type) -> np.ndarray:
        return np.pad(values, (0, width - len(values))).astype(dtype)[None]

    samples = groups.reward_RPK.shape[-1]
    number = np.array([(i - first) * samples + j for i, j in kept], int)
    return PolicyBatch(
        tree=build_row(trunk, branches, layout),
        index=row(np.concatenate([np.zeros(0), *index]), np.int32),
        weight=row(np.ones(lengths.sum()), np.float32),
        sample=row(np.repeat(number, lengths), np.int32),
        old_logp=row(np.concatenate([np.zeros(0), *(d.behaviour for d in drawn)]), np.float32),
        groups=groups,
    )


def _pad(scored: Sequence[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    index = np.zeros((len(scored), width), np.int32)
    weight = np.zeros((len(scored), width), np.float32)
    for row, own in enumerate(scored):
        index[row, : len(own)], weight[row, : len(own)] = own, 1
    return index, weight
