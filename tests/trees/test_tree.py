"""Trees against a brute-force definition: every token's own sequence, spelt out."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivotrl_jax.trees import (
    PADDING,
    TokenTree,
    Tree,
    balanced,
    build_row,
    causal,
    chunks,
    filled,
    round_up,
    stack,
    visible,
)

SIZE = 48
Branches = list[tuple[int, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Shape:
    """Trunk length, and (start, length) of every branch; the rest of SIZE is padding."""

    trunk: int
    branches: tuple[tuple[int, int], ...]

    def row(self) -> tuple[np.ndarray, Branches]:
        rng = np.random.default_rng(self.trunk)
        draw = lambda n: rng.integers(1, 1000, n).astype(np.int32)  # noqa: E731
        return draw(self.trunk), [(start, draw(n)) for start, n in self.branches]

    def sequences(self) -> list[list[int]]:
        """Row indices of the trunk, then of every branch's whole sequence."""
        found, at = [list(range(self.trunk))], self.trunk
        for start, n in self.branches:
            found.append([*range(start), *range(at, at + n)])
            at += n
        return found


@st.composite
def tree_shapes(draw: st.DrawFn) -> Shape:
    trunk = draw(st.integers(1, 16))
    starts = draw(st.lists(st.integers(1, trunk), max_size=4))
    # Several samples of one pivot leave the trunk at the same token.
    branches = [
        (s, draw(st.integers(0, 4))) for s in starts for _ in range(draw(st.integers(1, 2)))
    ]
    return Shape(trunk, tuple(branches))


def brute_force(shape: Shape, window: int = SIZE) -> np.ndarray:
    mask = np.eye(SIZE, dtype=bool)
    for sequence in shape.sequences():
        for place, token in enumerate(sequence):
            mask[token, sequence[max(0, place + 1 - window) : place + 1]] = True
    return mask


@jax.jit
def masks(tree: TokenTree, window: int | None = None) -> tuple[jax.Array, jax.Array]:
    apart = np.r_[0:16, 20:32]
    return (
        visible(tree, slice(0, SIZE), np.arange(SIZE), window),
        visible(tree, slice(24, 32), apart, window),
    )


@given(st.lists(tree_shapes(), min_size=2, max_size=2), st.none() | st.integers(1, 24))
def test_a_token_sees_its_own_sequence_up_to_itself(forest, window):
    tree = stack([build_row([Tree(*shape.row())], SIZE) for shape in forest])
    whole, block = masks(tree, window)
    expected = np.stack([brute_force(shape, window or SIZE) for shape in forest])
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(block, expected[:, 24:32][..., np.r_[0:16, 20:32]])


@given(tree_shapes())
def test_every_field_follows_from_the_sequences(shape):
    trunk, branches = shape.row()
    tree = jax.tree.map(lambda x: x[0], build_row([Tree(trunk, branches)], SIZE))
    wanted = [trunk, *(np.concatenate([trunk[:start], own]) for start, own in branches)]
    for number, (sequence, tokens) in enumerate(zip(shape.sequences(), wanted, strict=True)):
        np.testing.assert_array_equal(tree.tokens[sequence], tokens)
        np.testing.assert_array_equal(tree.positions[sequence], np.arange(len(sequence)))
        np.testing.assert_array_equal(tree.parents[sequence[1:]], sequence[:-1])
        own = sequence[shape.branches[number - 1][0] if number else 0 :]
        assert (tree.segments[own] == number).all()
    used = shape.trunk + sum(n for _, n in shape.branches)
    np.testing.assert_array_equal(tree.segments != PADDING, np.arange(SIZE) < used)


