"""Rows of `benchmarks.load` from a tiny checkpoint, and what it says where there is no room."""

import shutil
from types import SimpleNamespace

import jax
import pytest

from benchmarks import load
from pivotrl_jax.errors import UserError
from pivotrl_jax.models import huggingface
from pivotrl_jax.models.presets import QWEN_3_0_6B, shrink

CFG = shrink(QWEN_3_0_6B, vocab=4096, width=32, layers=2, kv_heads=2, head_dim=8, ffn=64)


def test_a_checkpoint_is_loaded_and_exported_in_processes_of_their_own():
    sides = [load.Side("load", "bfloat16", 2), load.Side("export", "float32", 1)]
    read, written = load.rows(CFG, sides, rounds=1)
    assert set(load.COLUMNS) <= read.keys()
    assert read["largest_tensor_mib"] == 0.5
    assert read["file_mib"] == 2 * read["parameters_mib"] == written["parameters_mib"]
    assert min(read["seconds"], written["seconds"], read["against_copy"]) > 0


def test_the_checkpoint_is_the_model_it_says(tmp_path):
    sizes = load.checkpoint(tmp_path, CFG)
    params = huggingface.load(tmp_path, huggingface.read_config(tmp_path))
    assert sum(sizes.values()) == sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"has room for 0 MiB, and 1 are needed; set TMPDIR"):
        load.checkpoint(tmp_path, CFG)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_fails_is_named(tmp_path):
    with pytest.raises(UserError, match=r"export ended with: .*config.json"):
        load.once(load.Side("export", "float32", 1), tmp_path, tmp_path)
