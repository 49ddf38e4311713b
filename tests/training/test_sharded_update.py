"""The same updates on every mesh, in state that is born sharded and donated."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kernels.grpo import AdvantageSettings
from pivotrl_jax.objectives import PolicySettings
from pivotrl_jax.training import (
    OptimizerSettings,
    in_micro_batches,
    make_optimizer,
    new_state,
    policy_update,
    state_shardings,
    supervised_update,
)

# A large epsilon: dividing a gradient by its own size would turn its rounding into steps.
OPTIMIZER = make_optimizer(OptimizerSettings(learning_rate=0.1, eps=1e-2, weight_decay=0.1), 4)
# Of four trees: a row for each device, four of them padding; one for each pair of devices; two for
# every four devices, which have a quarter of their tokens each.
MESHES = [(1, 8, 1), (2, 2, 2), (1, 2, 1, 1, 4)]


@pytest.fixture(scope="module")
def run(tiny_cfg, place, supervised_rows, policy_rows):
    """One update of either kind on a mesh: the old state, the new one and the metrics."""

    def run(kind: str, sizes: tuple[int, ...]):
        mesh, params = place(*sizes)
        layout = state_shardings(OPTIMIZER, tiny_cfg, mesh)
        state = new_state(params, OPTIMIZER, layout)
        with jax.set_mesh(mesh):
            if kind == "supervised":
                update = supervised_update(tiny_cfg, OPTIMIZER, layout, "full")
                after, metrics = in_micro_batches(update, mesh)(state, supervised_rows)
            else:
                reference = jax.tree.map(lambda x: 1.02 * x, state.params)
                update = policy_update(
                    tiny_cfg, OPTIMIZER, layout, PolicySettings(kl_coef=0.1, clip_high=5.0),
                    AdvantageSettings("mean"), temperature=0.8, remat="full",
                )  # fmt: skip
                after, metrics = in_micro_batches(update, mesh)(state, reference, policy_rows)
        del metrics["micro_tokens"]  # per device, so not the same on every mesh
        return layout, state, after, jax.device_get(metrics)

    return run


@pytest.fixture(scope="module", params=["supervised", "policy"])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def alone(run, kind):
    return run(kind, (1, 1, 1))


@pytest.fixture(scope="module", params=MESHES, ids=str)
def sharded(run, kind, request):
    return run(kind, request.param)


def far(ours, theirs) -> float:
    distance = lambda a, b: np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-12)  # noqa: E731
    return max(jax.tree.leaves(jax.tree.map(distance, *jax.device_get((ours, theirs)))))


def moments(state):
    """First moments: after one update a tenth of the clipped gradient."""
    return optax.tree_utils.tree_get(state.opt_state, "mu")


def test_losses_gradients_and_parameters_equal_those_of_one_device(sharded, alone):
    _, _, after, metrics = sharded
    _, _, expected, expected_metrics = alone
    assert metrics.keys() == expected_metrics.keys()
    for name, value in expected_metrics.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert far(moments(after), moments(expected)) < 1e-5
    assert far(after.params, expected.params) < 1e-5
    assert expected_metrics["grad_norm"] > 0.01
    assert int(after.step) == 1


def test_state_is_born_sharded_and_stays_where_it_is(sharded):
    layout, _, after, _ = sharded
    same = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), after, layout)
    assert jax.tree.all(same)
    second = optax.tree_utils.tree_get(after.opt_state, "nu")
    for moment in (moments(after), second):
        for m, p in zip(jax.tree.leaves(moment), jax.tree.leaves(after.params), strict=True):
            assert m.sharding == p.sharding
            assert m.addressable_shards[0].data.size < m.size


def test_old_state_is_donated(sharded):
    _, before, after, _ = sharded
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


def test_new_state_takes_over_the_parameters(tiny_cfg, place):
    mesh, params = place(1, 8, 1)
    layout = state_shardings(OPTIMIZER, tiny_cfg, mesh)
    state = new_state(params, OPTIMIZER, layout)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params))
    same = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, layout)
    assert jax.tree.all(same)
    assert float(sum(jnp.abs(m).sum() for m in jax.tree.leaves(moments(state)))) == 0