@given(st.lists(tree_shapes(), min_size=2, max_size=3))
def test_trees_in_one_row_do_not_see_each_other(shapes):
    """Each tree is what it is in a row of its own, moved."""
    trees = [Tree(*shape.row()) for shape in shapes]
    together = build_row(trees, 3 * SIZE)
    seen = visible(together, slice(0, 3 * SIZE), np.arange(3 * SIZE))[0]
    first, at, segment, of_any = 0, sum(len(tree.trunk) for tree in trees), 0, []
    for tree in trees:
        n, own = len(tree.trunk), tree.own
        places = np.r_[first : first + n, at : at + own]
        alone = build_row([tree], SIZE)
        old = np.arange(n + own)
        for name in ("tokens", "positions"):
            np.testing.assert_array_equal(
                getattr(together, name)[0, places], getattr(alone, name)[0, old]
            )
        assert (
            places[np.searchsorted(old, alone.parents[0, old])] == together.parents[0, places]
        ).all()
        moved = alone.segments[0, old] + segment * (alone.segments[0, old] > 0)
        np.testing.assert_array_equal(together.segments[0, places], moved)
        mask = visible(alone, slice(0, SIZE), np.arange(SIZE))[0]
        np.testing.assert_array_equal(seen[np.ix_(places, places)], mask[np.ix_(old, old)])
        assert seen[places].sum() == mask[old].sum()
        first, at, segment = first + n, at + own, segment + len(tree.branches)
        of_any.append(places)
    padding = np.setdiff1d(np.arange(3 * SIZE), np.concatenate(of_any))
    assert (together.segments[0, padding] == PADDING).all()
    np.testing.assert_array_equal(seen[padding].nonzero()[1], padding)


def test_a_causal_row_is_a_trunk_without_branches():
    tokens = np.arange(5, 5 + SIZE, dtype=np.int32)
    for field, other in zip(
        jax.tree.leaves(causal(tokens[None])),
        jax.tree.leaves(build_row([Tree(tokens)], SIZE)),
        strict=True,
    ):
        np.testing.assert_array_equal(field, other)


def test_a_causal_row_may_live_on_a_device():
    tokens = np.arange(6, dtype=np.int32)[None]
    on_device = jax.jit(causal)(tokens)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(on_device))
    jax.tree.map(np.testing.assert_array_equal, on_device, causal(tokens))


def test_tokens_that_do_not_fit_are_refused():
    branches = [(2, np.zeros(3, np.int32)), (2, np.zeros(1, np.int32))]
    build_row([Tree(np.zeros(6, np.int32), branches)], 10)
    for small in (9, 6):
        with pytest.raises(ValueError, match=r"6 trunk and 4 branch tokens exceed"):
            build_row([Tree(np.zeros(6, np.int32), branches)], small)


@pytest.mark.parametrize("start", [0, 7, -1])
def test_a_branch_starts_on_the_trunk(start):
    with pytest.raises(ValueError, match=f"branch 2 starts at {start} of a trunk of 6 tokens"):
        build_row([Tree(np.zeros(6, np.int32), [(6, np.zeros(1)), (start, np.zeros(1))])], 16)


def test_sizes():
    assert [round_up(n, 8) for n in (0, 1, 8, 9)] == [8, 8, 8, 16]
    assert chunks([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]
    assert balanced([3, 9, 5, 4, 1], 2) == [[0, 1], [2, 3, 4]]
    assert balanced([7, 8], 2) == [[0], [1]]


def test_items_go_where_they_fill_most():
    assert filled([5, 7, 3, 5], 10) == [[0, 3], [1, 2]]
    assert filled([10, 1, 10], 10) == [[0], [1], [2]]
    assert filled([], 10) == []


@given(sizes=st.lists(st.integers(1, 20), max_size=60))
def test_filled_bins_hold_everything_once_and_no_two_could_be_one(sizes):
    bins = filled(sizes, 20)
    assert sorted(i for own in bins for i in own) == list(range(len(sizes)))
    totals = sorted(sum(sizes[i] for i in own) for own in bins)
    assert not totals or totals[-1] <= 20
    assert len(totals) < 2 or totals[0] + totals[1] > 20
