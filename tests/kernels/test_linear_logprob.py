"""The blocked form against float64 NumPy and the dense form; its memory; its partitioning."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kernels import backend
from kernels.linear_logprob import LogProbs, linear_logprob
from pivotrl_jax.errors import UserError

# T, D, V, block: several blocks and a rest, exact blocks, V < block, one token, a rest of one.
SHAPES = [(7, 16, 103, 32), (5, 8, 96, 32), (6, 16, 50, 4096), (1, 16, 103, 32), (4, 8, 97, 32)]
# Temperature and soft-cap. The operands' products have a deviation of 3 to 4.
SCALES = [(1.0, None), (0.6, 5.0)]


def operands(t: int, d: int, v: int, dtype: jnp.dtype = jnp.float32) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(t * v)
    labels_T = rng.integers(0, v, t)
    labels_T[0] = v - 1
    hidden_TD, head_VD = rng.normal(size=(t, d)), rng.normal(size=(v, d))
    return jnp.asarray(hidden_TD, dtype), jnp.asarray(head_VD, dtype), jnp.asarray(labels_T)


def by_hand(
    hidden_TD: jax.Array,
    head_VD: jax.Array,
    labels_T: jax.Array,
    temperature: float = 1.0,
    soft_cap: float | None = None,
) -> np.ndarray:
    rows = []
    for hidden_D, label in zip(np.float64(hidden_TD), np.asarray(labels_T), strict=True):
        z_V = np.array([hidden_D @ weight_D for weight_D in np.float64(head_VD)])
        if soft_cap is not None:
            z_V = np.array([soft_cap * np.tanh(z / soft_cap) for z in z_V])
        z_V /= temperature
        lse = z_V.max() + np.log(sum(np.exp(z - z_V.max()) for z in z_V))
        p_V = np.exp(z_V - lse)
        rows.append([z_V[label] - lse, lse, -sum(p * np.log(p) for p in p_V if p > 0)])
    return np.array(rows).T


@functools.partial(jax.jit, static_argnums=0)
def _values(options: tuple, *arrays: jax.Array) -> LogProbs:
    return linear_logprob(*arrays, **dict(options))


def values(*arrays: jax.Array, **options: object) -> LogProbs:
    return _values(tuple(options.items()), *arrays)


def gradients(
    hidden_TD: jax.Array, head_VD: jax.Array, labels_T: jax.Array, **options: object
) -> tuple[jax.Array, jax.Array]:
    """Gradients of a sum that weighs every token and each of the three results differently."""
    weights = np.float32(np.random.default_rng(1).normal(size=(3, len(labels_T))))

    def loss(hidden_TD: jax.Array, head_VD: jax.Array) -> jax.Array:
        return jnp.sum(weights * jnp.stack(linear_logprob(hidden_TD, head_VD, labels_T, **options)))

    return jax.jit(jax.grad(loss, argnums=(0, 1)))(hidden_TD, head_VD)


@pytest.mark.parametrize("implementation", ["xla", "reference"])
@pytest.mark.parametrize(("temperature", "soft_cap"), SCALES)
@pytest.mark.parametrize(("t", "d", "v", "block"), SHAPES)
def test_values_match_float64(t, d, v, block, temperature, soft_cap, implementation):
    arrays = operands(t, d, v)
    out = values(
        *arrays, temperature=temperature, soft_cap=soft_cap, block=block,
        implementation=implementation,
    )  # fmt: skip
    exact = by_hand(*arrays, temperature, soft_cap)
    np.testing.assert_allclose(np.stack(out), exact, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize(("temperature", "soft_cap"), SCALES)
@pytest.mark.parametrize(("t", "d", "v", "block"), SHAPES)
def test_gradients_match_the_dense_form(t, d, v, block, temperature, soft_cap):
    arrays = operands(t, d, v)
    scale = {"temperature": temperature, "soft_cap": soft_cap}
    blocked = gradients(*arrays, **scale, block=block, implementation="xla")
    dense = gradients(*arrays, **scale, implementation="reference")
    for got, expected in zip(blocked, dense, strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5, rtol=1e-4)


def test_bfloat16_operands_are_summed_in_float32():
    arrays = operands(9, 64, 1501, jnp.bfloat16)
    out = values(*arrays, block=256)
    assert {x.dtype for x in out} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(np.stack(out), by_hand(*arrays), atol=5e-5, rtol=1e-5)

    blocked = gradients(*arrays, block=256)
    exact = gradients(
        *(x.astype(jnp.float32) for x in arrays[:2]), arrays[2], implementation="reference"
    )
    for got, expected in zip(blocked, exact, strict=True):
        assert got.dtype == jnp.bfloat16
        error = np.linalg.norm(np.float32(got) - expected) / np.linalg.norm(expected)
        assert error < 2**-8  # one rounding to bfloat16 of each logit's gradient and of the result


def test_extreme_logits_stay_finite():
    hidden_TD = jnp.array([[300.0, 0.0], [-300.0, 0.0]])
    head_VD = jnp.stack([jnp.linspace(-1, 1, 11), jnp.ones(11)], axis=1)
    arrays = (hidden_TD, head_VD, jnp.array([0, 0]))
    out = values(*arrays, block=4)
    np.testing.assert_allclose(np.stack(out), by_hand(*arrays), atol=1e-4)
    assert all(np.isfinite(g).all() for g in gradients(*arrays, block=4))


def test_the_logits_are_never_materialised():
    # SmolLM2-135M's vocabulary at a ninth of its width, default block.
    t, d, v = 256, 64, 49_152
    hidden_TD, head_VD, labels_T = operands(t, d, v)

    def gradient(implementation: str):
        def loss(hidden_TD, head_VD):
            out = linear_logprob(hidden_TD, head_VD, labels_T, implementation=implementation)
            return out.logp_T.sum() + out.entropy_T.sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1)))

    def temporary_bytes(implementation: str) -> int:
        compiled = gradient(implementation).lower(hidden_TD, head_VD).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    def jaxpr(implementation: str) -> str:
        return str(jax.make_jaxpr(gradient(implementation))(hidden_TD, head_VD))

    assert f"[{t},{v}]" in jaxpr("reference")
    assert f"[{t},{v}]" not in jaxpr("xla")
    assert temporary_bytes("xla") < t * v * 4 / 2 < temporary_bytes("reference")


@pytest.mark.parametrize("head_spec", [("tensor", None), (None, "tensor")])
def test_partitioned_over_eight_devices(head_spec):
    """Tokens over four devices, the head's vocabulary or width over two."""
    mesh = jax.make_mesh(
        (4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:8]
    )
    hidden_TD, head_VD, labels_T = operands(16, 32, 202)

    def loss(hidden_TD, head_VD, labels_T) -> tuple[jax.Array, LogProbs]:
        out = linear_logprob(hidden_TD, head_VD, labels_T, block=64)
        return jnp.sum(out.logp_T * jnp.arange(16) + out.entropy_T), out

    function = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    specs = [("data", None), head_spec, ("data",)]
    placed = [
        jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
        for x, spec in zip((hidden_TD, head_VD, labels_T), specs, strict=True)
    ]
    sharded, single = function(*placed), function(hidden_TD, head_VD, labels_T)
    assert len(placed[1].sharding.device_set) == 8
    for got, expected in zip(jax.tree.leaves(sharded), jax.tree.leaves(single), strict=True):
        np.testing.assert_allclose(got, expected, atol=5e-5, rtol=1e-4)


def test_unknown_implementation_is_refused():
    with pytest.raises(UserError, match="'cuda'; use 'auto', 'xla', 'pallas' or 'reference'"):
        linear_logprob(*operands(2, 4, 8), implementation="cuda")


def test_a_named_implementation_never_falls_back():
    said = r"'pallas' needs a TPU, or a GPU .* 8 x 4\), and this is a cpu; use 'auto' or 'xla'"
    with pytest.raises(UserError, match=said):
        linear_logprob(*operands(2, 4, 8), implementation="pallas")


def test_the_choice_is_logged_once(caplog):
    backend._log.cache_clear()
    with caplog.at_level(logging.INFO, "kernels.backend"):
        for _ in range(2):
            linear_logprob(*operands(2, 4, 8))
    assert [record.getMessage() for record in caplog.records] == ["linear_logprob: xla on cpu"]
