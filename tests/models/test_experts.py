"""A layer of experts against its formula in NumPy, and on meshes against one device."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivotrl_jax.models import ExpertConfig, LayerParams
from pivotrl_jax.models.experts import expert_layer, load
from pivotrl_jax.models.params import EXPERT_AXES
from pivotrl_jax.parallel import MeshSettings, make_mesh, rows, shardings

TOKENS, WIDTH, FFN, EXPERTS, ACTIVE = 48, 16, 12, 8, 3
CFG = ExpertConfig(EXPERTS, ACTIVE, FFN)
SHAPES = {
    "router": (WIDTH, EXPERTS),
    "expert_gate": (EXPERTS, WIDTH, FFN),
    "expert_up": (EXPERTS, WIDTH, FFN),
    "expert_down": (EXPERTS, FFN, WIDTH),
}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(TOKENS, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {n: rng.normal(size=s).astype(np.float32) / 2 for n, s in SHAPES.items()}


def layer_params(weights: dict) -> LayerParams:
    return LayerParams(**dict.fromkeys(("attn_norm", "q", "k", "v", "o", "ffn_norm")), **weights)


def formula(x: np.ndarray, weights: dict[str, np.ndarray], *, normalised: bool) -> np.ndarray:
    """Every expert for every token; softmax over all, the largest, their sum."""
    logits = x @ weights["router"]
    probs = np.exp(logits - logits.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    kept = probs * (probs >= np.sort(probs, axis=1)[:, [-ACTIVE]])
    if normalised:
        kept /= kept.sum(1, keepdims=True)
    gate = np.einsum("td,xdf->txf", x, weights["expert_gate"])
    inner = gate / (1 + np.exp(-gate)) * np.einsum("td,xdf->txf", x, weights["expert_up"])
    return np.einsum("tx,txf,xfd->td", kept, inner, weights["expert_down"])


@pytest.mark.parametrize("normalised", [True, False])
def test_the_layer_is_the_sum_over_the_likeliest_experts(x, weights, normalised):
    cfg = ExpertConfig(EXPERTS, ACTIVE, FFN, normalised)
    ours = jax.jit(expert_layer, static_argnums=1)(layer_params(weights), cfg, x)
    np.testing.assert_allclose(
        ours, formula(x, weights, normalised=normalised), rtol=1e-4, atol=1e-5
    )


def test_no_token_is_dropped_where_all_choose_the_same_experts(x, weights):
    router = np.zeros_like(weights["router"])
    router[:, [1, 4, 6]] = 1
    crowded, x = weights | {"router": router}, np.abs(x)
    ours = jax.jit(expert_layer, static_argnums=1)(layer_params(crowded), CFG, x)
    np.testing.assert_allclose(ours, formula(x, crowded, normalised=True), rtol=1e-4, atol=1e-5)


def test_gradients_are_slopes(x, weights):
    """Of a sum over outputs, along a direction in which no token changes its experts."""
    rng = np.random.default_rng(2)
    read, at = rng.normal(size=x.shape), weights | {"x": x}
    step = {name: rng.normal(size=value.shape) for name, value in at.items()}

    @jax.jit
    @jax.grad
    def gradients(at: dict) -> jax.Array:
        own = {name: value for name, value in at.items() if name != "x"}
        return jnp.sum(expert_layer(layer_params(own), CFG, at["x"]) * read)

    def along(name: str, size: float) -> float:
        moved = at | {name: at[name] + size * step[name]}
        return np.sum(formula(moved.pop("x"), moved, normalised=True) * read)

    found = gradients(at)
    for name in at:
        slope = (along(name, 1e-5) - along(name, -1e-5)) / 2e-5
        assert np.sum(found[name] * step[name]) == pytest.approx(slope, rel=1e-3), name


def test_load_counts_the_tokens_of_every_expert():
    chosen = jnp.array([[0, 2], [2, 3], [2, 0], [1, 3]])
    counted = jnp.array([True, True, True, False])
    np.testing.assert_array_equal(load(chosen, counted, 5), [2, 0, 3, 1, 0])


@partial(jax.jit, static_argnums=2)
def value_and_gradients(p: LayerParams, x: jax.Array, cfg: ExpertConfig):
    def loss(p: LayerParams, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = expert_layer(p, cfg, x)
        return jnp.sum(jnp.sin(y)), y

    grads, y = jax.grad(loss, argnums=(0, 1), has_aux=True)(p, x)
    return y, grads


def place(mesh: jax.sharding.Mesh, weights: dict[str, np.ndarray]) -> LayerParams:
    axes = {name: EXPERT_AXES[name][1:] for name in weights}
    return layer_params(jax.device_put(weights, shardings(weights, axes, mesh)))


# data, fsdp, tensor, expert, context.
@pytest.mark.parametrize(
    ("sizes", "tokens"),
    [
        ((2, 1, 2, 2), TOKENS),
        ((1, 2, 1, 2, 2), TOKENS),
        ((1, 2, 1, 4), TOKENS),
        ((1, 2, 2, 2), 7),
        ((1, 1, 1, 3), TOKENS),
    ],
    ids=str,
)
def test_value_and_gradients_do_not_depend_on_the_mesh(x, weights, sizes, tokens):
    """Tokens that the devices share, or so few (7) that each has all; experts that they share, or
    that each has, where their number does not divide."""
    alone = value_and_gradients(layer_params(weights), x[:tokens], CFG)
    mesh = make_mesh(MeshSettings(*sizes), jax.devices()[: np.prod(sizes)])
    with jax.set_mesh(mesh):
        ours = value_and_gradients(place(mesh, weights), x[:tokens], CFG)
    for found, wanted in zip(jax.tree.leaves(ours), jax.tree.leaves(alone), strict=True):
        assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted)


def test_tokens_travel_and_weights_do_not(weights):
    mesh = make_mesh(MeshSettings(1, 1, 1, 8))
    with jax.set_mesh(mesh):
        p = place(mesh, weights)
        x = jax.device_put(np.ones((64, WIDTH), np.float32), rows(mesh, (64, WIDTH)))
        text = jax.jit(expert_layer, static_argnums=1).lower(p, CFG, x).compile().as_text()
    assert f"f32[64,{WIDTH}]" in text  # all tokens, gathered
    assert f"f32[1,{WIDTH},{FFN}]" in text  # the device's own expert
    assert f"f32[{EXPERTS},{WIDTH},{FFN}]" not in text
