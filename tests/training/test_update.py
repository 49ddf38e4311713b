"""Updates of the whole model: accumulation, the KL to pi_0, Proposition 3.1, the optimiser."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kernels.grpo import AdvantageSettings
from pivotrl_jax.models import Params, logits, shapes
from pivotrl_jax.models.presets import QWEN_3_0_6B, shrink
from pivotrl_jax.objectives import PolicySettings
from pivotrl_jax.training import (
    OptimizerSettings,
    TrainState,
    learning_rates,
    make_optimizer,
    new_state,
    policy_update,
    state_shardings,
    supervised_update,
)
from pivotrl_jax.training.optimizer import decayed

RAW = AdvantageSettings(normalisation="mean")
OPTIMIZER = make_optimizer(OptimizerSettings(learning_rate=3e-3, eps=1e-2), 4)


@pytest.fixture(scope="module")
def layout(tiny_cfg, place):
    return state_shardings(OPTIMIZER, tiny_cfg, place(1, 1, 1)[0])


@pytest.fixture(scope="module")
def fresh(place, layout):
    def fresh() -> TrainState:
        return new_state(place(1, 1, 1)[1], OPTIMIZER, layout)

    return fresh


@pytest.fixture(scope="module")
def supervised(tiny_cfg, layout):
    return supervised_update(tiny_cfg, OPTIMIZER, layout, "full")


@pytest.fixture(scope="module")
def policy(tiny_cfg, layout):
    settings = PolicySettings(kl_coef=0.0, clip_low=0.5, clip_high=0.5)
    return policy_update(tiny_cfg, OPTIMIZER, layout, settings, RAW, temperature=1.0, remat="full")


def far(ours: Params, theirs: Params) -> float:
    distance = lambda a, b: jnp.linalg.norm(a - b) / jnp.linalg.norm(b)  # noqa: E731
    return max(map(float, jax.tree.leaves(jax.tree.map(distance, ours, theirs))))


def moments(state: TrainState) -> Params:
    """First moments: after one update a tenth of the clipped gradient."""
    return optax.tree_utils.tree_get(state.opt_state, "mu")


def test_micro_batches_add_up_to_the_batch(fresh, supervised, make_supervised):
    whole, metrics = supervised(fresh(), make_supervised(4))
    # Three rows each, so the last micro-batch has two rows of padding.
    parts, by_parts = supervised(fresh(), make_supervised(3))
    assert far(moments(parts), moments(whole)) < 1e-5
    for name, value in metrics.items():
        assert float(by_parts[name]) == pytest.approx(float(value), rel=1e-5), name


def test_policy_micro_batches_add_up_to_the_batch(fresh, policy, make_policy):
    whole, metrics = policy(fresh(), None, make_policy(4))
    parts, by_parts = policy(fresh(), None, make_policy(3))
    assert far(moments(parts), moments(whole)) < 1e-5
    for name, value in metrics.items():
        assert float(by_parts[name]) == pytest.approx(float(value), rel=1e-5), name
    assert 0 < metrics["clip_share"] < 1


def test_the_loss_is_that_of_enumerated_log_probs(
    fresh, supervised, make_supervised, tiny_cfg, tiny_params, examples
):
    _, metrics = supervised(fresh(), make_supervised(4))
    scores = []
    for trunk, spans in examples:
        row = np.pad(trunk, (0, 128 - len(trunk)))[None]
        z = jax.jit(logits, static_argnums=1)(tiny_params, tiny_cfg, row)
        logp = np.asarray(jax.nn.log_softmax(z))[0]
        for start, end in spans:
            scores += [float(logp[t - 1, trunk[t]]) for t in range(start, end)]
    assert metrics["loss"] == pytest.approx(-np.mean(scores), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(np.mean(np.exp(scores)), rel=1e-4)
    assert metrics["action_tokens"] == len(scores)


def test_repeating_a_batch_lowers_its_loss(fresh, supervised, make_supervised):
    state, losses = fresh(), []
    for _ in range(4):
        state, metrics = supervised(state, make_supervised(4))
        losses.append(float(metrics["loss"]))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]
    assert int(state.step) == 4


def test_without_advantages_the_gradient_is_exactly_zero(fresh, policy, make_policy):
    """Proposition 3.1 through the whole model: equal rewards teach nothing."""
    before = jax.device_get(fresh().params)
    state, metrics = policy(fresh(), None, make_policy(4, scale=0.0))
    assert metrics["grad_norm"] == 0
    assert metrics["loss"] == 0
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), before)


def test_advantages_move_log_probs_their_way(fresh, policy, make_policy):
    """On-policy, minus the gain is minus the mean advantage of tokens; one step lowers it."""
    batch = make_policy(4)
    state, first = policy(fresh(), None, batch)
    _, second = policy(state, None, batch)
    assert first["grad_norm"] > 0.01
    assert float(second["loss"]) < float(first["loss"])


def test_the_penalty_is_zero_at_the_reference_and_pulls_back_to_it(
    tiny_cfg, layout, fresh, make_policy
):
    update = policy_update(
        tiny_cfg, OPTIMIZER, layout, PolicySettings(kl_coef=1.0), RAW,
        temperature=1.0, remat="full",
    )  # fmt: skip
    nothing = make_policy(4, scale=0.0)
    reference = jax.tree.map(jnp.copy, fresh().params)
    _, at_reference = update(fresh(), reference, nothing)
    assert float(at_reference["kl"]) == pytest.approx(0, abs=1e-9)
    away = fresh()
    away = away.replace(params=jax.tree.map(lambda x: 1.2 * x, away.params))
    away, before = update(away, reference, nothing)
    _, after = update(away, reference, nothing)
    assert 0 < float(after["kl"]) < float(before["kl"])
    assert float(before["loss"]) == pytest.approx(float(before["kl"]), rel=1e-5)


def test_a_penalty_needs_the_reference(tiny_cfg, layout, fresh, make_policy):
    update = policy_update(
        tiny_cfg, OPTIMIZER, layout, PolicySettings(kl_coef=0.1), RAW,
        temperature=1.0, remat="full",
    )  # fmt: skip
    with pytest.raises(ValueError, match="kl_coef is not 0, so policy_loss needs ref_logp_RA"):
        update(fresh(), None, make_policy(4))


def test_traces_name_the_parts_of_an_update(tiny_cfg, layout, fresh, make_policy, make_supervised):
    settings = PolicySettings(kl_coef=0.1)
    policy = policy_update(
        tiny_cfg, OPTIMIZER, layout, settings, RAW, temperature=1.0, remat="full"
    )
    lowered = policy.lower(fresh(), fresh().params, make_policy(4))
    parts = {"attention", "ffn", "logprob", "loss", "optimizer"}
    assert scopes(lowered) >= parts | {"reference"}
    supervised = supervised_update(tiny_cfg, OPTIMIZER, layout, "full")
    assert scopes(supervised.lower(fresh(), make_supervised(4))) >= parts


def scopes(lowered: jax.stages.Lowered) -> set[str]:
    """The words of the paths that operations have in traces."""
    paths = re.findall(r'loc\("([^"]*)"\(', lowered.as_text(debug_info=True))
    return {*re.findall(r"\w+", " ".join(paths))}


def test_norms_biases_and_sinks_are_not_decayed():
    everything = dataclasses.replace(
        QWEN_3_0_6B, qkv_bias=True, o_bias=True, sinks=True, tied=False
    )
    cfg = shrink(everything, vocab=8, width=8, layers=1, kv_heads=1, head_dim=4, ffn=8)
    params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes(cfg))
    names = {path[-1].name: on for path, on in jax.tree.leaves_with_path(decayed(params))}
    matrices = {"embed", "q", "k", "v", "o", "gate", "up", "down", "head"}
    assert {name for name, on in names.items() if on} == matrices
    optimizer = make_optimizer(OptimizerSettings(1.0, weight_decay=0.5), 1)
    step = jax.jit(lambda x, p: optimizer.update(x, optimizer.init(p), p)[0])
    updates = step(jax.tree.map(np.zeros_like, params), params)
    for path, update in jax.tree.leaves_with_path(updates):
        np.testing.assert_allclose(update, -0.5 * names[path[-1].name], atol=1e-7)


def test_learning_rates():
    constant = learning_rates(OptimizerSettings(1.0, warmup_steps=3), 6)
    assert constant == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    cosine = learning_rates(OptimizerSettings(2.0, warmup_steps=1, schedule="cosine"), 5)
    decay = [1 + np.cos(np.pi * t / 4) for t in range(4)]
    assert cosine == pytest.approx([1.0, *decay])


def test_the_gradient_is_clipped_by_its_global_norm():
    optimizer = make_optimizer(OptimizerSettings(1.0, clip_norm=0.5), 1)
    grads = Params(embed=jnp.array([3.0]), layers=None, final_norm=jnp.array([4.0]))
    _, state = optimizer.update(grads, optimizer.init(grads), grads)
    clipped = optax.tree_utils.tree_get(state, "mu")
    np.testing.assert_allclose(clipped.embed, [0.03], rtol=1e-5)
    np.testing.assert_allclose(clipped.final_norm, [0.04], rtol=1e-5)
