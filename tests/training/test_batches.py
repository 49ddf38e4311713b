"""What every scored token of a batch carries, looked up in the samples it came from."""

import numpy as np
import pytest

from pivotrl_jax.training import packed_batch, policy_batch, supervised_batch

MULTIPLE = 32


@pytest.fixture(scope="module")
def valid_PK(reward_PK) -> np.ndarray:
    """Some samples stay out, one whole turn and one whole row among them."""
    valid_PK = np.ones(reward_PK.shape, bool)
    valid_PK[0, 1] = False
    valid_PK[3] = False
    valid_PK[6] = False
    return valid_PK


@pytest.fixture(scope="module")
def malformed_PK(reward_PK) -> np.ndarray:
    return reward_PK > 0.5


@pytest.fixture(scope="module")
def batch(rows, trunks, rollout, reward_PK, valid_PK, malformed_PK):
    return policy_batch(
        rows, trunks, rollout, reward_PK, valid_PK, malformed_PK,
        pivots=2, multiple=MULTIPLE, shards=99,
    )  # fmt: skip


def test_every_field_lands_on_its_token(batch, rows, trunks, rollout, reward_PK, valid_PK):
    tree = batch.tree
    first = 0
    for row, (trunk, part) in enumerate(rows):
        index, at = batch.index[row], 0
        tokens, parents = tree.tokens[row], tree.parents[row]
        for i, j in [(first + i, j) for i in range(len(part)) for j in range(3)]:
            if not valid_PK[i, j]:
                continue
            drawn, start = rollout.samples[i][j], rollout.turns[i].start
            own = slice(at, at + len(drawn.tokens))
            np.testing.assert_array_equal(tokens[index[own]], drawn.tokens)
            # Read backwards by parents, it is the history and then the sample.
            np.testing.assert_array_equal(
                walk(tokens, parents, index[own][-1], start + len(drawn.tokens)),
                np.concatenate([trunks[trunk][:start], drawn.tokens]),
            )
            np.testing.assert_array_equal(batch.old_logp[row, own], drawn.behaviour)
            number = 3 * (i - first) + j
            np.testing.assert_array_equal(batch.sample[row, own], number)
            rewards = batch.groups.reward_RPK[row].reshape(-1)
            assert rewards[number] == reward_PK[i, j]
            at += len(drawn.tokens)
        np.testing.assert_array_equal(batch.weight[row], np.arange(index.size) < at)
        first += len(part)


def walk(tokens: np.ndarray, parents: np.ndarray, last: int, count: int) -> list[int]:
    """The `count` tokens that end at index `last`."""
    found = []
    for _ in range(count):
        found.append(tokens[last])
        last = parents[last]
    return found[::-1]


def test_samples_of_weight_0_are_not_in_the_tree(batch, rows, rollout, valid_PK):
    kept = [rollout.samples[i][j] for i, j in np.argwhere(valid_PK)]
    segments = batch.tree.segments[: len(rows)]
    assert batch.weight.sum() == sum(len(s.tokens) for s in kept)
    assert (segments > 0).sum() == sum(len(s.tokens) - s.drafted for s in kept)
    # Otherwise nothing was shared, or everything.
    assert 0 < sum(s.drafted for s in kept) < batch.weight.sum()


def test_a_trunk_ends_where_its_last_branch_leaves(batch, rows, rollout, valid_PK):
    first = 0
    for row, (_, part) in enumerate(rows):
        ends = [t.start for t in part]
        for i in range(first, first + len(part)):
            drawn = [rollout.samples[i][j] for j in np.flatnonzero(valid_PK[i])]
            ends += [rollout.turns[i].start + s.drafted for s in drawn]
        assert (batch.tree.segments[row] == 0).sum() == max(ends)
        first += len(part)


def test_shapes_are_few(batch, rows):
    assert len(batch.index) == len(rows)
    assert batch.tree.shape[1] % MULTIPLE == batch.index.shape[1] % MULTIPLE == 0
    assert np.isfinite(batch.old_logp).all()


def test_a_batch_without_a_valid_sample(rows, trunks, rollout, reward_PK):
    nothing = policy_batch(
        rows, trunks, rollout, reward_PK, reward_PK > 9, reward_PK > 9,
        pivots=2, multiple=MULTIPLE, shards=99,
    )  # fmt: skip
    assert nothing.weight.sum() == 0
    assert (nothing.tree.segments <= 0).all()


