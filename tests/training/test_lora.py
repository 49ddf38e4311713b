"""Updates that train adapters: what they change, what they keep, and on which devices."""

import dataclasses
from functools import partial
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kernels.grpo import AdvantageSettings
from pivotrl_jax.environments import Task
from pivotrl_jax.models import Params
from pivotrl_jax.models.lora import (
    Adapters,
    LoraSettings,
    attach,
    init_adapters,
    merge,
)
from pivotrl_jax.objectives import PolicySettings
from pivotrl_jax.pivots import Judging
from pivotrl_jax.sampling import EngineSettings
from pivotrl_jax.training import (
    Checkpointer,
    EndToEndSettings,
    OptimizerSettings,
    PivotStep,
    TrainSettings,
    episode_step,
    in_micro_batches,
    index_batches,
    make_optimizer,
    new_state,
    pivotrl,
    policy_update,
    state_shardings,
    supervised_update,
    token_logprobs,
)
from pivotrl_jax.training.memory import needed

LORA = LoraSettings(rank=4, alpha=8.0)
# A large epsilon: dividing a gradient by its own size would turn its rounding into steps.
OPTIMIZER = make_optimizer(OptimizerSettings(learning_rate=0.005, eps=1e-2), 4)


def trained_before(cfg) -> Adapters:
    """Adapters whose B is not zero."""
    fresh = init_adapters(jax.random.key(3), cfg, LORA)
    noise = jax.random.normal(jax.random.key(4), (999_999,)) * 0.1
    return jax.tree.map(lambda x: noise[: x.size].reshape(x.shape) + x, fresh)


@pytest.fixture(scope="module")
def adapters(tiny_cfg) -> Adapters:
    return jax.device_get(trained_before(tiny_cfg))


@pytest.fixture(scope="module")
def setup(tiny_cfg, place, adapters):
    """On a mesh: its base, and what makes a state of adapters."""

    def setup(*sizes: int):
        mesh, base = place(*sizes)
        layout = state_shardings(OPTIMIZER, tiny_cfg, mesh, LORA)

        def state():
            own = jax.tree.map(lambda x, s: jax.device_put(x.copy(), s), adapters, layout.params)
            return new_state(own, OPTIMIZER, layout)

        return mesh, base, layout, state

    return setup


@pytest.fixture(scope="module")
def policy(tiny_cfg):
    settings = PolicySettings(kl_coef=0.1, clip_high=5.0)
    return partial(
        policy_update, tiny_cfg, OPTIMIZER, policy=settings, advantage=AdvantageSettings("mean"),
        temperature=0.8, remat="dots",
    )  # fmt: skip


@pytest.fixture(scope="module")
def one_device(setup, policy, policy_rows):
    """Two steps on one device: the base before and after, the states and metrics of both."""
    mesh, base, layout, state = setup(1, 1, 1)
    before = jax.device_get(base)
    with jax.set_mesh(mesh):
        update = in_micro_batches(policy(layout=layout), mesh, base=base)
        reference = jax.tree.map(jnp.copy, state().params)
        steps = [update(state(), reference, policy_rows)]
        # The update takes over the first state.
        steps[0] = jax.device_get(steps[0])
        again = jax.tree.map(jax.device_put, steps[0][0], layout)
        steps.append(jax.device_get(update(again, reference, policy_rows)))
    return before, jax.device_get(base), steps


def test_adapters_learn_and_the_base_stays_as_it_is(one_device, adapters):
    before, after, steps = one_device
    jax.tree.map(np.testing.assert_array_equal, after, before)
    changes = jax.tree.map(lambda x, y: abs(x - y).max(), steps[0][0].params, adapters)
    assert min(jax.tree.leaves(changes)) > 1e-6
    assert steps[1][1]["loss"] < steps[0][1]["loss"]


def test_the_state_holds_nothing_of_the_base(one_device, adapters):
    state = one_device[2][0][0]
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(adapters))
    moments = optax.tree_utils.tree_get(state.opt_state, "mu")
    assert sorted(leaf.shape for leaf in jax.tree.leaves(moments)) == shapes
    arrays = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert sorted(arrays) == sorted(3 * shapes)


