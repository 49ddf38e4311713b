"""Runs of a study side by side: what waits for what, and what a failure leaves."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from experiments import textworld
from experiments.config import to_config
from experiments.studies import runs
from experiments.studies.arms import arm
from pivotrl_jax.errors import UserError

BASE, ONE, LIKE, OTHER = (
    arm("base", "Base"),
    arm("one", "One"),
    arm("like", "Like one", "one"),
    arm("other", "Other"),
)
WORK = [(each, seed) for seed in range(2) for each in (BASE, ONE, LIKE, OTHER)]
NEEDS = {"base": set(), "one": {"base"}, "like": {"base", "one"}, "other": {"base"}}


def test_runs_wait_for_what_they_need_and_for_nothing_else(tmp_path, monkeypatch):
    done, lock = set(), threading.Lock()
    # Broken, which fails the test, unless the runs that need only the base are there together.
    together = threading.Barrier(4, timeout=30)

    def run_arm(config, arm, first, seed, workdir):
        assert (config, first, workdir) == ("config", BASE, tmp_path)
        assert {(name, seed) for name in NEEDS[arm.name]} <= done
        if NEEDS[arm.name] == {"base"}:
            together.wait()
        with lock:
            done.add((arm.name, seed))

    monkeypatch.setattr(runs, "run_arm", run_arm)
    with ThreadPoolExecutor(4) as pool:
        ended = list(runs._in_turn(pool, "config", WORK, BASE, tmp_path, 4))
    assert sorted((a.name, s) for a, s in ended) == sorted((a.name, s) for a, s in WORK)
    assert (tmp_path / "like/1/log.txt").exists()


def test_what_is_done_is_told_before_the_next_run(tmp_path, monkeypatch):
    """So that a study that is stopped has a summary of what it did."""
    seen = []
    monkeypatch.setattr(runs, "run_arm", lambda _, arm, *rest: seen.append(arm.name))
    for done, _ in runs.run_all(None, WORK[:2], BASE, tmp_path, 1):
        seen.append(f"told {done.name}")
    assert seen == ["base", "told base", "one", "told one"]


def test_no_more_runs_than_jobs_at_once(tmp_path, monkeypatch):
    now, most, lock = 0, 0, threading.Lock()
    pause = threading.Event()

    def run_arm(*_):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        pause.wait(0.01)
        with lock:
            now -= 1

    monkeypatch.setattr(runs, "run_arm", run_arm)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(runs._in_turn(pool, None, WORK, BASE, tmp_path, 2))) == len(WORK)
    assert most == 2


def test_a_run_tells_the_command_of_the_study_and_logs_what_it_prints(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "of", "a", "process"])
    monkeypatch.setattr(runs, "run_arm", lambda *_: print(sys.orig_argv))
    runs._logged(["python", "-m", "study"], None, ONE, BASE, 7, tmp_path)
    assert (tmp_path / "one/7/log.txt").read_text() == "['python', '-m', 'study']\n"


def test_an_error_in_a_process_of_its_own_is_the_users(tmp_path):
    config = to_config(textworld.study())
    config.data.path = "no/such/file.jsonl"
    config.model.name = str(tmp_path / "model")
    with pytest.raises(UserError, match=r"no/such/file|model"):
        list(runs.run_all(config, [(BASE, 0), (ONE, 0)], BASE, tmp_path, 2))
    assert not (tmp_path / "one").exists()