@pytest.mark.parametrize("shards", [1, 99])
def test_experts_actions_are_scored_on_the_trunk(
    batch, rows, trunks, rollout, reward_PK, valid_PK, malformed_PK, shards
):
    """Each once, after its own history, also where no sample of the turn counts."""
    found = policy_batch(
        rows, trunks, rollout, reward_PK, valid_PK, malformed_PK,
        pivots=2, multiple=MULTIPLE, shards=shards, experts=True,
    )  # fmt: skip
    wanted = sorted(
        tuple(trunks[turn.trunk][: place + 1].tolist())
        for _, part in rows
        for turn in part
        for place in range(turn.start, turn.end)
    )
    assert sequences(found.tree, found.experts.index, found.experts.weight) == wanted
    assert sequences(found.tree, found.index, found.weight) == sequences(
        batch.tree, batch.index, batch.weight
    )
    assert batch.experts is None


def test_supervised_batch_scores_the_spans_and_cuts_the_rest(examples):
    batch = supervised_batch(examples, multiple=MULTIPLE, shards=99)
    for row, (trunk, spans) in enumerate(examples):
        wanted = np.concatenate([np.arange(*span) for span in spans])
        weight = batch.weight[row]
        np.testing.assert_array_equal(batch.index[row][weight > 0], wanted)
        end = spans[-1][1]
        tree_tokens, segments = batch.tree.tokens[row], batch.tree.segments[row]
        np.testing.assert_array_equal(tree_tokens[:end], trunk[:end])
        np.testing.assert_array_equal(segments >= 0, np.arange(segments.size) < end)
        np.testing.assert_array_equal(batch.tree.parents[row][wanted], wanted - 1)


def test_groups_hold_every_sample_of_a_turn(batch, rows, reward_PK, valid_PK, malformed_PK):
    """Invalid ones too, so that a sample's place in its group is its number."""
    first = 0
    for row, (_, part) in enumerate(rows):
        own = slice(first, first + len(part))
        for found, wanted in (
            (batch.groups.reward_RPK, reward_PK),
            (batch.groups.valid_RPK, valid_PK),
            (batch.groups.malformed_RPK, malformed_PK),
        ):
            np.testing.assert_array_equal(found[row, : len(part)], wanted[own])
            assert not found[row, len(part) :].any()
        first += len(part)


def sequences(tree, index: np.ndarray, weight: np.ndarray) -> list[tuple[int, ...]]:
    """The whole sequence up to every scored token, over all rows."""
    found = []
    for row, (places, weights) in enumerate(zip(index, weight, strict=True)):
        for place in places[weights > 0]:
            count = tree.positions[row, place] + 1
            found.append(tuple(walk(tree.tokens[row], tree.parents[row], place, count)))
    return sorted(found)


def test_trees_that_share_a_row_score_the_same_sequences(
    batch, rows, trunks, rollout, reward_PK, valid_PK, malformed_PK
):
    shared = policy_batch(
        rows, trunks, rollout, reward_PK, valid_PK, malformed_PK,
        pivots=2, multiple=MULTIPLE,
    )  # fmt: skip
    assert shared.tree.shape[0] == 1
    found, wanted = (sequences(b.tree, b.index, b.weight) for b in (shared, batch))
    assert found == wanted
    rewarded = [
        sorted(zip(b.old_logp[w], np.take_along_axis(r, b.sample, 1)[w], strict=True))
        for b in (shared, batch)
        for w, r in [(b.weight > 0, b.groups.reward_RPK.reshape(len(b.index), -1))]
    ]
    assert rewarded[0] == rewarded[1]


def test_as_few_rows_as_hold_the_trees_but_one_for_every_device(examples):
    rows = lambda own, **kw: supervised_batch(own, multiple=1, **kw).tree.shape[0]  # noqa: E731
    tokens = sum(spans[-1][1] for _, spans in examples)
    many = 4096 // tokens
    assert rows(examples) == rows(examples * many) == 1
    assert rows(examples * (many + 1)) == 2
    assert rows(examples, shards=2) == 2
    assert rows(examples, shards=99) == len(examples)


def test_supervised_rows_may_be_shared(examples, supervised_rows):
    shared = supervised_batch(examples, multiple=MULTIPLE)
    assert sequences(shared.tree, shared.index, shared.weight) == sequences(
        supervised_rows.tree, supervised_rows.index, supervised_rows.weight
    )


def test_a_packed_batch_has_the_rows_and_the_length_that_it_is_told(examples, supervised_rows):
    rows = [[examples[2], examples[0]], [examples[1]], [examples[3]]]
    batch = packed_batch(rows, 256, 256)
    assert batch.tree.shape == batch.index.shape == (3, 256)
    for row, own in enumerate(rows):
        length = sum(len(trunk) for trunk, _ in own)
        np.testing.assert_array_equal(batch.tree.segments[row] >= 0, np.arange(256) < length)
        assert batch.weight[row].sum() == sum(b - a for _, spans in own for a, b in spans)
        assert (batch.index[row][batch.weight[row] > 0] < length).all()
    assert sequences(batch.tree, batch.index, batch.weight) == sequences(
        supervised_rows.tree, supervised_rows.index, supervised_rows.weight
    )
