"""Updates that cut their batches themselves: same results, whatever fits."""

import dataclasses
import logging
import math

import jax
import numpy as np
import pytest

from kernels.grpo import AdvantageSettings
from pivotrl_jax.errors import UserError
from pivotrl_jax.objectives import PolicySettings
from pivotrl_jax.training import (
    OptimizerSettings,
    in_micro_batches,
    make_optimizer,
    micro_batches,
    new_state,
    policy_update,
    state_shardings,
    supervised_batch,
    supervised_update,
)
from pivotrl_jax.training.memory import USABLE

# A large epsilon: dividing a gradient by its own size would turn its rounding into steps.
OPTIMIZER = make_optimizer(OptimizerSettings(learning_rate=0.1, eps=1e-2), 4)
PLENTY = 2**40


def compilations(caplog) -> int:
    """Of updates, so far."""
    return sum(
        record.getMessage().startswith("Finished XLA compilation of jit(update)")
        for record in caplog.records
    )


def far(ours, theirs) -> float:
    distance = lambda a, b: np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-12)  # noqa: E731
    return max(jax.tree.leaves(jax.tree.map(distance, *jax.device_get((ours, theirs)))))


def test_rows_of_padding_weigh_nothing(supervised_rows):
    cut = micro_batches(supervised_rows, 3)
    assert cut.tree.shape[:2] == cut.weight.shape[:2] == (2, 3)
    np.testing.assert_array_equal(cut.index.reshape(6, -1)[:4], supervised_rows.index)
    assert cut.weight.sum() == supervised_rows.weight.sum()
    assert cut.weight[1, 1:].sum() == 0


def test_every_device_has_its_share_of_every_micro_batch(place):
    """Rows of 1,024 tokens, of which two saturate a CPU: 2 x 8 rows, then 11 and 5 of padding."""
    mesh, _ = place(2, 4, 1)
    text = np.arange(1000, dtype=np.int32)
    batch = supervised_batch([(text, [(990, 1000)])] * 27, multiple=1024, shards=99)
    update = in_micro_batches(jax.jit(lambda batch: (None, {"weight": batch.weight})), mesh)
    _, metrics = update(batch)
    assert metrics["micro_tokens"] == 2048
    assert metrics["weight"].shape == (2, 16, 4096)
    assert {shard.data.shape for shard in metrics["weight"].addressable_shards} == {(2, 2, 4096)}


CASES = [("supervised", (1, 1, 1)), ("policy", (1, 1, 1)), ("supervised", (2, 2, 2))]


@pytest.mark.parametrize(("kind", "sizes"), CASES)
def test_a_batch_that_does_not_fit_whole_gives_the_same_update(
    kind, sizes, tiny_cfg, place, supervised_rows, policy_rows, caplog
):
    mesh, _ = place(*sizes)
    rows = supervised_rows if kind == "supervised" else policy_rows
    # Two or four rows per device.
    batch = jax.tree.map(lambda x: np.concatenate([x] * (2 if math.prod(sizes) > 1 else 1)), rows)
    layout = state_shardings(OPTIMIZER, tiny_cfg, mesh)
    if kind == "supervised":
        others, update = [], supervised_update(tiny_cfg, OPTIMIZER, layout, "full")
    else:
        others = [place(*sizes)[1]]
        update = policy_update(
            tiny_cfg, OPTIMIZER, layout, PolicySettings(kl_coef=0.1), AdvantageSettings("mean"),
            temperature=0.8, remat="full",
        )  # fmt: skip

    def run(memory: int):
        """Two steps; the second one compiles nothing."""
        step = in_micro_batches(update, mesh, memory)
        state = new_state(place(*sizes)[1], OPTIMIZER, layout)
        state, _ = step(state, *others, batch)
        return step(state, *others, batch)

    with jax.set_mesh(mesh), jax.log_compiles(), caplog.at_level(logging.INFO):
        whole, metrics = run(PLENTY)
        assert compilations(caplog) == 1
        (needs,) = (record.args[2] for record in caplog.records if "GiB needed" in record.msg)
        tight, by_parts = run(math.ceil(2**30 * needs / USABLE) - 1)
        assert compilations(caplog) == 2
    assert metrics["micro_tokens"] == 2 * by_parts["micro_tokens"]
    assert far(tight.params, whole.params) < 1e-5
    for name in metrics.keys() - {"micro_tokens"}:
        assert float(by_parts[name]) == pytest.approx(float(metrics[name]), rel=1e-5, abs=1e-6)
    with (
        jax.set_mesh(mesh),
        pytest.raises(UserError, match=r"mesh\.context where a single row is too long$"),
    ):
        run(1)


def test_the_choice_is_made_once_per_shape(place, supervised_rows, caplog):
    mesh, _ = place(1, 1, 1)
    scale = 2.0

    @jax.jit
    def update(state, batch):
        return state + batch.weight.sum(), {}

    step = in_micro_batches(update, mesh, PLENTY)
    longer = jax.tree.map(lambda x: np.concatenate([x, x]), supervised_rows)
    others = dataclasses.replace(supervised_rows, weight=scale * supervised_rows.weight)
    with jax.log_compiles(), caplog.at_level(logging.INFO):
        for batch in (supervised_rows, longer, others, longer):
            step(0.0, batch)
        assert compilations(caplog) == 2
    chosen = [record for record in caplog.records if record.name.startswith("pivotrl_jax")]
    assert len(chosen) == 2
