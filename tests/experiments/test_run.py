"""The whole pipeline on real trajectories and a small model: undisturbed, stopped and killed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments import rejudge
from pivotrl_jax.models.pretrained import resolve
from pivotrl_jax.pivots import read_samples

ROOT = Path(__file__).parents[2]
K, STEPS, MAX_TOKENS = 2, 4, 48
STAGES = [
    "read", "candidates", "evaluate_base", "sft", "evaluate_sft", "profile", "select", "train",
    "evaluate_pivotrl", "summary", "report",
]  # fmt: skip
# A random model writes no action: every sample runs into the token cap and counts as failed, all
# candidates are kept as they are, and the penalty for malformed actions gives the gradient.
OVERRIDES = {
    "data.limit": 8,
    "text.trunk_tokens": 384,
    "text.clip_task": 64,
    "text.clip_observation": 16,
    "model.layers": 2,
    "engine.rows": 2,
    "engine.slots": 8,
    "engine.row_multiple": 384,
    "reward.truncated": "fail",
    "sft.row_multiple": 384,
    "profile.samples": K,
    "profile.sampling.max_tokens": MAX_TOKENS,
    "selection.criterion": "all",
    "train.steps": STEPS,
    "train.samples": K,
    "train.sampling.max_tokens": MAX_TOKENS,
    "train.malformed_penalty": -1.0,
    "train.row_multiple": 1024,
    "train.save_every": 1,
    "train.curriculum": "online",
    "reprofile.every": 2,
    "evaluation.samples": 1,
    "evaluation.ood_texts": 2,
    "evaluation.ood_tokens": 64,
}


def command(model: Path, workdir: Path, *extra: str) -> list[str]:
    fields = {"model.name": model, **OVERRIDES}
    return [
        *(sys.executable, "-m", "experiments.run", "--config=experiments/swe.py:smoke"),
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
        *extra,
    ]


def start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    # One device, as the user has; the tests' own process has eight. Programs of a whole run take
    # longer to run than to compile.
    own = "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=1"
    flags = f"{os.environ['XLA_FLAGS']} {own}"
    one_device = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    # What one attempt compiles, the next one finds.
    cached = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=os.environ | one_device | cached,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def interrupt(arguments: Sequence[str], with_signal: int, when: Callable[[], bool]) -> str:
    """Runs until `when`, sends the signal, and returns what was printed."""
    process = start(arguments)
    deadline = time.monotonic() + 300
    while not when():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(with_signal)
    code, out, err = finish(process)
    assert "Traceback" not in err
    # SIGTERM is answered, with the code that shells give it; SIGKILL cannot be.
    assert code == (143 if with_signal == signal.SIGTERM else -with_signal), err
    return out


def completed(arguments: Sequence[str]) -> tuple[str, str]:
    code, out, err = finish(start(arguments))
    assert code == 0, err
    return out, err


def load_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def load_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def metric_lines(workdir: Path) -> int:
    path = workdir / "train" / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def digests(workdir: Path) -> dict[str, str]:
    files = sorted(path for path in workdir.rglob("*") if path.is_file())
    return {
        str(path.relative_to(workdir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def by_split(table: pa.Table, split: str) -> set[str]:
    kept = zip(table["candidate_id"].to_pylist(), table["split"].to_pylist(), strict=True)
    return {candidate for candidate, own in kept if own == split}


@pytest.fixture(scope="session")
def finished(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed")
    out, err = completed(command(small_model, workdir))
    assert out.splitlines()[-1] == f"report: {workdir / 'report.html'}"
    # What the run decides by itself, it says.
    assert "INFO: linear_logprob: xla on cpu" in err.splitlines()
    assert "micro-batches of" in err
    return workdir


@pytest.fixture(scope="session")
def disturbed(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Killed in the profile, stopped in training, killed in training, then left to finish.

    Comes with what the stopped attempt printed.
    """
    workdir = tmp_path_factory.mktemp("disturbed")
    arguments = command(small_model, workdir)
    chunks = workdir / "profile" / "train"
    interrupt(arguments, signal.SIGKILL, lambda: any(chunks.glob("samples-*.parquet")))
    assert not (workdir / "done" / "profile").exists()
    printed = interrupt(arguments, signal.SIGTERM, lambda: metric_lines(workdir) > 0)
    before = metric_lines(workdir)
    interrupt(arguments, signal.SIGKILL, lambda: metric_lines(workdir) > before)
    # Between a later profile and the end: that profile is not of the policy of this checkpoint.
    checkpoints = workdir / "train" / "checkpoints"
    interrupt(arguments, signal.SIGKILL, lambda: (checkpoints / str(STEPS - 1)).exists())
    assert not (workdir / "done" / "train").exists()
    completed(arguments)
    return workdir, printed


