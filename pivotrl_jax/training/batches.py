"""From trajectories and judged rollouts to the arrays of one update."""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float

from kernels.grpo import Groups
from pivotrl_jax.pivots import Rollouts, Row
from pivotrl_jax.training.update import PolicyBatch, SupervisedBatch
from pivotrl_jax.trees import Layout, Tree, balanced, build_row, round_up, stack

Span = tuple[int, int]
Example = tuple[np.ndarray, Sequence[Span]]
# Trees share a row up to about so many tokens, or as many as the longest has. In such a row
# attention is less work than the rest, even where other trees' keys are masked and not skipped.
SHARED_ROW = 4_096
# The list of scored tokens is rounded more coarsely than rows are: padding costs little there, and
# every shape costs a compilation.
COARSER = 4


def supervised_batch(
    examples: Sequence[Example], *, multiple: int, shards: int = 1
) -> SupervisedBatch:
    """Trunks with the spans whose tokens are the targets; the tokens after them are cut.

    Trunks share rows (SHARED_ROW); there are at least as many rows as `shards`, or else as trunks.
    """
    cut = [(trunk[: max(end for _, end in spans)], spans) for trunk, spans in examples]
    shared = _shared([len(trunk) for trunk, _ in cut], shards)
    rows = [[cut[i] for i in own] for own in shared]
    length = _width([sum(len(trunk) for trunk, _ in row) for row in rows], multiple)
    return packed_batch(rows, length, COARSER * multiple)


def packed_batch(rows: Sequence[Sequence[Example]], length: int, multiple: int) -> SupervisedBatch:
    """Rows of `length` tokens, each of the trunks that are given for it.

    The lists of scored tokens are padded to a multiple of `multiple`.
    """
    layout = Layout(length)
    tree = stack([build_row([Tree(trunk) for trunk, _ in row], layout) for row in rows])
    scored = []
    for row in rows:
        firsts = itertools.accumulate((len(trunk) for trunk, _ in row), initial=0)
        spans = [(f + a, f + b) for f, (_, own) in zip(firsts, row, strict=False) for a, b in own]
        scored.append(np.concatenate([np.arange(*span) for span in spans]))
    width = _width([len(index) for index in scored], multiple)
    weight = [np.ones(len(index)) for index in scored]
    return SupervisedBatch(tree, _fill(scored, width), _fill(weight, width))


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """The tree of one `Row`: `kept` are (turn, sample) numbers of its branches, in order."""

    tree: Tree
    kept: Sequence[tuple[int, int]]
    turns: range


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
    shards: int = 1,
) -> PolicyBatch:
    """A tree for each of `rows`: the trunk as far as it is used, and every sample of its pivots.

    Trees share rows as in `supervised_batch`. The tokens that a sample shares with its expert are
    trunk tokens, scored once for each sample that has them; a branch holds the rest. `rollout`
    holds the turns of `rows`, at most `pivots` of each, in their order; its samples have at most
    `reach` tokens. A sample that is not valid (error, truncated) stays out.
    """
    first = np.cumsum([0] + [len(part) for _, part in rows])
    parts = [
        _part(trunks[trunk], range(*span), rollout, valid_PK)
        for (trunk, _), span in zip(rows, itertools.pairwise(first), strict=True)
    ]
    shared = _shared([len(part.tree.trunk) + part.tree.own for part in parts], shards)
    together = [[parts[i] for i in own] for own in shared]
    layout = Layout(
        _width([sum(len(part.tree.trunk) for part in own) for own in together], multiple),
        _width([sum(part.tree.own for part in own) for own in together], multiple),
        reach,
    )
    scored = [_scored(own, rollout, layout) for own in together]
    width = _width([len(index) for index, *_ in scored], COARSER * multiple)
    groups = Groups(reward_PK, valid_PK, malformed_PK)  # type: ignore[arg-type]
    most = pivots * max(map(len, together))
    index, weight, sample, logp = (_fill(x, width) for x in zip(*scored, strict=True))
    return PolicyBatch(
        tree=stack([build_row([part.tree for part in own], layout) for own in together]),
        index=index,
        weight=weight,
        sample=sample,
        old_logp=logp,
        groups=jax.tree.map(
            lambda *x: np.stack(x), *(_groups(groups, own, most) for own in together)
        ),
    )


def _part(
    trunk: np.ndarray, turns: range, rollout: Rollouts, valid_PK: Bool[np.ndarray, "P K"]
) -> _Part:
    kept = [(i, int(j)) for i in turns for j in np.flatnonzero(valid_PK[i])]
    drawn = [rollout.samples[i][j] for i, j in kept]
    leaves = [rollout.turns[i].start + d.drafted for (i, _), d in zip(kept, drawn, strict=True)]
    end = max([*(rollout.turns[i].start for i in turns), *leaves])
    branches = [(at, d.tokens[d.drafted :]) for at, d in zip(leaves, drawn, strict=True)]
    return _Part(Tree(trunk[:end], branches), kept, turns)


def _shared(sizes: Sequence[int], shards: int) -> list[list[int]]:
    """Which trees share a row: few rows, of about equal length."""
    rows = round_up(-(-sum(sizes) // max(SHARED_ROW, *sizes)), shards)
    return balanced(sizes, min(len(sizes), rows))


def _width(sizes: Sequence[int], multiple: int) -> int:
    return round_up(max(sizes), multiple)


def _scored(
    parts: Sequence[_Part], rollout: Rollouts, layout: Layout
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of the scored tokens of one row: places, weights, numbers of samples and log-probs."""
    index, sample, logp = [np.zeros(0, int)], [np.zeros(0, int)], [np.zeros(0)]
    first, at, before = 0, layout.trunk, 0
    for part in parts:
        for i, j in part.kept:
            drawn, start = rollout.samples[i][j], first + rollout.turns[i].start
            rest = len(drawn.tokens) - drawn.drafted
            index += [start + np.arange(drawn.drafted), at + np.arange(rest)]
            number = (before + i - part.turns.start) * len(rollout.samples[i]) + j
            sample.append(np.full(len(drawn.tokens), number))
            logp.append(drawn.behaviour)
            at += rest
        first, before = first + len(part.tree.trunk), before + len(part.turns)
    places = np.concatenate(index)
    return places, np.ones(len(places)), np.concatenate(sample), np.concatenate(logp)


def _groups(groups: Groups, parts: Sequence[_Part], most: int) -> Groups:
    """Those of one row's turns, with empty ones up to `most`."""
    turns = [i for part in parts for i in part.turns]
    return jax.tree.map(lambda x: np.pad(x[turns], ((0, most - len(turns)), (0, 0))), groups)


def _fill(rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    """One array of int32 or float32, with zeros up to `width`."""
    kind = np.int32 if np.issubdtype(rows[0].dtype, np.integer) else np.float32
    return np.stack([np.pad(row, (0, width - len(row))).astype(kind) for row in rows])
