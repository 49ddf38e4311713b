"""Expert turns mixed into the policy update: gradients add up, and 0 switches it off."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kernels.grpo import AdvantageSettings
from pivotrl_jax.models import Params, logits
from pivotrl_jax.objectives import PolicySettings
from pivotrl_jax.training import (
    OptimizerSettings,
    PolicyBatch,
    in_micro_batches,
    make_optimizer,
    micro_batches,
    new_state,
    policy_batch,
    policy_update,
    state_shardings,
)

COEF, ALONE = 0.3, (1, 1, 1)
# Unclipped, so that first moments are a tenth of the gradient.
OPTIMIZER = make_optimizer(OptimizerSettings(learning_rate=1e-3, clip_norm=1e9), 1)


@pytest.fixture(scope="module")
def batch(rows, trunks, rollout, reward_PK) -> PolicyBatch:
    return policy_batch(
        rows, trunks, rollout, reward_PK, reward_PK < 9, reward_PK > 9,
        pivots=2, multiple=32, shards=99, experts=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def updated(tiny_cfg, place):
    """After one update on a mesh: gradient, metrics and parameters. On one device the batch comes
    in two micro-batches, the second with rows of padding."""

    def updated(batch: PolicyBatch, coef: float, sizes: tuple[int, int, int] = ALONE):
        mesh, params = place(*sizes)
        layout = state_shardings(OPTIMIZER, tiny_cfg, mesh)
        update = policy_update(
            tiny_cfg, OPTIMIZER, layout, PolicySettings(clip_high=5.0), AdvantageSettings("mean"),
            temperature=0.8, remat="full", sft_coef=coef,
        )  # fmt: skip
        state = new_state(params, OPTIMIZER, layout)
        with jax.set_mesh(mesh):
            if sizes == ALONE:
                state, metrics = update(state, None, micro_batches(batch, 3))
            else:
                state, metrics = in_micro_batches(update, mesh)(state, None, batch)
        moments = optax.tree_utils.tree_get(state.opt_state, "mu")
        gradient = jax.tree.map(lambda x: 10 * x, moments)
        return jax.device_get((gradient, metrics, state.params))

    return updated


@pytest.fixture(scope="module")
def supervised(tiny_cfg, tiny_params, rows, trunks) -> tuple[float, Params]:
    """Loss and gradient of SFT on the flat layout: one row per expert action, dense logits."""
    turns = [turn for _, part in rows for turn in part]
    tokens = np.stack([np.pad(trunks[t.trunk][: t.end], (0, 96 - t.end)) for t in turns])
    places = np.arange(1, 96)
    own = np.array([(places >= t.start) & (places < t.end) for t in turns])

    def loss(params: Params) -> jax.Array:
        logp = jax.nn.log_softmax(logits(params, tiny_cfg, tokens)[:, :-1])
        logp = jnp.take_along_axis(logp, tokens[:, 1:, None], axis=2)[..., 0]
        return -jnp.sum(logp * own) / own.sum()

    return jax.device_get(jax.jit(jax.value_and_grad(loss))(tiny_params))


@pytest.fixture(scope="module")
def without(updated, policy_rows):
    return updated(policy_rows, 0.0)


def far(ours: Params, theirs: Params) -> float:
    distance = lambda a, b: np.linalg.norm(a - b) / np.linalg.norm(b)  # noqa: E731
    return max(jax.tree.leaves(jax.tree.map(distance, ours, theirs)))


@pytest.mark.parametrize("sizes", [ALONE, (2, 2, 2)], ids=str)
def test_the_gradient_is_that_of_the_objective_plus_that_of_sft(
    updated, supervised, without, batch, sizes
):
    policy, alone, _ = without
    loss, sft = supervised
    mixed, metrics, _ = updated(batch, COEF, sizes)
    assert far(mixed, jax.tree.map(lambda a, b: a + COEF * b, policy, sft)) < 1e-5
    assert metrics["sft_loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["loss"] == pytest.approx(float(alone["loss"]) + COEF * loss, rel=1e-5)
    assert metrics["expert_tokens"] == batch.experts.weight.sum() == 4 * 7
    assert 0 < metrics["sft_accuracy"] < 1
    # Neither of the two is lost in the other.
    assert far(mixed, policy) > 0.01
    assert far(mixed, sft) > 0.01
    assert "sft_loss" not in alone
    for name in ("kl", "entropy", "clip_share", "action_tokens"):
        assert metrics[name] == pytest.approx(float(alone[name]), rel=1e-5), name


def test_a_coefficient_of_0_gives_the_same_bits(updated, batch):
    _, _, off = updated(batch, 0.0)
    _, _, absent = updated(batch.replace(experts=None), 0.0)
    jax.tree.map(np.testing.assert_array_equal, off, absent)


def test_a_coefficient_needs_experts(updated, policy_rows):
    with pytest.raises(ValueError, match="sft_coef is not 0, so policy_update needs the batch's"):
        updated(policy_rows, COEF)
