"""From trajectories and judged rollouts to the arrays of one update."""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from kernels.grpo import Groups
from pivotrl_jax.environments import Played
from pivotrl_jax.models.experts import UNKNOWN
from pivotrl_jax.pivots import Rollouts, Row
from pivotrl_jax.training.update import ExpertTokens, PolicyBatch, SupervisedBatch
from pivotrl_jax.trees import Tree, balanced, build_row, round_up, stack

Span = tuple[int, int]
Example = tuple[np.ndarray, Sequence[Span]]
# Trees share a row up to about so many tokens, or as many as the longest has: that many make
# matrix products efficient, and attention skips the other trees of a row.
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
    tree = stack([build_row([Tree(trunk) for trunk, _ in row], length) for row in rows])
    return SupervisedBatch(tree, *_weighed([_places(row) for row in rows], multiple))


def _places(row: Sequence[Example]) -> Int[np.ndarray, "A"]:
    """Where the spans of trunks that share a row lie in it."""
    firsts = itertools.accumulate((len(trunk) for trunk, _ in row), initial=0)
    spans = [(f + a, f + b) for f, (_, own) in zip(firsts, row, strict=False) for a, b in own]
    return np.concatenate([np.arange(*span) for span in spans])


def _weighed(
    places: Sequence[np.ndarray], multiple: int
) -> tuple[Int[np.ndarray, "R A"], Float[np.ndarray, "R A"]]:
    """Places by row, and their weights: 1, and 0 for the padding."""
    width = _width([len(index) for index in places], multiple)
    return _fill(places, width), _fill([np.ones(len(index)) for index in places], width)


@dataclasses.dataclass(frozen=True, eq=False)
class _Actions:
    """What is scored of the sequence that ends in one branch: places in it, log-probs as sampled,
    whose sample it is (p * K + k), and experts where recorded."""

    places: Int[np.ndarray, "A"]
    logp: Float[np.ndarray, "A"]
    sample: int
    routes: Int[np.ndarray, "A N J"] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """One tree of a policy batch: what is scored along each of its branches, the groups [P, K]
    that these samples belong to, and where on the trunk experts' actions are to be scored."""

    tree: Tree
    actions: Sequence[_Actions]
    groups: Groups
    experts: Sequence[Span] = ()


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
    shards: int = 1,
    experts: bool = False,
) -> PolicyBatch:
    """A tree for each of `rows`: the trunk as far as it is used, and every sample of its pivots.

    Trees share rows as in `supervised_batch`. The tokens that a sample shares with its expert are
    trunk tokens, scored once for each sample that has them; a branch holds the rest. `rollout`
    holds the turns of `rows`, at most `pivots` of each, in their order. A sample that is not valid
    (error, truncated) stays out. With `experts` the batch has the tokens of its turns' expert
    actions, too, whatever became of the samples. Where samples have routes, so has the batch, of
    their tokens alone: the histories are left to the router, which chooses there as it did before.
    """
    first = np.cumsum([0] + [len(part) for _, part in rows])
    groups = Groups(reward_PK, valid_PK, malformed_PK)  # type: ignore[arg-type]
    parts = [
        _pivots(trunks[trunk], slice(*span), rollout, groups, experts)
        for (trunk, _), span in zip(rows, itertools.pairwise(first), strict=True)
    ]
    shared = _shared([len(part.tree.trunk) + part.tree.own for part in parts], shards)
    together = [[parts[i] for i in own] for own in shared]
    batch = _assemble(together, pivots=pivots, multiple=multiple)
    routes = rollout.samples[0][0].routes
    found = None if routes is None else _routes(together, batch, routes[:0])
    return dataclasses.replace(batch, routes=found)


