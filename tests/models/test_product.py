"""Projections at either precision, against einsum of operands that were rounded by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivotrl_jax.models.product import product
from pivotrl_jax.parallel import MeshSettings, make_mesh
from pivotrl_jax.parallel.sharding import constrain

SHAPES = {
    "td,df->tf": ((24, 16), (16, 40)),
    "td,dhge->thge": ((24, 16), (16, 2, 3, 8)),
    "thge,hged->td": ((24, 2, 3, 8), (2, 3, 8, 16)),
    "...d,dhe->...he": ((2, 12, 16), (16, 2, 8)),
}
both = pytest.mark.parametrize("axes", SHAPES)


def operands(axes: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Activations, weights and what comes back for the product."""
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in SHAPES[axes])
    y = jnp.einsum(axes, x, w)
    return x, w, jnp.asarray(rng.normal(size=y.shape), jnp.float32)


def rounded(x: jax.Array) -> jax.Array:
    return x.astype(jnp.bfloat16).astype(jnp.float32)


def close(found, expected) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@both
def test_bfloat16_rounds_operands_and_nothing_else(axes):
    x, w, d_y = operands(axes)
    y, back = jax.vjp(lambda x, w: product(axes, x, w, "bfloat16"), x, w)
    expected, exact = jax.vjp(lambda x, w: jnp.einsum(axes, x, w), rounded(x), rounded(w))
    close([y, *back(d_y)], [expected, *exact(rounded(d_y))])
    assert float(jnp.abs(y - jnp.einsum(axes, x, w)).max()) > 1e-3


@both
def test_float32_is_einsum(axes):
    x, w, d_y = operands(axes)
    y, back = jax.vjp(lambda x, w: product(axes, x, w, "float32"), x, w)
    expected, exact = jax.vjp(lambda x, w: jnp.einsum(axes, x, w), x, w)
    for a, b in zip((y, *back(d_y)), (expected, *exact(d_y)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_in_bfloat16_give_the_same_product():
    """As decoding has them: float32 activations meet matrices that were rounded beforehand."""
    x, w, _ = operands("td,df->tf")
    y = product("td,df->tf", x, w.astype(jnp.bfloat16), "bfloat16")
    np.testing.assert_array_equal(y, product("td,df->tf", x, w, "bfloat16"))
    assert y.dtype == jnp.float32


def test_a_backward_pass_that_keeps_products_makes_none_twice():
    """Three: the product and both gradients, at either precision."""
    x, w, _ = operands("td,df->tf")
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    for precision in ("float32", "bfloat16"):

        @partial(jax.checkpoint, policy=policy)
        def square(x, w, precision=precision):
            return (product("td,df->tf", x, w, precision) ** 2).sum()

        steps = str(jax.make_jaxpr(jax.grad(square, (0, 1)))(x, w))
        assert steps.count("dot_general[") == 3


@pytest.mark.parametrize(
    ("axes", "heads"),
    [
        ("td,dhge->thge", ("width", "kv_heads", None, None)),
        ("thge,hged->td", ("kv_heads", None, None, "width")),
    ],
)
def test_devices_divide_tokens_and_heads(axes, heads):
    x, w, d_y = operands(axes)
    tokens = ("rows", *[None] * (x.ndim - 1))

    def value_and_gradients(x, w):
        y, back = jax.vjp(lambda x, w: product(axes, x, w, "bfloat16"), x, w)
        return y, *back(d_y)

    expected = jax.jit(value_and_gradients)(x, w)
    with jax.set_mesh(make_mesh(MeshSettings(fsdp=4, tensor=2))):
        found = jax.jit(
            lambda x, w: value_and_gradients(constrain(x, *tokens), constrain(w, *heads))
        )(x, w)
    close(found, expected)
