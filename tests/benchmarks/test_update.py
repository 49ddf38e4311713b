"""The sides of the update benchmark are the same update, and their work is counted right."""

import jax
import numpy as np
import pytest

from benchmarks import update
from benchmarks.command import one_device
from benchmarks.flops import forward
from benchmarks.layouts import Point, Work, draw, flat_batches, sft_batch, tree_batch, work
from kernels.grpo import AdvantageSettings
from pivotrl_jax.models import init, shapes
from pivotrl_jax.training import (
    OptimizerSettings,
    make_optimizer,
    new_state,
    policy_update,
    state_shardings,
)
from pivotrl_jax.trees import visible

POINT = Point(history=24, action=4, samples=4, pivots=3)
SMALL = Point(history=16, action=2, samples=2, pivots=2)


def test_starts_are_at_equal_distances_up_to_the_history():
    assert POINT.starts == [8, 16, 24]


def test_work_counts_tokens_and_what_each_of_them_sees():
    drawn = draw(POINT, vocab=256)
    tree, flat = tree_batch(drawn), flat_batches(drawn, budget=50)
    for batches in ([tree], flat):
        pairs = 0
        for batch in batches:
            rows = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch.tree)
            length = rows.shape[1]
            seen = np.asarray(visible(rows, slice(0, length), np.arange(length)))
            pairs += int(seen[rows.segments >= 0].sum())
        assert work(batches).pairs == pairs
    assert work([tree]).tokens == 24 + 3 * 4 * 4
    assert work(flat).tokens == 4 * (8 + 16 + 24 + 3 * 4)
    assert work([tree]).scored == work(flat).scored == 48
    assert work(flat).padding == 0
    # Rows of 12, 20 and 28 tokens: as many as fit 50, of those that divide 4.
    assert [batch.tree.shape[:2] for batch in flat] == [(1, 4), (2, 2), (4, 1)]


def test_supervised_fine_tuning_has_as_many_tokens_and_targets():
    assert work([sft_batch(72, 48, 256)]) == Work(
        tokens=72, padding=0, pairs=72 * 73 // 2, scored=48
    )


def test_flops_are_those_of_the_parameters(tiny_cfg):
    """Two per token and matrix parameter of a layer; four per head width and visible pair."""
    layers = jax.tree.leaves(shapes(tiny_cfg).layers)
    matrices = sum(int(np.prod(leaf.shape)) for leaf in layers if len(leaf.shape) > 2)
    found = forward(tiny_cfg, Work(tokens=5, padding=9, pairs=15, scored=2))
    assert found.layers == 2 * 5 * matrices
    assert found.attention == 4 * 15 * tiny_cfg.layers * tiny_cfg.heads * tiny_cfg.head_dim
    assert found.head == 2 * 2 * tiny_cfg.vocab * tiny_cfg.width


def test_flat_rows_and_the_tree_give_one_update(tiny_cfg):
    optimizer = make_optimizer(OptimizerSettings(), 1)
    layout = state_shardings(optimizer, tiny_cfg, one_device())
    drawn = draw(SMALL, tiny_cfg.vocab)
    by_tree = policy_update(
        tiny_cfg, optimizer, layout, update.NO_KL, AdvantageSettings(), temperature=1.0,
        remat="full",
    )  # fmt: skip
    by_row = update.flat_update(tiny_cfg, optimizer, layout, update.NO_KL, SMALL.samples)

    def state():
        return new_state(init(jax.random.key(0), tiny_cfg), optimizer, layout)

    with jax.set_mesh(one_device()):
        _, tree = jax.jit(lambda batch: by_tree(state(), None, batch))(tree_batch(drawn))
        _, flat = jax.jit(lambda batches: by_row(state(), batches))(flat_batches(drawn, budget=24))
    for name in ("loss", "grad_norm"):
        assert float(flat[name]) == pytest.approx(float(tree[name]), rel=1e-4)
    assert float(tree["grad_norm"]) > 1e-3


def test_factors_multiply_to_the_ratios(tiny_cfg):
    works = {
        "tree": Work(tokens=72, padding=0, pairs=900, scored=48),
        "flat": Work(tokens=240, padding=0, pairs=3000, scored=48),
        "sft": Work(tokens=72, padding=0, pairs=2628, scored=48),
    }
    seconds = {"tree": 2.0, "flat": 5.0, "sft": 1.9, "trajectory": 1.0, "kl": 2.5, "optimizer": 0.5}
    row = update.row(POINT, tiny_cfg, works, seconds)
    product = row["token_ratio"] * row["work"] * row["rate"] * row["optimizer"]
    assert row["speedup"] == 2.5
    assert product == pytest.approx(2.5)
    assert row["sft_work"] * row["sft_rate"] * row["sft_optimizer"] == pytest.approx(2.0 / 1.9)
    wanted = {
        "history", "action", "samples", "pivots", "tokens_flat", "tokens_tree", "token_ratio",
        "seconds_flat", "seconds_tree", "speedup", "seconds_sft", "sft_ratio",
    }  # fmt: skip
    assert wanted <= row.keys()
    assert {column for columns in update.TABLES.values() for column in columns} <= row.keys()