def _pivots(
    trunk: np.ndarray, turns: slice, rollout: Rollouts, groups: Groups, experts: bool
) -> _Part:
    """The tree of one `Row`, whose turns are number `turns` of the rollout."""
    own = jax.tree.map(lambda x: x[turns], groups)
    starts, samples = [turn.start for turn in rollout.turns[turns]], rollout.samples[turns]
    branches, actions = [], []
    for i, j in np.argwhere(own.valid_RPK):
        start, drawn = starts[i], samples[i][j]
        branches.append((start + drawn.drafted, drawn.tokens[drawn.drafted :]))
        places = start + np.arange(len(drawn.tokens))
        number = i * len(samples[i]) + j
        actions.append(_Actions(places, drawn.behaviour, number, drawn.routes))
    spans = [(turn.start, turn.end) for turn in rollout.turns[turns]] if experts else []
    end = max([*starts, *(leaf for leaf, _ in branches), *(end for _, end in spans)])
    return _Part(Tree(trunk[:end], branches), actions, own, spans)


def episode_batch(
    episodes: Sequence[Sequence[Played]],
    reward_PK: Float[np.ndarray, "P K"],
    valid_PK: Bool[np.ndarray, "P K"],
    malformed_PK: Bool[np.ndarray, "P K"],
    *,
    multiple: int,
    shards: int = 1,
) -> PolicyBatch:
    """Trees of the K episodes of each of P tasks: their opening, then a branch for each one's rest.

    An episode is one sample of its task's group, and only its actions are scored, not what the
    environment said; what follows its last action is cut. Those of a task may lie in several trees,
    so that rows (SHARED_ROW) are of about equal length and as many as `shards`. An episode that is
    not valid stays out.
    """
    groups = Groups(reward_PK, valid_PK, malformed_PK)  # type: ignore[arg-type]
    kept = [(int(p), int(k)) for p, k in np.argwhere(valid_PK) if episodes[p][k].moves]
    sizes = [n for p, own in _by_task(kept) for n in _sizes([episodes[p][k] for k in own])]
    rows = [_by_task([kept[i] for i in row]) for row in _runs(sizes, shards)]
    together = [[_episodes(episodes[p], own, _group(groups, p)) for p, own in row] for row in rows]
    # Where no episode is left there still is a row.
    together = together or [[_Part(Tree(episodes[0][0].tokens[:1]), (), _group(groups, 0))]]
    return _assemble(together, pivots=1, multiple=multiple)


def _by_task(numbers: Sequence[tuple[int, int]]) -> list[tuple[int, list[int]]]:
    """(task, episode) numbers as (task, its episodes)."""
    return [(p, [k for _, k in own]) for p, own in itertools.groupby(numbers, lambda x: x[0])]


def _sizes(own: Sequence[Played]) -> list[int]:
    """Tokens that each of one task's episodes adds to a row, the first one the opening too."""
    start = _opening(own)
    return [len(_tokens(episode)) - start * (i > 0) for i, episode in enumerate(own)]


def _runs(sizes: Sequence[int], shards: int) -> list[list[int]]:
    """Rows of neighbours, of about equal length: an item lies where its middle falls."""
    middles = np.cumsum(sizes) - np.array(sizes) / 2
    places = middles * _rows(sizes, shards) // max(1, sum(sizes))
    return [np.flatnonzero(places == row).tolist() for row in np.unique(places)]


def _episodes(episodes: Sequence[Played], kept: Sequence[int], group: Groups) -> _Part:
    """One tree of the episodes number `kept` of a task."""
    own = [episodes[k] for k in kept]
    start = _opening(own)
    branches = [(start, _tokens(episode)[start:]) for episode in own]
    actions = [_actions(episodes[k], k) for k in kept]
    return _Part(Tree(own[0].tokens[:start], branches), actions, group)


def _group(groups: Groups, number: int) -> Groups:
    return jax.tree.map(lambda x: x[number : number + 1], groups)


def _opening(own: Sequence[Played]) -> int:
    """With how many tokens all episodes of a task begin before anyone acts."""
    heads = [episode.tokens[: episode.moves[0].start] for episode in own]
    shortest = min(heads, key=len)
    return min(int(np.cumprod(head[: len(shortest)] == shortest).sum()) for head in heads)


def _tokens(episode: Played) -> Int[np.ndarray, "T"]:
    """As far as its last action."""
    return episode.tokens[: episode.moves[-1].end]


