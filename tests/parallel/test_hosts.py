"""Runs of several processes: the numbers of one process, and one end for all of them."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.parallel import start
from pivotrl_jax.parallel.hosts import devices_of_slurm, in_cluster

TIMED = ("seconds_sampling", "seconds_verdicts_waited", "seconds_update", "tokens_per_second")


def log(directory: Path, process: int) -> list[dict[str, Any]]:
    lines = (directory / f"log-{process}.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMED} for line in lines]


def close(ours: dict[str, Any], theirs: dict[str, Any], leave_out: set[str]) -> None:
    """The same metrics up to the order of sums."""
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - leave_out:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-6), name


@pytest.fixture(scope="module")
def alone(run, tmp_path_factory) -> Path:
    """PivotRL steps of one process with four devices."""
    directory = tmp_path_factory.mktemp("alone")
    ((code, _, err),) = run("hosts_worker.py", 1, 4, directory=str(directory), steps=2, hit=[])
    assert code == 0, err
    return directory


@pytest.fixture(scope="module")
def together(run, tmp_path_factory) -> Path:
    """The same steps of four processes with a device each."""
    directory = tmp_path_factory.mktemp("together")
    for code, _, err in run("hosts_worker.py", 4, 1, directory=str(directory), steps=2, hit=[]):
        assert code == 0, err
    return directory


def test_four_processes_give_the_metrics_of_one(alone: Path, together: Path) -> None:
    whole, parts = log(alone, 0), log(together, 0)
    assert [line["step"] for line in parts] == [1, 2]
    for ours, theirs in zip(parts, whole, strict=True):
        close(ours, theirs, {"state", "asked"})
        assert theirs["grad_norm"] > 0.1
        assert 0 < theirs["reward_mean"] < 1
        # Each judges a quarter of the samples.
        assert (ours["asked"], theirs["asked"]) == (8, 32)


def test_all_processes_hold_the_same_bits(together: Path) -> None:
    assert all(log(together, process) == log(together, 0) for process in range(4))


def test_four_processes_draw_the_samples_of_one(alone: Path, together: Path) -> None:
    expected = json.loads((alone / "drawn-0.json").read_text())
    assert len({tuple(tokens) for tokens in expected}) > 16
    for process in range(4):
        assert json.loads((together / f"drawn-{process}.json").read_text()) == expected


def test_only_the_first_process_writes_metrics(together: Path) -> None:
    rows = [json.loads(line) for line in (together / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert len(list((together / "tensorboard").iterdir())) == 1


def test_a_run_survives_the_loss_of_a_process_a_stop_and_other_hosts(run, tmp_path: Path) -> None:
    given = {"directory": str(tmp_path), "steps": 4}
    # Killed after step 4, whose checkpoint is not written; that of step 2 is.
    ended = run("hosts_worker.py", 2, 2, **given, hit=[1, 4], how=signal.SIGKILL)
    assert [code for code, *_ in ended] == [1, -signal.SIGKILL], [err[-900:] for *_, err in ended]
    assert ended[0][2].splitlines()[-1] == "error: process 1 ended: no sign of life for 20 s"
    before = log(tmp_path, 0)
    assert [line["step"] for line in before] == [1, 2, 3, 4]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()] == ["2"]
    # One process is told to stop; both do, after the same step.
    ended = run("hosts_worker.py", 2, 2, **given, hit=[1, 3], how=signal.SIGTERM)
    assert [code for code, *_ in ended] == [143, 143]
    assert ended[0][1].splitlines()[-1] == "stopped by SIGTERM at step 3 of 4; saved"
    assert "stopped" not in ended[1][1]
    for process in (0, 1):
        assert log(tmp_path, process)[4:] == before[2:3]
    # On one host that has half of the devices.
    ((code, _, err),) = run("hosts_worker.py", 1, 2, **given, hit=[])
    assert code == 0, err
    (last,) = log(tmp_path, 0)[5:]
    close(last, before[3], {"state", "asked", "micro_tokens"})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]


def exchange(run, processes: int, **given: Any):
    default = {"arrival": 60, "hit": 0, "how": ""}
    return run("exchange_worker.py", processes, 2 if processes < 4 else 1, **(default | given))


def said(err: str) -> str:
    return next(line for line in err.splitlines() if line.startswith("error: "))


def test_four_processes_know_what_each_of_them_knows(run, tmp_path: Path) -> None:
    ended = exchange(run, 4, directory=str(tmp_path))
    assert [code for code, *_ in ended] == [0] * 4, ended
    for process, (_, out, _) in enumerate(ended):
        assert json.loads(out.splitlines()[-1]) == {
            "first": process == 0,
            "gather": [{"process": i, "text": "ä" * 3000 * i} for i in range(4)],
            "from_first": "made by 0",
            "highest": 3,
            "divided": [[item, item % 4] for item in range(11)],
            "mine": list(range(7))[process::4],
            "own_rows": [2],
            "fetch": np.arange(24).reshape(8, 3).tolist(),
            "whole": 7,
        }
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_one_process_is_the_last_word_of_all(run, tmp_path: Path) -> None:
    ended = exchange(run, 2, directory=str(tmp_path), hit=1, how="error")
    assert [code for code, *_ in ended] == [1, 1]
    words = "the disk of this process is full"
    assert said(ended[0][2]) == f"error: process 1 ended: {words}"
    assert said(ended[1][2]) == f"error: {words}"


def test_the_loss_of_the_first_process_ends_the_others(run, tmp_path: Path) -> None:
    ended = exchange(run, 2, directory=str(tmp_path), hit=0, how="kill")
    assert ended[0][0] == -signal.SIGKILL
    assert ended[1][0] not in (0, None)
    assert "another task died" in ended[1][2] or "error: " in ended[1][2]


def test_hosts_without_a_common_work_directory_are_told_so(run, tmp_path: Path) -> None:
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
    for code, _, err in exchange(run, 2, directory=f"{tmp_path}/{{process}}"):
        assert code == 1
        assert "process 1 does not see what process 0 writes to " in said(err)
        assert said(err).endswith("give a --workdir on a file system that all hosts share")


def test_a_coordinator_that_is_not_there_is_waited_for_so_long(run, tmp_path: Path) -> None:
    given = {"coordinator": "127.0.0.1:9", "sizes": [2, 2], "process": 1}
    ((code, out, err),) = exchange(run, 1, directory=str(tmp_path), arrival=2, **given)
    assert (code, out) == (1, "")
    assert err.startswith("error: process 0 at 127.0.0.1:9 could not be reached within 2 s; ")


def test_processes_that_count_themselves_differently_are_told_so(run, tmp_path: Path) -> None:
    ended = exchange(run, 2, directory=str(tmp_path), sizes=[2, 3])
    assert "--processes=3 and process 0 with --processes=2; give" in said(ended[1][2])
    assert said(ended[0][2]).startswith("error: process 1 ended: process 1 was started with ")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((None, 2, 0), "belong together"),
        (("host:1", None, 0), "belong together"),
        (("host:1", 2, 2), "--process=2 is not one of --processes=2; number them from 0 to 1"),
        (("host:1", 2, -1), "number them from 0 to 1"),
        (("host", 2, 0), "--coordinator=host is not HOST:PORT"),
    ],
)
def test_flags_that_do_not_fit_are_refused(given: tuple, words: str) -> None:
    with pytest.raises(UserError, match=words):
        start(*given)


def test_one_process_is_left_alone() -> None:
    start(processes=1)
    start()


SLURM = {"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "node[1-4]", "SLURM_STEP_NUM_NODES": "4"}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


@pytest.mark.parametrize(
    ("environ", "several"),
    [
        (SLURM, True),
        (SLURM | {"SLURM_NTASKS": "1"}, False),
        # A batch script itself, outside srun.
        ({"SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "node[1-4]"}, False),
        (KUBERNETES | {"JOB_COMPLETION_INDEX": "0"}, True),
        (KUBERNETES, False),
        ({}, False),
    ],
)
def test_clusters_are_told_from_single_machines(environ: dict, several: bool) -> None:
    assert in_cluster(environ) == several


def test_the_only_task_of_a_node_takes_all_of_its_gpus() -> None:
    assert devices_of_slurm(SLURM | {"SLURM_GPUS_ON_NODE": "8"}) == list(range(8))
    assert devices_of_slurm(SLURM) is None
    per_gpu = SLURM | {"SLURM_NTASKS": "32", "SLURM_GPUS_ON_NODE": "8"}
    assert devices_of_slurm(per_gpu) is None
    assert devices_of_slurm({}) is None


def test_processes_exit_as_asked_however_often_they_look_after_each_other(run) -> None:
    # Those that left while they looked were aborted.
    ended = run("exit_worker.py", 4, 1)
    assert [code for code, *_ in ended] == [143] * 4, [err[-900:] for *_, err in ended]