def test_every_stage_is_done_and_timed_once(finished: Path) -> None:
    assert {path.name for path in (finished / "done").iterdir()} == set(STAGES)
    timing = load_lines(finished / "timing.jsonl")
    assert [line["stage"] for line in timing] == STAGES
    sampled = {"evaluate_base", "evaluate_sft", "profile", "evaluate_pivotrl", "sft", "train"}
    assert all(line["tokens"] > 0 for line in timing if line["stage"] in sampled)
    steps = load_lines(finished / "train/metrics.jsonl")
    own = next(line for line in timing if line["stage"] == "train")
    counted = {"tokens": "sampled_tokens", "drafted": "drafted_tokens", "samples": "rollout_turns"}
    for name, metric in counted.items():
        assert own[name] == sum(step[metric] for step in steps), name
    profiled = [read_samples(finished / "profile" / split) for split in ("train", "heldout")]
    own = next(line for line in timing if line["stage"] == "profile")
    assert own["samples"] == sum(store.num_rows for store in profiled) > 0


def test_read_and_candidates_add_up(finished: Path) -> None:
    read = load_json(finished / "read/audit.json")
    assert (read["read"], read["quarantined"]) == (8, 0)
    assert read["lines"] == read["read"] + read["quarantined"] + read["blank"]
    audit = load_json(finished / "candidates/audit.json")
    assert audit["turns"] == audit["candidates"] + sum(audit["left_out"].values())
    table = pq.read_table(finished / "candidates/candidates.parquet")
    assert dict(Counter(table["split"].to_pylist())) == audit["by_split"]
    assert table.num_rows == audit["candidates"] == sum(audit["by_split"].values())
    own_rows = sum(table["history_tokens"].to_pylist()) + sum(table["action_tokens"].to_pylist())
    assert audit["flat_tokens"] == own_rows
    assert max(table["action_tokens"].to_pylist()) <= MAX_TOKENS
    ends = np.asarray(table["history_tokens"]) + np.asarray(table["action_tokens"])
    assert ends.max() <= 384
    texts = load_lines(finished / "candidates/candidates_text.jsonl")
    assert [text["candidate_id"] for text in texts] == table["candidate_id"].to_pylist()


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_profile_has_k_samples_of_every_candidate(finished: Path, split: str) -> None:
    table = pq.read_table(finished / "candidates/candidates.parquet")
    samples = read_samples(finished / "profile" / split)
    expected = {(name, k) for name in by_split(table, split) for k in range(K)}
    ids = zip(samples["candidate_id"].to_pylist(), samples["sample"].to_pylist(), strict=True)
    assert sorted(ids) == sorted(expected)
    lengths = [len(tokens) for tokens in samples["tokens"].to_pylist()]
    assert samples["length"].to_pylist() == lengths
    assert max(lengths) <= MAX_TOKENS
    assert samples["reward"].to_pylist() == [0.0] * samples.num_rows
    assert all(samples["malformed"].to_pylist())


def test_selection_speaks_of_every_training_candidate(finished: Path) -> None:
    candidates = pq.read_table(finished / "candidates/candidates.parquet")
    table = pq.read_table(finished / "select/table.parquet")
    assert set(table["candidate_id"].to_pylist()) == by_split(candidates, "train")
    assert table["n"].to_pylist() == [K] * table.num_rows
    assert table["status"].to_pylist() == ["all_fail"] * table.num_rows
    audit = load_json(finished / "select/audit.json")
    assert audit["candidates"] == audit["selected"] == table.num_rows
    assert audit["status"] == {"all_fail": table.num_rows}


def test_training_logs_every_step_once_and_moves_the_policy(finished: Path) -> None:
    rows = load_lines(finished / "train/metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert all(row["grad_norm"] > 0 and row["malformed_share"] == 1 for row in rows)
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-9)
    assert rows[-1]["kl"] > 0
    assert (
        {row["reward_mean/tool"] for row in rows} == {row["reward_mean"] for row in rows} == {0.0}
    )
    # The trainer scores a sample as the sampler did, but for products at bfloat16.
    assert 0 < max(row["logp_gap"] for row in rows) < 0.1
    sft = load_lines(finished / "sft/metrics.jsonl")
    assert [row["step"] for row in sft] == list(range(1, len(sft) + 1))


def test_goodput_is_told_over_all_attempts(finished: Path, disturbed: tuple[Path, str]) -> None:
    for name in ("sft", "train"):
        rows = load_lines(finished / name / "metrics.jsonl")
        assert all(0 < row["goodput"] <= 1 and 0 < row["idle_share"] < 1 for row in rows)
        assert rows[0]["seconds_compiling"] > 0
        assert len(load_lines(finished / name / "attempts.jsonl")) == 1
    # Stopped once and killed twice.
    assert len(load_lines(disturbed[0] / "train/attempts.jsonl")) == 4


