"""Updates of a model with experts: on a mesh as on one device, their load, a router that stays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.models import ModelConfig, Params, hidden_and_load, init
from pivotrl_jax.models.presets import GPT_OSS_20B, QWEN_3_30B_A3B, shrink
from pivotrl_jax.training import (
    OptimizerSettings,
    in_micro_batches,
    make_optimizer,
    micro_batches,
    new_state,
    state_shardings,
    supervised_update,
)
from pivotrl_jax.training.expert_load import load_metrics
from pivotrl_jax.trees import causal

CONFIGS = [
    shrink(published, vocab=256, width=32, layers=2, kv_heads=2, head_dim=8, ffn=16)
    for published in (QWEN_3_30B_A3B, GPT_OSS_20B)
]
FROZEN = OptimizerSettings(0.1, eps=1e-2, weight_decay=0.1, frozen=("router", "embed"))
OPTIMIZER = make_optimizer(FROZEN, 4)


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda cfg: cfg.name)
def cfg(request) -> ModelConfig:
    return request.param


@pytest.fixture(scope="module")
def params(cfg) -> Params:
    """Biases and sinks that are not zero, either."""
    made, key = init(jax.random.key(3), cfg), jax.random.key(4)
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(key, x.shape), made)


@pytest.fixture(scope="module")
def run(place, cfg, params, supervised_rows):
    """The parameters, the state and the metrics after one update on a mesh."""

    def run(*sizes: int):
        mesh, placed = place(*sizes, cfg=cfg, params=params)
        layout = state_shardings(OPTIMIZER, cfg, mesh)
        with jax.set_mesh(mesh):
            update = supervised_update(cfg, OPTIMIZER, layout, "full")
            state = new_state(placed, OPTIMIZER, layout)
            after, metrics = in_micro_batches(update, mesh)(state, supervised_rows)
        del metrics["micro_tokens"]  # per device, so not the same on every mesh
        return jax.device_get(after), {name: float(value) for name, value in metrics.items()}

    return run


@pytest.fixture(scope="module")
def alone(run):
    return run(1, 1, 1)


def test_an_update_does_not_depend_on_the_mesh(run, alone):
    """Over data, tensor and expert together."""
    after, metrics = run(2, 1, 2, 2)
    expected, expected_metrics = alone
    assert metrics == pytest.approx(expected_metrics, rel=1e-5, abs=1e-6)
    moments = [optax.tree_utils.tree_get(s.opt_state, "mu") for s in (after, expected)]
    for a, b in (moments, (after.params, expected.params)):
        for found, wanted in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted)


def test_rows_that_fill_a_micro_batch_are_nobodys_load(place, cfg, params, supervised_rows, alone):
    mesh, placed = place(1, 1, 1, cfg=cfg, params=params)
    layout = state_shardings(OPTIMIZER, cfg, mesh)
    update = supervised_update(cfg, OPTIMIZER, layout, "full")
    # Four rows, and two of padding.
    _, metrics = update(new_state(placed, OPTIMIZER, layout), micro_batches(supervised_rows, 3))
    loads = {name: value for name, value in alone[1].items() if name.startswith("experts/")}
    assert loads
    for name, value in loads.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-5), name


def test_frozen_leaves_stay_and_all_others_move(alone, params):
    after, _ = alone
    before = dict(jax.tree.leaves_with_path(params))
    for path, leaf in jax.tree.leaves_with_path(after.params):
        assert np.array_equal(before[path], leaf) == (path[-1].name in FROZEN.frozen), path


def test_an_unknown_frozen_leaf_is_named(params):
    optimizer = make_optimizer(OptimizerSettings(frozen=("gate",)), 4)
    with pytest.raises(UserError, match=r"optimizer.frozen: the model has no parameter 'gate'"):
        optimizer.init(params)


def test_every_token_but_padding_is_counted_with_each_of_its_experts(cfg, params):
    read = jax.jit(hidden_and_load, static_argnums=1)
    tree = causal(jnp.arange(24, dtype=jnp.int32).reshape(2, 12))
    tree = tree.replace(segments=jnp.where(tree.positions < 9, tree.segments, -1))
    _, load_NX, _ = read(params, cfg, tree)
    assert load_NX.shape == (2, 8)
    np.testing.assert_array_equal(load_NX.sum(axis=1), [2 * 9 * 2] * 2)

    # Without a preference the first experts are chosen.
    router = [
        leaf for leaf in ("router", "router_bias") if getattr(params.layers, leaf) is not None
    ]
    zeros = {leaf: jnp.zeros_like(getattr(params.layers, leaf)) for leaf in router}
    indifferent = params.replace(layers=params.layers.replace(**zeros))
    _, load_NX, _ = read(indifferent, cfg, tree)
    np.testing.assert_array_equal(load_NX, [[18, 18, *[0] * 6]] * 2)


def test_load_metrics_are_means_over_layers():
    load_MNX = np.array([[[1, 1, 1, 1], [3, 1, 0, 0]], [[1, 1, 1, 1], [3, 1, 0, 0]]])
    found = load_metrics(jnp.asarray(load_MNX))
    assert found["experts/load_max"] == pytest.approx((1 + 3) / 2)
    shares = np.array([0.75, 0.25])
    entropies = np.log(4), -(shares * np.log(shares)).sum()
    assert found["experts/load_entropy"] == pytest.approx(np.mean(entropies))
    assert load_metrics(None) == {}


def test_an_update_tells_the_load(alone):
    _, metrics = alone
    assert 1 < metrics["experts/load_max"] < 4
    assert 0 < metrics["experts/load_entropy"] < np.log(8)
