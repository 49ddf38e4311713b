"""Tree attention in blocks, by XLA and by the TPU kernels, against the dense form; its memory."""

import functools
from collections import Counter
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.tree_attention import RESIDUALS, pallas, sights, tree_attention, xla
from kernels.tree_attention.blocks import Blocks, blocks_for, padded
from pivotrl_jax.errors import UserError
from pivotrl_jax.parallel import MeshSettings, make_mesh, put_rows
from pivotrl_jax.trees import TokenTree, Tree, build_row, causal, stack, visible

# Trunk and branches both span several blocks of queries, and neither is a multiple of one.
TRUNK, SIZE = 300, 630
LONGEST = 40  # branch
# The same for the kernels, which are slow when interpreted.
SMALL = 71
BLOCKS = [Blocks(queries=16, keys=8), Blocks(queries=8, keys=16)]
HEADS, GROUPS, WIDTH = 2, 3, 16

Shapes = list[tuple[int, list[tuple[int, int]]]]


def tree_of(shapes: Shapes, size: int = SIZE) -> TokenTree:
    """A row per (trunk tokens, branches as (start, own tokens))."""
    rows = [
        build_row([Tree(np.zeros(trunk), [(start, np.zeros(n)) for start, n in branches])], size)
        for trunk, branches in shapes
    ]
    return stack(rows)


def operands(
    tree: TokenTree, dtype: jnp.dtype = jnp.float32, width: int = WIDTH
) -> tuple[jax.Array, ...]:
    """Queries, keys, values and a cotangent."""
    rng = np.random.default_rng(0)
    wide, narrow = (*tree.shape, HEADS, GROUPS, width), (*tree.shape, HEADS, width)
    return tuple(jnp.asarray(rng.normal(size=s), dtype) for s in (wide, narrow, narrow, wide))


@functools.partial(jax.jit, static_argnames="attend")
def output_and_gradients(
    attend: Callable[..., jax.Array],
    tree: TokenTree,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    d: jax.Array,
    window: int | None = None,
    sinks: jax.Array | None = None,
) -> list[jax.Array]:
    def run(q: jax.Array, k: jax.Array, v: jax.Array, sinks: jax.Array | None) -> jax.Array:
        return attend(q, k, v, tree, window=window, sinks_HG=sinks)

    out, pull = jax.vjp(run, q, k, v, sinks)
    return jax.tree.leaves((out, pull(d)))


chosen = functools.partial(tree_attention, implementation="xla")
reference = functools.partial(tree_attention, implementation="reference")
loops = [functools.partial(xla.tree_attention, blocks=blocks) for blocks in BLOCKS]
interpreted = [
    functools.partial(pallas.tree_attention, blocks=blocks, interpret=True) for blocks in BLOCKS
]
in_small_blocks = pytest.mark.parametrize(
    "attend", [*loops, *interpreted], ids=["xla_tall", "xla_wide", "pallas_tall", "pallas_wide"]
)
by_both = pytest.mark.parametrize("attend", [loops[0], interpreted[0]], ids=["xla", "pallas"])


