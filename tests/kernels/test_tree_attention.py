"""Blocked tree attention against the dense form, and its memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.tree_attention import tree_attention
from pivotrl_jax.errors import UserError
from pivotrl_jax.trees import Layout, TokenTree, build_row, causal, stack

# Trunk and branches both span several blocks of queries, and neither is a multiple of one.
LAYOUT = Layout(trunk=300, branches=330, reach=40)
HEADS, GROUPS, WIDTH = 2, 3, 16


def tree_of(shapes: list[tuple[int, list[tuple[int, int]]]]) -> TokenTree:
    rows = [
        build_row(np.zeros(trunk), [(start, np.zeros(n)) for start, n in branches], LAYOUT)
        for trunk, branches in shapes
    ]
    return stack(rows)


def operands(rows: int, dtype: jnp.dtype = jnp.float32) -> tuple[jax.Array, ...]:
    """Queries, keys, values and a cotangent."""
    rng = np.random.default_rng(0)
    wide, narrow = (rows, LAYOUT.size, HEADS, GROUPS, WIDTH), (rows, LAYOUT.size, HEADS, WIDTH)
    return tuple(jnp.asarray(rng.normal(size=s), dtype) for s in (wide, narrow, narrow, wide))


@functools.partial(jax.jit, static_argnames="implementation")
def output_and_gradients(
    tree: TokenTree, q: jax.Array, k: jax.Array, v: jax.Array, d: jax.Array, implementation: str
) -> tuple[jax.Array, ...]:
    attend = functools.partial(tree_attention, tree=tree, implementation=implementation)
    out, pull = jax.vjp(attend, q, k, v)
    return out, *pull(d)


@st.composite
def forests(draw: st.DrawFn) -> TokenTree:
    shapes = []
    for _ in range(2):
        trunk = draw(st.integers(1, LAYOUT.trunk))
        branch = st.tuples(st.integers(1, trunk), st.integers(0, LAYOUT.reach))
        branches = draw(st.lists(branch, max_size=LAYOUT.branches // LAYOUT.reach))
        shapes.append((trunk, branches))
    return tree_of(shapes)


FULL = tree_of([(300, [(300, 40)] * 4 + [(7, 40)] * 4), (1, [(1, 1)])])


@settings(deadline=None, max_examples=25)
@given(forests())
def test_blocks_equal_the_dense_form(tree):
    arrays = operands(2)
    ours = output_and_gradients(tree, *arrays, implementation="xla")
    dense = output_and_gradients(tree, *arrays, implementation="reference")
    for x, y in zip(ours, dense, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=2e-5)


def test_a_branch_longer_than_the_reach_would_be_noticed():
    """Blocks read no further back than `reach`; with too small a one the outcome is wrong."""
    arrays = operands(2)
    short = FULL.replace(layout=Layout(LAYOUT.trunk, LAYOUT.branches, 8))
    out, *_ = output_and_gradients(short, *arrays, implementation="xla")
    dense, *_ = output_and_gradients(FULL, *arrays, implementation="reference")
    assert float(jnp.abs(out - dense).max()) > 0.01


def test_bfloat16_operands_accumulate_in_float32():
    exact = output_and_gradients(FULL, *operands(2), implementation="reference")
    ours = output_and_gradients(FULL, *operands(2, jnp.bfloat16), implementation="xla")
    for x, y in zip(ours, exact, strict=True):
        assert x.dtype == jnp.bfloat16
        error = jnp.linalg.norm(x.astype(jnp.float32) - y) / jnp.linalg.norm(y)
        assert float(error) < 0.01


def test_memory_is_that_of_blocks():
    """One row of 4,096 causal tokens: dense scores alone would take 384 MiB. (XLA:CPU puts several
    blocks side by side; other backends fewer.)"""
    tree = causal(np.zeros((1, 4096), np.int32))
    wide, narrow = (1, 4096, HEADS, GROUPS, WIDTH), (1, 4096, HEADS, WIDTH)
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in (wide, narrow, narrow, wide)]
    temporary = {
        implementation: output_and_gradients.lower(tree, *shapes, implementation=implementation)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for implementation in ("xla", "reference")
    }
    assert temporary["reference"] > 384 * 2**20
    assert temporary["xla"] < temporary["reference"] / 2


def test_an_unknown_implementation_is_refused():
    with pytest.raises(UserError, match="no implementation 'pallass'"):
        tree_attention(
            *operands(1)[:3], causal(np.zeros((1, LAYOUT.size))), implementation="pallass"
        )