def test_the_policy_is_profiled_again_and_the_first_profile_stays(finished: Path) -> None:
    reason = {"number": 1, "step": 2, "reason": "2 steps since the last profile"}
    assert load_json(finished / "profile/1/reason.json") == reason
    assert not (finished / "profile/2").exists()
    first, second = (read_samples(finished / f"profile/{name}train") for name in ("", "1/"))
    assert second["candidate_id"].to_pylist() == first["candidate_id"].to_pylist()
    assert second["tokens"].to_pylist() != first["tokens"].to_pylist()
    chosen = pq.read_table(finished / "profile/1/select/table.parquet")
    assert all(chosen["selected"].to_pylist())


@pytest.mark.parametrize("policy", ["base", "sft", "pivotrl"])
def test_every_policy_is_scored_on_all_heldout_candidates(finished: Path, policy: str) -> None:
    scores = load_json(finished / f"evaluate/{policy}.json")
    by_split_count = load_json(finished / "candidates/audit.json")["by_split"]
    assert scores["policy"] == policy
    assert scores["heldout"]["n_candidates"] == by_split_count["heldout"]
    assert (scores["heldout"]["mean"], scores["malformed_share"]) == (0.0, 1.0)
    assert set(scores["perplexity"]) == {"gsm8k", "ifeval", "mmlu"}
    assert all(entry["tokens"] > 64 for entry in scores["perplexity"].values())


def test_the_report_is_about_this_run(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    table = pq.read_table(finished / "select/table.parquet")
    assert table["candidate_id"][0].as_py() in page
    assert load_json(finished / "config.json")["versions"]["jax"] in page


def test_the_exported_policy_is_the_last_checkpoint(finished: Path, small_model: Path) -> None:
    exported = resolve(str(finished / "policy"))
    assert exported.cfg.layers == OVERRIDES["model.layers"]
    assert exported.tokenizer.fingerprint == resolve(str(small_model)).tokenizer.fingerprint
    checkpoint = finished / "train/checkpoints" / str(STEPS) / "state"
    saved = ocp.StandardCheckpointer().restore(checkpoint)["params"]
    leaves = jax.tree.leaves_with_path(exported.load(None))
    assert len(leaves) == len(jax.tree.leaves(saved))
    for path, leaf in leaves:
        expected = saved
        for key in path:
            expected = expected[key.name]
        np.testing.assert_array_equal(leaf, expected)


def test_the_profile_can_be_judged_anew(finished: Path, capsys: pytest.CaptureFixture) -> None:
    rejudge.main([f"--workdir={finished}", "--verifier=command", "--recipe=well_formed=0"])
    samples = read_samples(finished / "profile/train").num_rows
    assert f"| rejects | {samples} | 0 | 0 |" in capsys.readouterr().out
    rows = load_lines(finished / "rejudge/command.jsonl")
    assert len(rows) == samples
    assert {(row["reward"], row["other_reward"]) for row in rows} == {(0.0, 1.0)}


def test_running_again_changes_nothing(finished: Path, small_model: Path) -> None:
    before = digests(finished)
    completed(command(small_model, finished))
    after = digests(finished)
    assert {name for name in before | after if before.get(name) != after.get(name)} <= {
        "report.html"
    }


def test_sigterm_saves_and_says_so(disturbed: tuple[Path, str]) -> None:
    last = disturbed[1].splitlines()[-1]
    assert last.startswith("stopped by SIGTERM at step ")
    said = f"of {STEPS}; saved; run the same command again to go on: python -m experiments.run "
    assert said in last
    assert str(disturbed[0]) in last


@pytest.mark.parametrize(
    "store",
    [
        "profile/train",
        "profile/1/train",
        "profile/heldout",
        *(f"evaluate/{p}" for p in ("sft", "pivotrl")),
    ],
)
def test_kills_change_no_sample(finished: Path, disturbed: tuple[Path, str], store: str) -> None:
    names = {path.name for path in (finished / store).iterdir()}
    assert names == {path.name for path in (disturbed[0] / store).iterdir()}
    for name in names:
        assert (disturbed[0] / store / name).read_bytes() == (finished / store / name).read_bytes()


def test_kills_change_no_bit_of_the_policy(finished: Path, disturbed: tuple[Path, str]) -> None:
    policy = digests(finished / "policy")
    assert "model.safetensors" in policy
    assert digests(disturbed[0] / "policy") == policy


def test_kills_leave_each_step_once_with_the_same_metrics(
    finished: Path, disturbed: tuple[Path, str]
) -> None:
    timed = {
        "seconds", "seconds_sampling", "seconds_update", "seconds_verdicts_waited",
        "seconds_compiling", "seconds_useful", "tokens_per_second", "idle_share", "goodput",
    }  # fmt: skip

    def scalars(workdir: Path) -> list[dict]:
        rows = load_lines(workdir / "train/metrics.jsonl")
        return [{name: row[name] for name in row.keys() - timed} for row in rows]

    assert scalars(disturbed[0]) == scalars(finished)