@st.composite
def forests(draw: st.DrawFn) -> TokenTree:
    shapes = []
    for _ in range(2):
        trunk = draw(st.integers(1, TRUNK))
        branch = st.tuples(st.integers(1, trunk), st.integers(0, LONGEST))
        branches = draw(st.lists(branch, max_size=(SIZE - TRUNK) // LONGEST))
        shapes.append((trunk, branches))
    return tree_of(shapes)


FULL = tree_of([(300, [(300, 40)] * 4 + [(7, 40)] * 4), (1, [(1, 1)])])
# Branches of no, one and many tokens, from the first and the last token of the trunk; rows that
# are full, nearly empty and without branches.
FOREST = tree_of(
    [
        (37, [(37, 12), (5, 1), (20, 0), (1, 12), (36, 9)]),
        (1, [(1, 1)]),
        (30, []),
        (36, [(9, 12), (36, 0), (9, 11)]),
    ],
    SMALL,
)


# Several trees in one row, the second of them within a block of the first.
SHARED = stack(
    [
        build_row(
            [Tree(np.zeros(n), [(s, np.zeros(m)) for s, m in own]) for n, own in trees], SMALL
        )
        for trees in (
            [(9, [(9, 5), (2, 3)]), (20, [(20, 12), (1, 2)]), (5, [(4, 7)])],
            [(1, []), (36, [(30, 12), (36, 12), (2, 10)])],
        )
    ]
)


# As large as the scores of many keys together, and as good as none.
SINKS = jnp.asarray([[0.0, 3.0, -9.0], [1.0, -1.0, 6.0]])


def assert_equal_to_the_dense_form(
    attend: Callable[..., jax.Array],
    tree: TokenTree,
    window: int | None = None,
    sinks: jax.Array | None = None,
) -> None:
    arrays = operands(tree)
    ours = output_and_gradients(attend, tree, *arrays, window, sinks)
    dense = output_and_gradients(reference, tree, *arrays, window, sinks)
    for x, y in zip(ours, dense, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=2e-5)


@settings(max_examples=25)
@given(forests())
def test_blocks_equal_the_dense_form(tree):
    assert_equal_to_the_dense_form(chosen, tree)


@settings(max_examples=15)
@given(forests(), st.integers(1, 400))
def test_blocks_under_a_window_equal_the_dense_form(tree, window):
    assert_equal_to_the_dense_form(chosen, tree, window)


@in_small_blocks
def test_small_blocks_equal_the_dense_form(attend):
    assert_equal_to_the_dense_form(attend, FOREST)


@in_small_blocks
def test_small_blocks_under_windows_equal_the_dense_form(attend):
    """One compiled program, as layers of one scanned body would have it."""
    for window in (1, 7, 30, 2**30):
        assert_equal_to_the_dense_form(attend, FOREST, window)


@in_small_blocks
@pytest.mark.parametrize("window", [None, 7])
def test_sinks_have_their_part_of_every_softmax(attend, window):
    assert_equal_to_the_dense_form(attend, SHARED, window, SINKS)


def test_a_sink_is_a_key_that_all_see_and_whose_value_is_zero():
    tree = causal(np.ones((2, 9), np.int32))
    q, k, v, _ = operands(tree)
    found = reference(q, k, v, tree, sinks_HG=SINKS)
    scores = np.einsum("rqhge,rkhe->rqhgk", q, k) / np.sqrt(WIDTH)
    weights = np.exp(scores) * np.tri(9)[None, :, None, None]
    total = weights.sum(axis=-1) + np.exp(SINKS)
    exact = np.einsum("rqhgk,rkhe->rqhge", weights / total[..., None], v)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5)


@in_small_blocks
def test_trees_may_share_a_row(attend):
    assert_equal_to_the_dense_form(attend, SHARED)


in_bfloat16 = pytest.mark.parametrize(
    ("attend", "tree"), [(chosen, FULL), (interpreted[0], FOREST)], ids=["xla", "pallas"]
)


@in_bfloat16
def test_bfloat16_operands_accumulate_in_float32(attend, tree):
    exact = output_and_gradients(reference, tree, *operands(tree))
    ours = output_and_gradients(attend, tree, *operands(tree, jnp.bfloat16))
    for x, y in zip(ours, exact, strict=True):
        assert x.dtype == jnp.bfloat16
        error = jnp.linalg.norm(x.astype(jnp.float32) - y) / jnp.linalg.norm(y)
        assert float(error) < 0.01


@in_bfloat16
def test_scaling_rounds_no_score(attend, tree):
    """8^-1/2, like 128^-1/2, is no power of two: scaled queries would differ in their last bit."""
    q, k, v, _ = operands(tree, jnp.bfloat16, width=8)
    q = 8 * q  # large scores, whose roundings weigh
    ours = attend(q, k, v, tree).astype(jnp.float32)
    exact = reference(*(x.astype(jnp.float32) for x in (q, k, v)), tree)
    error = jnp.linalg.norm(ours - exact) / jnp.linalg.norm(exact)
    assert float(error) < 0.0015


@pytest.mark.parametrize("blocks", BLOCKS, ids=["tall", "wide"])
@pytest.mark.parametrize("tree", [FOREST, SHARED], ids=["alone", "shared"])
@pytest.mark.parametrize(("window", "most"), [(None, 0.6), (7, 0.5)])
def test_exactly_the_blocks_that_some_query_sees_are_visited(blocks, tree, window, most):
    (rows, length), padded = tree.shape, 80
    seen = sights.seen(sights.sights(tree, padded, window), blocks, padded)
    mask = np.broadcast_to(np.eye(padded, dtype=bool), (rows, padded, padded)).copy()
    mask[:, :length, :length] = visible(tree, slice(0, length), np.arange(length), window)
    tiles = mask.reshape(rows, padded // blocks.queries, blocks.queries, -1, blocks.keys)
    np.testing.assert_array_equal(seen, tiles.any(axis=(2, 4)))
    assert float(seen.mean()) < most


@by_both
def test_blocks_that_nobody_sees_are_not_multiplied(attend):
    """Blocks of padding, whose NaN would spread to the tokens before them: 0 * NaN is NaN."""
    poison = np.zeros(FOREST.shape, bool)
    poison[1, 16:32] = poison[1, 48:] = poison[2, 32:] = True
    real = np.asarray(FOREST.segments >= 0)
    assert not (real & poison).any()
    q, k, v, d = operands(FOREST)
    bad = np.where(poison[..., None, None], np.nan, 1)
    clean = output_and_gradients(attend, FOREST, q, k, v, d)
    poisoned = output_and_gradients(attend, FOREST, q, k * bad, v * bad, d)
    for x, y in zip(clean, poisoned, strict=True):
        np.testing.assert_array_equal(x[real], y[real])
        assert np.isnan(y[poison]).all()


@by_both
def test_every_device_attends_to_its_own_rows_and_heads(attend):
    arrays = operands(FOREST)
    alone = output_and_gradients(attend, FOREST, *arrays)
    mesh = make_mesh(MeshSettings(data=2, fsdp=1, tensor=2), jax.devices()[:4])
    with jax.set_mesh(mesh):
        inputs = put_rows((FOREST, *arrays), mesh)
        compiled = output_and_gradients.lower(attend, *inputs).compile()
        together = compiled(*inputs)
    for x, y in zip(together, alone, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
    text = compiled.as_text()
    assert "f32[2,1,3,80,16]" in text  # queries of two rows and one head, on each of four devices
    assert "all-reduce" not in text


@in_small_blocks
@pytest.mark.parametrize(("window", "sinks"), [(None, None), (7, SINKS)], ids=["", "sinks"])
def test_devices_that_share_a_row_attend_for_blocks_from_all_of_it(attend, window, sinks):
    """Two along `context`, beside two along `tensor`: queries travel, keys are gathered."""
    alone = output_and_gradients(reference, SHARED, *operands(SHARED), window, sinks)
    mesh = make_mesh(MeshSettings(fsdp=2, tensor=2, context=2))
    with jax.set_mesh(mesh):
        inputs = put_rows((SHARED, *operands(SHARED)), mesh)
        compiled = output_and_gradients.lower(attend, *inputs, window, sinks).compile()
        together = compiled(*inputs, window, sinks)
    for x, y in zip(together, alone, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=2e-5)
    text = compiled.as_text()
    assert "reduce-scatter" in text
    half = padded(SMALL, attend.keywords["blocks"], 2) // 2
    assert f"f32[1,1,3,{half},16]" in text  # queries of one row and one head, half of its places


def test_shared_rows_are_padded_as_little_as_blocks_allow():
    sizes = [blocks_for("TPU v5p", 8, 128, n, devices) for n, devices in ((49_152, 1), (49_152, 8))]
    assert sizes == [Blocks(512, 512), Blocks(256, 512)]
    assert [padded(49_152, own, n) for own, n in zip(sizes, (1, 8), strict=True)] == [49_152] * 2
    assert padded(50_000, Blocks(128, 512), 4) == 51_200


@by_both
def test_remat_keeps_outputs_and_log_sum_exps(attend):
    q, k, v, _ = operands(FOREST)
    lse = (4, 2, 3, 80)

    def kept(policy: Callable[..., bool]) -> Counter:
        again = jax.checkpoint(lambda q: attend(q, k, v, FOREST), policy=policy)
        return Counter(
            x.shape for x in jax.tree.leaves(jax.eval_shape(lambda q: jax.vjp(again, q)[1], q))
        )

    policies = jax.checkpoint_policies
    named = kept(policies.save_only_these_names(*RESIDUALS))
    assert (named[q.shape], named[lse]) == (2, 1)
    unnamed = kept(policies.nothing_saveable)
    assert (unnamed[q.shape], unnamed[lse]) == (1, 0)


def test_memory_is_that_of_blocks():
    """One row of 4,096 causal tokens: dense scores alone would take 384 MiB."""
    tree = causal(np.zeros((1, 4096), np.int32))
    wide, narrow = (1, 4096, HEADS, GROUPS, WIDTH), (1, 4096, HEADS, WIDTH)
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in (wide, narrow, narrow, wide)]
    blocked, dense = (
        output_and_gradients.lower(attend, tree, *shapes)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for attend in (chosen, reference)
    )
    assert dense > 384 * 2**20
    assert blocked < dense / 10


def test_the_interpreted_kernels_are_reached_through_the_api():
    tree = causal(np.zeros((1, 20), np.int32))
    q, k, v, _ = operands(tree)
    ours = tree_attention(q, k, v, tree, implementation="pallas", interpret=True)
    np.testing.assert_allclose(ours, reference(q, k, v, tree), rtol=1e-5, atol=1e-5)


def test_blocks_are_no_larger_than_rows_and_shrink_as_queries_grow():
    assert blocks_for("cpu", groups=3, width=64, length=9000) == Blocks(256, 256)
    assert blocks_for("TPU v5 lite", groups=3, width=64, length=71) == Blocks(128, 128)
    assert blocks_for("TPU v6 lite", groups=3, width=64, length=130) == Blocks(256, 256)
    small, large = (blocks_for("TPU v5p", g, 128, 8192) for g in (1, 16))
    assert small.queries * small.keys > large.queries * large.keys


def test_what_cannot_run_is_refused():
    for implementation, message in (
        ("pallass", "no implementation 'pallass'"),
        ("pallas", "tree_attention: 'pallas' needs a TPU and this is a cpu"),
    ):
        with pytest.raises(UserError, match=message):
            tree_attention(*operands(FULL)[:3], FULL, implementation=implementation)
