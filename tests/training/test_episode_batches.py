"""Episodes as trees: every action token is scored where its episode has it, and nothing else is."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivotrl_jax.environments import Move, Played, Task
from pivotrl_jax.training import PolicyBatch, batches, episode_batch

MULTIPLE = 4


def episode(opening: list[int], turns: list[tuple[list[int], list[int]]], number: int) -> Played:
    """The opening, then an action and what the environment answers in every turn."""
    tokens, moves, at = list(opening), [], len(opening)
    for action, answer in turns:
        end = at + len(action)
        logp = -np.arange(at, end, dtype=np.float32) - number / 8
        moves.append(Move(at, end, logp, logp, malformed=False, valid=True, text=""))
        tokens, at = tokens + action + answer, end + len(answer)
    task = Task("task", "group", "train")
    return Played(task, number, np.array(tokens, np.int32), tuple(moves), (), 0.0, "done")


# Two kinds of tokens: episodes part anywhere, within actions too, or not at all.
words = lambda least: st.lists(st.integers(0, 1), min_size=least, max_size=4)  # noqa: E731
turns = st.lists(st.tuples(words(1), words(0)), max_size=3)


@st.composite
def groups(draw: st.DrawFn) -> tuple[list[list[Played]], np.ndarray]:
    """As many episodes of every task, and which of them are valid."""
    tasks, samples = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    openings = [draw(words(1)) for _ in range(tasks)]
    episodes = [
        [episode(opening, draw(turns), samples * p + k) for k in range(samples)]
        for p, opening in enumerate(openings)
    ]
    valid = draw(st.lists(st.booleans(), min_size=tasks * samples, max_size=tasks * samples))
    return episodes, np.reshape(valid, (tasks, samples))


def batch_of(episodes: list[list[Played]], valid_PK: np.ndarray, shards: int = 1) -> PolicyBatch:
    reward_PK = np.arange(valid_PK.size, dtype=np.float32).reshape(valid_PK.shape)
    return episode_batch(
        episodes, reward_PK, valid_PK, reward_PK % 2 > 0, multiple=MULTIPLE, shards=shards
    )


def scored(batch: PolicyBatch) -> list[tuple]:
    """Of every scored token the sequence that ends with it, its log-prob, the number of its sample
    and the group."""
    found, tree = [], batch.tree
    for row, scored_A in enumerate(batch.weight > 0):
        for a in np.flatnonzero(scored_A):
            place = batch.index[row, a]
            sequence = [tree.tokens[row, place]]
            while len(sequence) <= tree.positions[row, batch.index[row, a]]:
                place = tree.parents[row, place]
                sequence.append(tree.tokens[row, place])
            p, k = divmod(batch.sample[row, a], batch.groups.valid_RPK.shape[-1])
            own = [
                x[row, p].tolist()
                for x in (batch.groups.reward_RPK, batch.groups.valid_RPK)
            ]  # fmt: skip
            malformed = batch.groups.malformed_RPK[row, p, k]
            found.append((sequence[::-1], batch.old_logp[row, a], k, *own, malformed))
    return sorted(found)


def expected(episodes: list[list[Played]], valid_PK: np.ndarray) -> list[tuple]:
    found, samples = [], valid_PK.shape[1]
    for p, k in np.argwhere(valid_PK):
        own = episodes[p][k]
        rewards = np.arange(samples) + p * samples
        for move in own.moves:
            for place, logp in zip(range(move.start, move.end), move.behaviour, strict=True):
                sequence = own.tokens[: place + 1].tolist()
                odd = rewards[k] % 2 > 0
                found.append((sequence, logp, k, rewards.tolist(), valid_PK[p].tolist(), odd))
    return sorted(found)


@given(groups(), st.integers(4, 40), st.integers(1, 8))
def test_the_scored_tokens_are_the_actions_of_valid_episodes(own, room: int, shards: int):
    """However rows are cut: in few rows or many, with the episodes of a task together or apart."""
    with mock.patch.object(batches, "SHARED_ROW", room):
        batch = batch_of(*own, shards=shards)
    assert scored(batch) == expected(*own)
    assert set(np.unique(batch.weight)) <= {0, 1}


OPENING = [5, 6, 7]
ALIKE = [([1, 2], [3]), ([4], [5, 6])]
OTHER = [([1, 9], [3]), ([4], [5, 6])]


@pytest.mark.parametrize(
    ("played", "branches"),
    [
        # What follows the last action is cut.
        ([ALIKE, OTHER], 4 + 4),
        ([ALIKE, ALIKE[:1], OTHER], 4 + 2 + 4),
        ([ALIKE], 4),
        ([[], ALIKE], 4),
    ],
)
def test_the_opening_is_there_once(played, branches):
    episodes = [episode(OPENING, own, k) for k, own in enumerate(played)]
    segments = batch_of([episodes], np.ones((1, len(episodes)), bool)).tree.segments
    assert (segments == 0).sum() == len(OPENING)
    assert (segments > 0).sum() == branches


def test_openings_that_differ_after_all_stay_apart():
    episodes = [[episode([5, 6, n], ALIKE, n) for n in range(2)]]
    everything = np.ones((1, 2), bool)
    batch = batch_of(episodes, everything)
    assert (batch.tree.segments == 0).sum() == 2
    assert scored(batch) == expected(episodes, everything)


@pytest.mark.parametrize("played", [[[], []], [ALIKE, ALIKE]])
def test_without_a_valid_action_there_is_a_batch_of_nothing(played):
    episodes = [[episode(OPENING, own, k) for k, own in enumerate(played)]]
    batch = batch_of(episodes, np.full((1, 2), not played[0]))
    assert batch.weight.shape == (1, 4 * MULTIPLE)
    assert batch.weight.sum() == 0


def test_a_group_too_large_for_a_row_or_too_small_for_the_devices_is_cut():
    """Eight episodes of 3 + 28 tokens of each of two tasks."""
    turns = [([i, 1, 2, 3], [4] * 20) for i in range(8)]
    episodes = [[episode(OPENING, [turn, turn], k) for k, turn in enumerate(turns)]] * 2
    everything = np.ones((2, 8), bool)
    tokens = lambda batch: (batch.tree.segments >= 0).sum(axis=1).tolist()  # noqa: E731
    assert tokens(batch_of(episodes, everything)) == [2 * (3 + 8 * 28)]
    assert tokens(batch_of(episodes, everything, shards=8)) == [3 + 2 * 28] * 8
    with mock.patch.object(batches, "SHARED_ROW", 3 + 4 * 28):
        assert tokens(batch_of(episodes, everything)) == [3 + 4 * 28] * 4
