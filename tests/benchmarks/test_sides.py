"""The other benchmarks at tiny shapes: rows are whole, and the sides do the same work."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks import against_peers, decode, gpu, logprob, profile
from benchmarks.command import one_device
from pivotrl_jax.errors import UserError
from pivotrl_jax.models import init, shapes
from pivotrl_jax.pivots import Turn, plan
from pivotrl_jax.sampling import EngineSettings, SamplingSettings
from pivotrl_jax.trajectories import Action


def test_logprob_sides_agree_and_report_memory():
    shape = logprob.Shape(tokens=128, width=16, vocab=300, dtype="float32")
    args = logprob.operands(shape)
    values = [float(score(*args)) for score in logprob.scores().values()]
    assert values == pytest.approx([values[0]] * len(values), rel=1e-5)
    rows = list(logprob.rows([shape], rounds=1))
    assert {row["side"] for row in rows} >= {"dense", "chunked", "xla"}
    assert all(set(logprob.COLUMNS) <= row.keys() for row in rows)
    assert [row["memory_share"] for row in rows if row["side"] == "dense"] == [1.0, 1.0]


def test_decode_counts_what_a_step_reads(tiny_cfg):
    cfg = dataclasses.replace(tiny_cfg, tied=False)
    params = shapes(cfg)
    sizes = [np.prod(x.shape) * 4 for x in jax.tree.leaves(params)]
    shape = decode.Shape(trunks=2, slots=3, length=8, steps=5)
    token = 4 * 2 * cfg.layers * cfg.kv_heads * cfg.head_dim
    embed = 4 * cfg.vocab * cfg.width
    needed = decode.bytes_per_step(cfg, init(jax.random.key(0), cfg), shape)
    assert needed == sum(sizes) - embed + token * (2 * 8 + 6 * 3)


def test_decode_rows(tiny_cfg, monkeypatch):
    monkeypatch.setattr(decode.limits, "COPY_BYTES", 2**20)
    grid = [decode.Shape(*places, length=8, steps=4) for places in ((1, 1), (2, 3))]
    with jax.set_mesh(one_device()):
        one, many = decode.rows(tiny_cfg, grid, rounds=1)
    assert set(decode.COLUMNS) <= one.keys()
    assert (one["against_one"], many["slots"]) == (1.0, 6)
    assert many["tokens_per_second"] == pytest.approx(6e3 / many["step_ms"])


def test_every_side_of_the_profile_draws_the_same_samples(tiny_cfg):
    cfg = dataclasses.replace(tiny_cfg, vocab=16)
    rng = np.random.default_rng(0)
    trunks = [rng.integers(1, 16, size=n).astype(np.int32) for n in (30, 21)]
    places = [(0, 5, 9), (0, 20, 26), (1, 8, 13)]
    turns = [Turn(f"{t}.{s}", str(t), "tiny", s, t, s, e, Action()) for t, s, e in places]
    sampling = SamplingSettings(max_tokens=6)
    run = SimpleNamespace(
        cfg=cfg,
        mesh=one_device(),
        tokenizer=SimpleNamespace(ends=(0,)),
        settings=SimpleNamespace(
            seed=0,
            model=SimpleNamespace(name="tiny"),
            profile=SimpleNamespace(samples=3, sampling=sampling),
            engine=EngineSettings(rows=2, slots=4, chunk=4, row_multiple=32),
        ),
    )
    rows, params = plan(turns), init(jax.random.key(0), cfg)
    with jax.set_mesh(one_device()):
        drawn = {
            "drafts": profile.sample_trees(run, params, trunks, rows),
            "tree": profile.sample_trees(run, params, trunks, profile.without_drafts(rows)),
            "flat": profile.sample_flat(run, params, trunks, rows),
        }
    row = profile.row(run, rows, {"flat": 8.0, "tree": 2.0, "drafts": 1.0}, drawn)
    assert row["same_samples"] == 1.0
    assert all(s.drafted == 0 for group in drawn["tree"].values() for s in group)
    assert (row["speedup_tree"], row["speedup_drafts"]) == (4.0, 8.0)
    assert (row["prefill_flat"], row["prefill_tree"]) == (3 * (5 + 20 + 8), 26 + 13)
    assert {column for columns in profile.TABLES.values() for column in columns} <= row.keys()


def test_spaced_keeps_the_first_and_the_last():
    assert profile.spaced(list(range(10)), 3) == [0, 4, 9]
    assert profile.spaced([1, 2], 5) == [1, 2]


WORKER = """
import json, sys
job = json.load(open(sys.argv[1]))
found = {"seconds_sampling": [6.0, 4.0, 5.0], "seconds_update": [2.0], "prompt_tokens": 7,
         "action_tokens": 3, "peak_rss_mib": 100.0, "version": job["version"]}
json.dump(found, open(sys.argv[2], "w"))
"""


def test_a_worker_answers_a_job_and_is_compared(tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    work = {"turns": [(0, 1, 2), (0, 3, 4)], "version": "9"}
    found = against_peers.result([sys.executable, str(worker)], tmp_path, work)
    theirs = against_peers.row("peer", against_peers.QUICK, work, found)
    assert (theirs["seconds_candidate"], theirs["seconds_step"]) == (2.5, 7.0)
    ours = theirs | {"seconds_candidate": 0.5, "peak_rss_mib": 50.0}
    both = against_peers.compared(theirs, ours)
    assert (both["candidate_ratio"], both["update_ratio"], both["memory_ratio"]) == (5.0, 1.0, 2.0)
    assert both["version"] == "9"


def test_a_side_that_fails_says_why(tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text("raise SystemExit('no such model')")
    with pytest.raises(against_peers.Failed, match="no such model"):
        against_peers.result([sys.executable, str(worker)], tmp_path, {})


def test_a_peer_that_cannot_be_installed_becomes_a_note(tmp_path, monkeypatch):
    def refuse(*_):
        raise against_peers.Failed("no matching distribution")

    answer = {"seconds_sampling": [1.0], "seconds_update": [1.0], "prompt_tokens": 1,
              "action_tokens": 1, "peak_rss_mib": 1.0, "version": "1"}  # fmt: skip
    monkeypatch.setattr(against_peers, "python_of", refuse)
    monkeypatch.setattr(against_peers, "result", lambda *_: answer)
    work = {"turns": [(0, 1, 2)]}
    ours, *peers = against_peers.rows(work, against_peers.QUICK, tmp_path, tmp_path)
    assert ours["step_ratio"] == 1.0
    assert [(row["side"], row["note"]) for row in peers] == [
        (name, "no matching distribution") for name in against_peers.PEERS
    ]
    json.dumps([ours, *peers])


def test_without_a_gpu_the_gpu_benchmark_says_so(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(UserError, match="needs a GPU"):
        gpu.main()


def test_mfu_is_a_share_of_the_matrix_product(tiny_cfg, monkeypatch):
    monkeypatch.setattr(gpu.limits, "PRODUCT_WIDTH", 64)
    sides = ("tree", "flat", "sft")
    row = {f"model_teraflops_{side}": 2e-12 for side in sides}
    row |= {f"seconds_{side}": 1e-3 for side in sides}
    found = gpu.with_mfu(row, tiny_cfg, rounds=1)
    assert found["mfu_tree"] == pytest.approx(2e3 / (1e12 * found["product_teraflops"]))
    assert set(gpu.TABLES["Updates"]) - found.keys() <= {
        "history", "action", "samples", "pivots", "token_ratio", "speedup", "speedup_share",
        "sft_ratio",
    }  # fmt: skip
