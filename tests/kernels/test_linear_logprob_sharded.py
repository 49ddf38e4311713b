"""The vocabulary-sharded head on eight devices against the dense form, and what it communicates."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kernels.linear_logprob import LogProbs, linear_logprob
from pivotrl_jax.parallel import MeshSettings, make_mesh
from pivotrl_jax.parallel.sharding import RULES

T, D, V, BLOCK = 16, 32, 168, 8
SCALE = {"temperature": 0.7, "soft_cap": 6.0}
MESHES = {"1x1x8": MeshSettings(1, 1, 8), "2x2x2": MeshSettings(2, 2, 2)}


@pytest.fixture(params=MESHES)
def mesh(request) -> Mesh:
    return make_mesh(MESHES[request.param], jax.devices()[:8])


def operands() -> tuple[jax.Array, ...]:
    """Labels cover every slice of the vocabulary, the last row too."""
    rng = np.random.default_rng(0)
    labels_T = np.append(np.linspace(0, V - 5, T - 1), V - 1).astype(np.int32)
    hidden_TD, head_VD = rng.normal(size=(T, D)), rng.normal(size=(V, D))
    return jnp.float32(hidden_TD), jnp.float32(head_VD), jnp.asarray(labels_T)


def place(mesh: Mesh, head_spec: tuple) -> list[jax.Array]:
    specs = [(RULES["rows"], None), head_spec, (RULES["rows"],)]
    return [
        jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
        for x, spec in zip(operands(), specs, strict=True)
    ]


@functools.partial(jax.jit, static_argnums=3)
def values_and_gradients(
    hidden_TD: jax.Array, head_VD: jax.Array, labels_T: jax.Array, options: tuple
) -> tuple:
    weights = np.float32(np.random.default_rng(1).normal(size=(3, len(labels_T))))

    def loss(hidden_TD: jax.Array, head_VD: jax.Array) -> tuple[jax.Array, LogProbs]:
        out = linear_logprob(hidden_TD, head_VD, labels_T, **SCALE, **dict(options))
        return jnp.sum(weights * jnp.stack(out)), out

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(hidden_TD, head_VD)


XLA = (("implementation", "xla"), ("block", BLOCK))
PALLAS = (("implementation", "pallas"), ("interpret", True), ("block", BLOCK))
REFERENCE = (("implementation", "reference"),)


@pytest.mark.parametrize("local", [XLA, PALLAS], ids=["xla", "pallas"])
def test_matches_the_dense_form(mesh, local):
    with jax.set_mesh(mesh):
        sharded = values_and_gradients(*place(mesh, ("tensor", None)), local)
    dense = values_and_gradients(*operands(), REFERENCE)
    for got, expected in zip(jax.tree.leaves(sharded), jax.tree.leaves(dense), strict=True):
        np.testing.assert_allclose(got, expected, atol=5e-5, rtol=1e-4)
    (d_hidden_TD, d_head_VD), _ = sharded
    assert d_head_VD.sharding.spec[0] == "tensor"
    assert d_hidden_TD.sharding.spec[0] == RULES["rows"]


@pytest.mark.parametrize(("t", "v"), [(T, V - 1), (T - 1, V), (T - 1, V - 1)])
def test_undivided_tokens_or_vocabulary_are_replicated(t, v):
    hidden_TD, head_VD, labels_T = operands()
    arrays = (hidden_TD[:t], head_VD[:v], labels_T[:t] % v)
    mesh = make_mesh(MESHES["2x2x2"], jax.devices()[:8])
    with jax.set_mesh(mesh):
        sharded = values_and_gradients(*arrays, XLA)
    dense = values_and_gradients(*arrays, REFERENCE)
    for got, expected in zip(jax.tree.leaves(sharded), jax.tree.leaves(dense), strict=True):
        np.testing.assert_allclose(got, expected, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("head_spec", [("tensor", None), ("tensor", "fsdp")])
def test_neither_head_nor_logits_are_gathered(mesh, head_spec):
    """A head whose width lies over `fsdp` is gathered along its width, as every parameter is."""
    with jax.set_mesh(mesh):
        arrays = place(mesh, head_spec)
        lowered = values_and_gradients.lower(*arrays, XLA)
        hlo = lowered.compile().as_text()
    shapes = {tuple(map(int, dims.split(","))) for dims in re.findall(r"\[([\d,]+)\]", hlo)}
    assert ("all-gather" in hlo) == (head_spec == ("tensor", "fsdp") and mesh.shape["fsdp"] > 1)
    assert (V // mesh.shape["tensor"], D) in shapes
    assert not [shape for shape in shapes if V in shape]
    tokens = T // (mesh.shape["data"] * mesh.shape["fsdp"])
    assert (tokens, V // mesh.shape["tensor"]) not in shapes
    assert "all-reduce" in hlo