def test_log_probs_and_penalty_are_those_of_dense_policies(
    one_device, tiny_cfg, tiny_params, adapters, policy_rows
):
    """Of trees; the penalty's pi_0 is what the adapters were at first, on the same base."""
    score = jax.jit(
        partial(token_logprobs, temperature=0.8), static_argnums=1, static_argnames="remat"
    )
    tree, index, weight = policy_rows.tree, policy_rows.index, policy_rows.weight

    def logp(own: Adapters, dense: bool):
        policy = attach(tiny_params, own)
        return np.asarray(score(merge(policy) if dense else policy, tiny_cfg, tree, index).logp_T)

    now, first = logp(one_device[2][0][0].params, True), logp(adapters, True)
    np.testing.assert_allclose(logp(adapters, False), first, rtol=1e-5, atol=1e-5)
    gap = first - now
    kl = np.sum(gap**2 / 2 * weight) / weight.sum()
    _, metrics = one_device[2][1]
    assert kl > 1e-6
    assert metrics["kl"] == pytest.approx(kl, rel=1e-3)
    assert one_device[2][0][1]["kl"] == pytest.approx(0, abs=1e-9)


def test_eight_devices_train_as_one(one_device, setup, policy, policy_rows):
    mesh, base, layout, state = setup(2, 2, 2)
    rank = state().params.factors["q"].b.sharding.spec
    assert rank[1] is None
    assert rank[2] in ("tensor", ("tensor",))
    with jax.set_mesh(mesh):
        update = in_micro_batches(policy(layout=layout), mesh, base=base)
        found, metrics = update(state(), jax.tree.map(jnp.copy, state().params), policy_rows)
    expected, own = one_device[2][0]
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, jax.device_get(found.params), expected.params)
    for name in ("loss", "grad_norm", "kl", "entropy"):
        assert float(metrics[name]) == pytest.approx(float(own[name]), rel=1e-4, abs=1e-7)


def test_resuming_goes_on_to_the_same_bits(tmp_path, one_device, setup, policy, policy_rows):
    steps = one_device[2]
    mesh, base, layout, state = setup(1, 1, 1)
    data = index_batches([1], 1, seed=0)
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(jax.tree.map(jax.device_put, steps[0][0], layout), data)
    restored, _ = checkpointer.restore(state())
    checkpointer.close()
    with jax.set_mesh(mesh):
        update = in_micro_batches(policy(layout=layout), mesh, base=base)
        found, _ = update(restored, state().params, policy_rows)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), steps[1][0])


def test_a_frozen_base_in_bfloat16_counts_as_memory(tiny_cfg, place, setup, make_supervised):
    """SFT; adapters and moments stay in float32."""
    mesh, base, layout, state = setup(1, 1, 1)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base)
    cfg = dataclasses.replace(tiny_cfg, dtype="bfloat16")
    update = supervised_update(cfg, OPTIMIZER, layout, "full")
    batch = make_supervised(4)
    with jax.set_mesh(mesh):
        size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))  # noqa: E731
        lowered = update.lower(state(), batch, base=half)
        found = lowered.compile().memory_analysis().argument_size_in_bytes
        assert found == pytest.approx(size((state(), batch, half)), rel=0.02)
        assert needed(lowered) > size((state(), batch, half))
        after, metrics = update(state(), batch, base=half)
        _, later = update(after, batch, base=half)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(half))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(later)} == {"float32"}
    assert float(later["loss"]) < float(metrics["loss"])


class Asked(Exception):
    """A step wants samples of the policy in `args`."""


def ask(params: Params, *others: object, **named: object) -> NoReturn:
    raise Asked(params)


@pytest.fixture(params=["pivots", "episodes"])
def step_on(request, monkeypatch, tiny_cfg):
    """A step on adapters of a base, up to where it samples."""
    monkeypatch.setattr(pivotrl, "rollouts", ask)
    key, judging = jax.random.key(0), Judging(None, {})

    def step_on(mesh, base: Params):
        if request.param == "episodes":
            tasks = [Task("0", "group", "train")]
            return episode_step(
                ask, tasks, None, None, EndToEndSettings(), [], key, mesh, base=base
            )
        return PivotStep(
            cfg=tiny_cfg, rows_of=lambda indices: [], trunks=[], reference=None, update=None,
            judging=judging, settings=TrainSettings(), engine=EngineSettings(), learning_rates=[],
            key=key, mesh=mesh, thread=None, base=base,
        )  # fmt: skip

    return step_on


def test_a_step_samples_from_base_and_adapters(step_on, setup, tiny_params, adapters):
    mesh, base, _, state = setup(1, 1, 1)
    with pytest.raises(Asked) as asked:
        step_on(mesh, base)(state(), np.array([0]), 0)
    found, expected = asked.value.args[0], attach(tiny_params, adapters)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
