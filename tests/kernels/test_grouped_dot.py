"""Products of sorted rows with their groups' matrices, against one NumPy product per group."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.grouped_dot import api, grouped_dot, reference

ROWS, WIDTH, FFN = 300, 24, 20
# Groups of more than one block, of exactly one, without rows; with rows behind the last one or not.
SIZES = {
    "uneven": [70, 0, 1, 64, 0, 129, 0],
    "all": [100, 0, 200],
    "one": [0, 300, 0, 0],
    "none": [0, 0, 0],
}


def operands(sizes: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return draw(ROWS, WIDTH), draw(len(sizes), WIDTH, FFN), np.array(sizes), draw(ROWS, FFN)


def numpy_form(x, w, sizes, d) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The product, and what it makes of the cotangent `d` for `x` and `w`."""
    y, d_x, d_w = np.zeros((ROWS, FFN)), np.zeros_like(x), np.zeros_like(w)
    ends = np.cumsum(sizes)
    for g, (start, end) in enumerate(zip(ends - sizes, ends, strict=True)):
        y[start:end] = x[start:end] @ w[g]
        d_x[start:end] = d[start:end] @ w[g].T
        d_w[g] = x[start:end].T @ d[start:end]
    return y, d_x, d_w


@jax.jit
def ours(x, w, sizes, d):
    y, pull = jax.vjp(lambda x, w: grouped_dot(x, w, sizes), x, w)
    return y, *pull(d)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_product_and_gradients_equal_one_product_per_group(sizes):
    arrays = operands(sizes)
    expected = numpy_form(*arrays)
    for found, wanted in zip(ours(*arrays), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        reference.grouped_dot(*arrays[:3]), expected[0], rtol=1e-5, atol=1e-5
    )


def test_the_form_for_tpus_is_the_same():
    """On a CPU XLA expands it, which is slow and shows what it means."""
    x, w, sizes, d = operands(SIZES["uneven"])
    y, _, d_w = numpy_form(x, w, sizes, d)
    np.testing.assert_allclose(api._ragged_dot(x, w, sizes), y, rtol=1e-5, atol=1e-5)
    found = api._ragged_weight_gradient(x, d, sizes)
    np.testing.assert_allclose(found, d_w, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_summed_in_float32():
    x, w, sizes, d = operands(SIZES["uneven"])
    half = [jnp.asarray(a, jnp.bfloat16) for a in (x, w, d)]
    wide = [np.asarray(a, np.float32) for a in half]
    expected = numpy_form(wide[0], wide[1], sizes, wide[2])
    for found, wanted in zip(ours(half[0], half[1], sizes, half[2]), expected, strict=True):
        assert found.dtype == jnp.bfloat16
        far = np.asarray(found, np.float32) - wanted
        assert np.linalg.norm(far) < 4e-3 * np.linalg.norm(wanted)


def test_no_row_meets_the_matrices_of_all_groups():
    """That would take room for every row in every group, as `ragged_dot` does on a CPU."""
    rows, groups = 4096, 64
    x, w = jnp.zeros((rows, 64)), jnp.zeros((groups, 64, 32))
    d, sizes = jnp.zeros((rows, 32)), jnp.full(groups, rows // groups)
    memory = ours.lower(x, w, sizes, d).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * (x.nbytes + w.nbytes + d.nbytes) < x.nbytes * groups
