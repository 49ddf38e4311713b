"""The Pallas kernel, interpreted, against the dense form; its lowering for CUDA; its blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from kernels.linear_logprob import LogProbs, blocks, fused, linear_logprob, reference
from kernels.linear_logprob.blocks import Blocks
from kernels.linear_logprob.fused import Settings
from kernels.linear_logprob.pallas import Target

# T, D, V, blocks: several blocks and a rest of both, V below a block, exact blocks, one token.
# 48 is three Triton chunks wide.
SHAPES = [
    (20, 48, 103, Blocks(8, 32)),
    (7, 16, 21, Blocks(32, 128)),
    (16, 16, 64, Blocks(16, 16)),
    (1, 32, 65, Blocks(64, 16)),
]
PLATFORMS = ["tpu", "gpu"]
TRITON = "__gpu$xla.gpu.triton"


def operands(t: int, d: int, v: int, dtype: jnp.dtype = jnp.float32) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(t * v)
    labels_T = rng.integers(0, v, t)
    labels_T[-1] = v - 1
    hidden_TD, head_VD = rng.normal(size=(t, d)), rng.normal(size=(v, d))
    return jnp.asarray(hidden_TD, dtype), jnp.asarray(head_VD, dtype), jnp.asarray(labels_T)


def interpreted(platform: str, sizes: Blocks, **options: object) -> Settings:
    return Settings(target=Target(platform, sizes, interpret=True), **options)


def dense(*arrays: jax.Array, settings: Settings) -> LogProbs:
    hidden_TD, head_VD, labels_T = arrays
    return reference.linear_logprob(
        hidden_TD.astype(jnp.float32),
        head_VD.astype(jnp.float32),
        labels_T,
        settings.temperature,
        settings.soft_cap,
    )


def values_and_gradients(function, *arrays: jax.Array) -> tuple[LogProbs, tuple]:
    """Gradients of a sum that weighs every token and each of the three results differently."""
    hidden_TD, head_VD, labels_T = arrays
    weights = np.float32(np.random.default_rng(1).normal(size=(3, len(labels_T))))

    def loss(hidden_TD: jax.Array, head_VD: jax.Array) -> tuple[jax.Array, LogProbs]:
        out = function(hidden_TD, head_VD, labels_T)
        return jnp.sum(weights * jnp.stack(out)), out

    grads, out = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(hidden_TD, head_VD)
    return out, grads


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(("t", "d", "v", "sizes"), SHAPES)
def test_matches_the_dense_form(t, d, v, sizes, platform):
    arrays = operands(t, d, v)
    settings = interpreted(platform, sizes, temperature=0.7, soft_cap=6.0, block=32)
    fast = values_and_gradients(functools.partial(fused.linear_logprob, settings=settings), *arrays)
    exact = values_and_gradients(functools.partial(dense, settings=settings), *arrays)
    for got, expected in zip(jax.tree.leaves(fast), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(got, expected, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_bfloat16_operands_are_summed_in_float32(platform):
    arrays = operands(9, 64, 1501, jnp.bfloat16)
    settings = interpreted(platform, Blocks(16, 256))
    out, grads = values_and_gradients(
        functools.partial(fused.linear_logprob, settings=settings), *arrays
    )
    exact, exact_grads = values_and_gradients(functools.partial(dense, settings=settings), *arrays)
    assert {x.dtype for x in out} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(np.stack(out), np.stack(exact), atol=5e-5, rtol=1e-5)
    for got, expected in zip(grads, exact_grads, strict=True):
        assert got.dtype == jnp.bfloat16
        error = np.linalg.norm(np.float32(got) - expected) / np.linalg.norm(np.float32(expected))
        assert error < 2**-7


@pytest.mark.parametrize("platform", PLATFORMS)
def test_labels_of_another_slice_match_no_row(platform):
    """One past the end would match a row behind the head if those were not masked."""
    hidden_TD, head_VD, _ = operands(4, 16, 37)
    outside_T = jnp.array([-1, 37, 38, 1000])
    settings = interpreted(platform, Blocks(16, 16))
    assert (fused.partials(hidden_TD, head_VD, outside_T, settings).label == 0).all()


def test_the_entry_point_interprets_the_kernel_on_request():
    arrays = operands(5, 16, 700)
    out = linear_logprob(*arrays, temperature=0.6, implementation="pallas", interpret=True)
    exact = dense(*arrays, settings=Settings(temperature=0.6))
    np.testing.assert_allclose(np.stack(out), np.stack(exact), atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [576, 896, 2560, 5120])
def test_lowers_for_cuda(width):
    t, v = 300, 1501
    settings = Settings(
        soft_cap=30.0, target=Target("gpu", blocks.choose("NVIDIA H100", 2 * width))
    )
    function = jax.jit(functools.partial(fused.linear_logprob, settings=settings))
    lower = export.export(
        function,
        platforms=["cuda"],
        disabled_checks=[export.DisabledSafetyCheck.custom_call(TRITON)],
    )
    h100 = AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA H100", None, "gpu"))
    with use_abstract_mesh(h100):  # jax 0.11 asks what it lowers for
        exported = lower(
            jax.ShapeDtypeStruct((t, width), jnp.bfloat16),
            jax.ShapeDtypeStruct((v, width), jnp.bfloat16),
            jax.ShapeDtypeStruct((t,), jnp.int32),
        )
    assert TRITON in exported.mlir_module()


def test_blocks_shrink_with_the_width_so_that_two_sets_fit_on_chip():
    for row_bytes in (2 * 576, 2 * 2560, 2 * 5120, 4 * 4096):
        sizes = blocks.choose("TPU v5 lite", row_bytes)
        assert 2 * (sizes.tokens + sizes.vocab) * row_bytes <= 13 * 2**20
    assert blocks.choose("TPU v5 lite", 2 * 2560) == Blocks(512, 512)
    assert blocks.choose("NVIDIA H100 80GB HBM3", 2 * 8192).tokens >= 16
