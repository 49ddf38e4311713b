"""What every scored token of a batch carries, looked up in the samples it came from."""

import numpy as np
import pytest

from pivotrl_jax.training import policy_batch, supervised_batch

MULTIPLE = 32


@pytest.fixture(scope="module")
def weight_PK(advantage_PK) -> np.ndarray:
    """Some samples stay out, one whole turn and one whole row among them."""
    weight_PK = np.ones_like(advantage_PK)
    weight_PK[0, 1] = 0
    weight_PK[3] = 0
    weight_PK[6] = 0
    return weight_PK


@pytest.fixture(scope="module")
def batch(rows, trunks, rollout, advantage_PK, weight_PK):
    return policy_batch(
        rows, trunks, rollout, advantage_PK, weight_PK, micro_rows=3, multiple=MULTIPLE, reach=16
    )


def flat(x: np.ndarray) -> np.ndarray:
    """[M, R, ...] as [M * R, ...]."""
    return x.reshape(-1, *x.shape[2:])


def test_every_field_lands_on_its_token(batch, rows, trunks, rollout, advantage_PK, weight_PK):
    tree = batch.tree
    first = 0
    for row, (trunk, part) in enumerate(rows):
        index, at, number = flat(batch.index)[row], 0, 0
        tokens, parents = flat(tree.tokens)[row], flat(tree.parents)[row]
        for i, j in [(first + i, j) for i in range(len(part)) for j in range(3)]:
            if not weight_PK[i, j]:
                continue
            drawn, start = rollout.samples[i][j], rollout.turns[i].start
            own = slice(at, at + len(drawn.tokens))
            np.testing.assert_array_equal(tokens[index[own]], drawn.tokens)
            # Read backwards by parents, it is the history and then the sample.
            np.testing.assert_array_equal(
                walk(tokens, parents, index[own][-1], start + len(drawn.tokens)),
                np.concatenate([trunks[trunk][:start], drawn.tokens]),
            )
            np.testing.assert_array_equal(flat(batch.old_logp)[row, own], drawn.behaviour)
            np.testing.assert_array_equal(flat(batch.advantage)[row, own], advantage_PK[i, j])
            np.testing.assert_array_equal(flat(batch.sample)[row, own], number)
            at, number = at + len(drawn.tokens), number + 1
        np.testing.assert_array_equal(flat(batch.weight)[row], np.arange(index.size) < at)
        first += len(part)


def walk(tokens: np.ndarray, parents: np.ndarray, last: int, count: int) -> list[int]:
    """The `count` tokens that end at index `last`."""
    found = []
    for _ in range(count):
        found.append(tokens[last])
        last = parents[last]
    return found[::-1]


def test_samples_of_weight_0_are_not_in_the_tree(batch, rows, rollout, weight_PK):
    kept = sum(len(rollout.samples[i][j].tokens) for i, j in np.argwhere(weight_PK > 0))
    histories = sum(max(t.start for t in part) for _, part in rows)
    segments = flat(batch.tree.segments)[: len(rows)]
    assert (segments > 0).sum() == kept == batch.weight.sum()
    assert (segments >= 0).sum() == kept + histories


def test_shapes_are_few_and_the_last_micro_batch_is_filled(batch):
    assert batch.index.shape[:2] == (2, 3)
    assert batch.tree.shape[2] % MULTIPLE == batch.index.shape[2] % MULTIPLE == 0
    assert batch.weight[1, 1:].sum() == 0
    assert np.isfinite(batch.old_logp).all()


def test_a_batch_without_a_valid_sample(rows, trunks, rollout, advantage_PK):
    nothing = policy_batch(
        rows, trunks, rollout, advantage_PK, np.zeros_like(advantage_PK),
        micro_rows=4, multiple=MULTIPLE, reach=16,
    )  # fmt: skip
    assert nothing.weight.sum() == 0
    assert (nothing.tree.segments <= 0).all()


def test_supervised_batch_scores_the_spans_and_cuts_the_rest(examples):
    batch = supervised_batch(examples, micro_rows=2, multiple=MULTIPLE)
    for row, (trunk, spans) in enumerate(examples):
        wanted = np.concatenate([np.arange(*span) for span in spans])
        weight = flat(batch.weight)[row]
        np.testing.assert_array_equal(flat(batch.index)[row][weight > 0], wanted)
        end = spans[-1][1]
        tree_tokens, segments = flat(batch.tree.tokens)[row], flat(batch.tree.segments)[row]
        np.testing.assert_array_equal(tree_tokens[:end], trunk[:end])
        np.testing.assert_array_equal(segments >= 0, np.arange(segments.size) < end)
        np.testing.assert_array_equal(flat(batch.tree.parents)[row][wanted], wanted - 1)
