"""Policies in bfloat16: updates add up in float32, whatever the parameters are rounded to."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pivotrl_jax.training import (
    OptimizerSettings,
    make_optimizer,
    new_state,
    state_shardings,
    supervised_update,
)
from pivotrl_jax.training.checkpoints import Checkpointer
from pivotrl_jax.training.data import index_batches
from pivotrl_jax.training.state import apply_gradients

RATE = 1e-6  # the presets' for accelerators
OPTIMIZER = make_optimizer(OptimizerSettings(learning_rate=RATE), 400)


@pytest.fixture(scope="module")
def make(tiny_cfg, tiny_params, place):
    """A model's update and its state at step 0, of the tiny policy's weights in bfloat16."""
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tiny_params)

    def make(dtype: str, precision: str = "float32"):
        cfg = dataclasses.replace(tiny_cfg, dtype=dtype, matmul_precision=precision)
        own = jax.tree.map(lambda x: x.astype(dtype), rounded)
        mesh, params = place(2, 1, 1, cfg=cfg, params=own)
        layout = state_shardings(OPTIMIZER, cfg, mesh)
        update = supervised_update(cfg, OPTIMIZER, layout, "full")
        return update, new_state(params, OPTIMIZER, layout), layout

    return make


def whole(state):
    return state.params if state.master is None else state.master


def moved(update, state, batch, steps: int) -> np.ndarray:
    before = jax.device_get(whole(state))
    for _ in range(steps):
        state, _ = update(state, batch)
    after = jax.device_get(whole(state))
    apart = jax.tree.map(lambda a, b: (a - b).ravel(), after, before)
    return np.concatenate(jax.tree.leaves(apart))


@pytest.mark.parametrize("kind", [["bfloat16"], ["float32", "bfloat16"]], ids=["all", "products"])
def test_steps_in_bfloat16_go_where_those_in_float32_do(make, make_supervised, kind):
    batch = make_supervised(2)
    ours, exact = (moved(*make(*kind)[:2], batch, 4) for kind in (kind, ["float32"]))
    assert np.abs(ours).max() == pytest.approx(4 * RATE, rel=0.1)
    together = ours @ exact / np.linalg.norm(ours) / np.linalg.norm(exact)
    # What differs are gradients near zero, whose sign rounding turns.
    assert together > 0.9
    assert np.linalg.norm(ours) == pytest.approx(np.linalg.norm(exact), rel=0.05)


def test_parameters_are_the_master_rounded_and_moments_are_float32(make, make_supervised):
    update, state, _ = make("bfloat16")
    state, _ = update(state, make_supervised(2))
    for x, master in zip(*map(jax.tree.leaves, (state.params, state.master)), strict=True):
        assert (x.dtype, master.dtype) == (jnp.bfloat16, jnp.float32)
        np.testing.assert_array_equal(x, master.astype(jnp.bfloat16))
        assert x.sharding == master.sharding
    for name in ("mu", "nu"):
        for moment in jax.tree.leaves(optax.tree_utils.tree_get(state.opt_state, name)):
            assert moment.dtype == jnp.float32
    assert make("float32")[1].master is None


def test_small_steps_show_in_parameters_once_they_are_enough(make):
    """A weight of 0.5 takes steps of 1e-6 for a whole unit in the last place of bfloat16."""
    _, state, _ = make("bfloat16")
    ones = jax.tree.map(lambda x: jnp.full_like(x, 0.5), state.params)
    state = state.replace(params=ones, master=jax.tree.map(lambda x: x.astype(jnp.float32), ones))
    grads = jax.tree.map(lambda x: jnp.ones_like(x, jnp.float32), ones)
    step = jax.jit(lambda state: apply_gradients(state, grads, OPTIMIZER))
    for _ in range(300):
        state = step(state)
    expected = 0.5 - 300 * RATE
    for master in jax.tree.leaves(state.master):
        np.testing.assert_allclose(master, expected, rtol=1e-5)
    for nu in jax.tree.leaves(optax.tree_utils.tree_get(state.opt_state, "nu")):
        clipped = 1 / optax.global_norm(grads)
        np.testing.assert_allclose(nu, clipped**2 * (1 - 0.999**300), rtol=1e-3)
    for x in jax.tree.leaves(state.params):
        np.testing.assert_array_equal(x, jnp.bfloat16(expected))


def test_a_checkpoint_keeps_the_master(make, make_supervised, tmp_path):
    update, state, _ = make("bfloat16")
    state, _ = update(state, make_supervised(2))
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(state, index_batches([1] * 10, 4, seed=1))
    restored, _ = checkpointer.restore(make("bfloat16")[1])
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    checkpointer.close()