def _actions(episode: Played, sample: int) -> _Actions:
    places = np.concatenate([np.arange(move.start, move.end) for move in episode.moves])
    return _Actions(places, np.concatenate([move.behaviour for move in episode.moves]), sample)


def _assemble(together: Sequence[Sequence[_Part]], *, pivots: int, multiple: int) -> PolicyBatch:
    """A row of each list of trees, which have at most `pivots` groups each."""
    trees = [[part.tree for part in own] for own in together]
    size = _width([sum(len(tree.trunk) + tree.own for tree in own) for own in trees], multiple)
    scored = [_scored(own) for own in together]
    width = _width([len(index) for index, *_ in scored], COARSER * multiple)
    most = pivots * max(map(len, together))
    index, weight, sample, logp = (_fill(x, width) for x in zip(*scored, strict=True))
    return PolicyBatch(
        tree=stack([build_row(own, size) for own in trees]),
        index=index,
        weight=weight,
        sample=sample,
        old_logp=logp,
        groups=jax.tree.map(lambda *x: np.stack(x), *(_groups(own, most) for own in together)),
        experts=_experts(together, multiple),
    )


def _routes(
    together: Sequence[Sequence[_Part]], batch: PolicyBatch, none: Int[np.ndarray, "0 N J"]
) -> Int[np.ndarray, "R T N J"]:
    """Those of the scored tokens; samples that share a token of the trunk have the same."""
    found = np.full((*batch.tree.shape, *none.shape[1:]), UNKNOWN, none.dtype)
    for row, own in enumerate(together):
        drawn = np.concatenate([none, *(one.routes for part in own for one in part.actions)])
        found[row, batch.index[row, : len(drawn)]] = drawn
    return found


def _experts(together: Sequence[Sequence[_Part]], multiple: int) -> ExpertTokens | None:
    """None where no tree has any to score."""
    if not any(part.experts for own in together for part in own):
        return None
    rows = [[(part.tree.trunk, part.experts) for part in own] for own in together]
    return ExpertTokens(*_weighed([_places(row) for row in rows], multiple))


def _shared(sizes: Sequence[int], shards: int) -> list[list[int]]:
    """Which trees share a row: few rows, of about equal length."""
    return balanced(sizes, _rows(sizes, shards))


def _rows(sizes: Sequence[int], shards: int) -> int:
    rows = round_up(-(-sum(sizes) // max([SHARED_ROW, *sizes])), shards)
    return min(len(sizes), rows)


def _width(sizes: Sequence[int], multiple: int) -> int:
    return round_up(max(sizes), multiple)


def _scored(
    parts: Sequence[_Part],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of the scored tokens of one row: places, weights, numbers of samples and log-probs."""
    index, sample, logp = [np.zeros(0, int)], [np.zeros(0, int)], [np.zeros(0)]
    first, at, before = 0, sum(len(part.tree.trunk) for part in parts), 0
    for part in parts:
        for (start, suffix), own in zip(part.tree.branches, part.actions, strict=True):
            on_trunk = own.places < start
            index.append(own.places + np.where(on_trunk, first, at - start))
            sample.append(np.full(len(own.places), before + own.sample))
            logp.append(own.logp)
            at += len(suffix)
        first, before = first + len(part.tree.trunk), before + part.groups.reward_RPK.size
    places = np.concatenate(index)
    return places, np.ones(len(places)), np.concatenate(sample), np.concatenate(logp)


def _groups(parts: Sequence[_Part], most: int) -> Groups:
    """Those of one row, with empty ones up to `most`."""

    def together(*own: np.ndarray) -> np.ndarray:
        found = np.concatenate(own)
        return np.pad(found, ((0, most - len(found)), (0, 0)))

    return jax.tree.map(together, *(part.groups for part in parts))


def _fill(rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    """One array of int32 or float32, with zeros up to `width`."""
    kind = np.int32 if np.issubdtype(rows[0].dtype, np.integer) else np.float32
    return np.stack([np.pad(row, (0, width - len(row))).astype(kind) for row in rows])
