"""A layer of experts against its formula in NumPy, and on meshes against one device."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivotrl_jax.models import ExpertConfig, LayerParams
from pivotrl_jax.models.experts import expert_layer, load
from pivotrl_jax.models.params import layer_axes
from pivotrl_jax.models.transformer import REMAT
from pivotrl_jax.parallel import MeshSettings, make_mesh, rows, shardings

TOKENS, WIDTH, FFN, EXPERTS, ACTIVE = 48, 16, 12, 8, 3
# Qwen3's, and those of gpt-oss with a limit that many activations exceed.
KINDS = {
    "plain": ExpertConfig(EXPERTS, ACTIVE, FFN),
    "biased": ExpertConfig(EXPERTS, ACTIVE, FFN, bias=True, limit=1.5),
}
SHAPES = {
    "router": (WIDTH, EXPERTS),
    "expert_gate": (EXPERTS, WIDTH, FFN),
    "expert_up": (EXPERTS, WIDTH, FFN),
    "expert_down": (EXPERTS, FFN, WIDTH),
}
BIASES = {
    "router_bias": (EXPERTS,),
    "expert_gate_bias": (EXPERTS, FFN),
    "expert_up_bias": (EXPERTS, FFN),
    "expert_down_bias": (EXPERTS, WIDTH),
}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(TOKENS, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module", params=KINDS)
def cfg(request) -> ExpertConfig:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def weights(cfg) -> dict[str, np.ndarray]:
    rng, shapes = np.random.default_rng(1), SHAPES | (BIASES if cfg.bias else {})
    return {n: rng.normal(size=s).astype(np.float32) / 2 for n, s in shapes.items()}


def layer_params(weights: dict) -> LayerParams:
    return LayerParams(**dict.fromkeys(("attn_norm", "q", "k", "v", "o", "ffn_norm")), **weights)


def formula(cfg: ExpertConfig, x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """Every expert for every token; softmax over all, the largest, their sum."""
    biases = {name: weights.get(name, np.float32(0)) for name in BIASES}
    logits = x @ weights["router"] + biases["router_bias"]
    probs = np.exp(logits - logits.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    kept = probs * (probs >= np.sort(probs, axis=1)[:, [-ACTIVE]])
    if cfg.normalised:
        kept /= kept.sum(1, keepdims=True)
    gate = np.einsum("td,xdf->txf", x, weights["expert_gate"]) + biases["expert_gate_bias"]
    up = np.einsum("td,xdf->txf", x, weights["expert_up"]) + biases["expert_up_bias"]
    if cfg.limit:
        gate, up = np.minimum(gate, cfg.limit), np.clip(up, -cfg.limit, cfg.limit)
        inner = gate / (1 + np.exp(-1.702 * gate)) * (up + 1)
    else:
        inner = gate / (1 + np.exp(-gate)) * up
    out = np.einsum("txf,xfd->txd", inner, weights["expert_down"]) + biases["expert_down_bias"]
    return np.einsum("tx,txd->td", kept, out)


@pytest.mark.parametrize("normalised", [True, False])
def test_the_layer_is_the_sum_over_the_likeliest_experts(cfg, x, weights, normalised):
    cfg = dataclasses.replace(cfg, normalised=normalised)
    ours = jax.jit(expert_layer, static_argnums=1)(layer_params(weights), cfg, x)
    np.testing.assert_allclose(ours, formula(cfg, x, weights), rtol=1e-4, atol=2e-5)


def test_no_token_is_dropped_where_all_choose_the_same_experts(cfg, x, weights):
    router = np.zeros_like(weights["router"])
    router[:, [1, 4, 6]] = 5
    crowded, x = weights | {"router": router}, np.abs(x)
    ours = jax.jit(expert_layer, static_argnums=1)(layer_params(crowded), cfg, x)
    np.testing.assert_allclose(ours, formula(cfg, x, crowded), rtol=1e-4, atol=2e-5)


def test_gradients_are_slopes(cfg, x, weights):
    """Of a sum over outputs, along a direction in which no token changes its experts."""
    rng = np.random.default_rng(2)
    read, at = rng.normal(size=x.shape), weights | {"x": x}
    step = {name: rng.normal(size=value.shape) for name, value in at.items()}

    @jax.jit
    @jax.grad
    def gradients(at: dict) -> jax.Array:
        own = {name: value for name, value in at.items() if name != "x"}
        return jnp.sum(expert_layer(layer_params(own), cfg, at["x"]) * read)

    def along(name: str, size: float) -> float:
        moved = at | {name: at[name] + size * step[name]}
        return np.sum(formula(cfg, moved.pop("x"), moved) * read)

    found = gradients(at)
    for name in at:
        # In float64, and too small a step for an activation to come to its limit.
        slope = (along(name, 1e-7) - along(name, -1e-7)) / 2e-7
        assert np.sum(found[name] * step[name]) == pytest.approx(slope, rel=1e-3), name


def test_a_backward_pass_keeps_gates_and_ups_once(cfg, x, weights):
    p = layer_params(weights)
    run = jax.checkpoint(lambda x: expert_layer(p, cfg, x), policy=REMAT["dots"])
    kept = jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(run, x)[1], x))
    assert [leaf.shape for leaf in kept].count((TOKENS * ACTIVE, FFN)) == 2


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
    axes = {name: layer_axes(name)[1:] for name in weights}
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
def test_value_and_gradients_do_not_depend_on_the_mesh(cfg, x, weights, sizes, tokens):
    """Tokens that the devices share, or so few (7) that each has all; experts that they share, or
    that each has, where their number does not divide."""
    alone = value_and_gradients(layer_params(weights), x[:tokens], cfg)
    mesh = make_mesh(MeshSettings(*sizes), jax.devices()[: np.prod(sizes)])
    with jax.set_mesh(mesh):
        ours = value_and_gradients(place(mesh, weights), x[:tokens], cfg)
    for found, wanted in zip(jax.tree.leaves(ours), jax.tree.leaves(alone), strict=True):
        assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted)


def test_tokens_travel_and_weights_do_not(cfg, weights):
    mesh = make_mesh(MeshSettings(1, 1, 1, 8))
    with jax.set_mesh(mesh):
        p = place(mesh, weights)
        x = jax.device_put(np.ones((64, WIDTH), np.float32), rows(mesh, (64, WIDTH)))
        text = jax.jit(expert_layer, static_argnums=1).lower(p, cfg, x).compile().as_text()
    assert f"f32[64,{WIDTH}]" in text  # all tokens, gathered
    assert f"f32[1,{WIDTH},{FFN}]" in text  # the device's own expert
    assert f"f32[{EXPERTS},{WIDTH},{FFN}]" not in text
