"""Runs that are killed, stopped and resumed end with the bits of a run left alone."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.training import (
    Checkpointer,
    TrainState,
    index_batches,
    length_batches,
    mixed_batches,
)

ROOT = Path(__file__).parent.parent.parent
WORKER = Path(__file__).with_name("loop_worker.py")


def start(directory: Path, stop_at: int = 0, how: int = 0) -> subprocess.Popen:
    command = [sys.executable, str(WORKER), str(directory), str(stop_at), str(int(how))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen) -> str:
    """Its output; the error's last lines where there are any."""
    out, err = process.communicate(timeout=300)
    return out.strip() if process.returncode <= 0 else err[-2000:]


def lines(directory: Path) -> list[dict]:
    rows = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_interrupted_runs_end_with_the_same_bits(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    undisturbed, killed = start(whole), start(broken, 5, signal.SIGKILL)
    assert finish(killed) == ""
    assert killed.returncode == -signal.SIGKILL
    # The kill came two steps after the checkpoint of step 3.
    assert [row["step"] for row in lines(broken)] == [1, 2, 3, 4, 5]
    assert Checkpointer(broken / "checkpoints").latest() == 3
    stopped = finish(start(broken, 7, signal.SIGTERM))
    assert stopped == "stopped by SIGTERM at step 7 of 8; saved"
    assert Checkpointer(broken / "checkpoints").latest() == 7
    digest = finish(start(broken))
    assert digest == finish(undisturbed)
    assert len(digest) == 64
    assert lines(broken) == lines(whole)
    assert [row["step"] for row in lines(broken)] == list(range(1, 9))


def test_batches_are_deterministic_and_repeat_nothing_within_an_epoch():
    batches, again, other = (index_batches([1] * 12, 4, seed) for seed in (3, 3, 4))
    first = [next(batches) for _ in range(9)]
    np.testing.assert_array_equal(first, [next(again) for _ in range(9)])
    assert not np.array_equal(first, [next(other) for _ in range(9)])
    epochs = np.reshape(first, (3, 12))
    np.testing.assert_array_equal(np.sort(epochs), np.broadcast_to(np.arange(12), (3, 12)))
    assert not np.array_equal(epochs[0], epochs[1])


def test_no_batch_holds_an_item_twice_where_the_epoch_does_not_divide():
    batches = index_batches([1] * 10, 4, seed=0)
    for _ in range(20):
        assert len(set(next(batches).tolist())) == 4
    assert sorted(next(index_batches([1] * 3, 8, seed=0)).tolist()) == [0, 1, 2]


def test_batches_of_an_epoch_are_of_about_equal_size():
    sizes = np.random.default_rng(0).integers(100, 1000, 40)
    batches = index_batches(sizes.tolist(), 4, seed=0)
    totals = [sizes[next(batches)].sum() for _ in range(10)]
    assert np.ptp(totals) < 0.2 * np.mean(totals)
    assert len({tuple(sorted(next(index_batches(sizes.tolist(), 4, s)))) for s in range(9)}) == 9


def mixture():
    return mixed_batches(["a"] * 6 + ["b"] * 4, {"a": 1.0, "b": 3.0}, 4, seed=1)


def test_a_mixture_keeps_the_weights_of_its_domains():
    batches = mixture()
    drawn = np.array([next(batches) for _ in range(8)])
    assert ((drawn >= 6).sum(axis=1) == 3).all()
    assert set(drawn.ravel().tolist()) == set(range(10))


LENGTHS = np.array([4] * 9 + [16] * 5 + [64])


def by_length():
    return length_batches(LENGTHS.tolist(), 32, seed=1)


def test_a_batch_has_rows_of_one_length_and_an_epoch_has_them_all_once():
    batches = by_length()
    # 8 of the 9 short rows, 2 pairs of the longer ones, and the longest alone.
    epochs = [[next(batches) for _ in range(4)] for _ in range(2)]
    for epoch in epochs:
        assert all(len(set(LENGTHS[rows])) == 1 for rows in epoch)
        assert sorted(LENGTHS[rows].sum() for rows in epoch) == [32, 32, 32, 64]
        assert len(set(np.concatenate(epoch).tolist())) == 13
    assert [rows.tolist() for rows in epochs[0]] != [rows.tolist() for rows in epochs[1]]


@pytest.mark.parametrize("make", [lambda: index_batches([1] * 10, 4, seed=1), mixture, by_length])
def test_a_restored_position_goes_on_where_it_was(make):
    batches = make()
    for _ in range(5):
        next(batches)
    position = json.loads(json.dumps(batches.get_state()))
    expected = [next(batches) for _ in range(4)]
    other = make()
    other.set_state(position)
    for wanted in expected:
        np.testing.assert_array_equal(next(other), wanted)


def state(step: int) -> TrainState:
    leaf = jax.numpy.arange(4.0) + step
    return TrainState(jax.numpy.int32(step), {"w": leaf}, {"mu": -leaf})


def test_a_checkpoint_restores_what_was_saved_and_keeps_the_last(tmp_path):
    data = index_batches([1] * 10, 4, seed=1)
    checkpointer = Checkpointer(tmp_path)
    assert checkpointer.latest() is None
    for step in (2, 4):
        next(data)
        checkpointer.save(state(step), data)
    checkpointer.save(state(4), data)
    position = data.get_state()
    next(data)
    restored, kept = checkpointer.restore(state(0))
    jax.tree.map(np.testing.assert_array_equal, restored, state(4))
    assert kept == position
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["4"]
    checkpointer.close()


@pytest.mark.parametrize("saved", [None, 3])
def test_a_full_disk_says_where_the_run_resumes(tmp_path, monkeypatch, saved):
    data = index_batches([1] * 10, 4, seed=1)
    checkpointer = Checkpointer(tmp_path)
    if saved:
        checkpointer.save(state(saved), data)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpointer._manager, "save", full)
    message = rf"step 6 could not be written .*No space left.*resumes from step {saved or 0}\."
    with pytest.raises(UserError, match=message):
        checkpointer.save(state(6), data)
    assert checkpointer.latest() == saved
