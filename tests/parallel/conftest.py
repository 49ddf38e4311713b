"""Starts the workers of test_hosts.py."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
Ended = list[tuple[int, str, str]]  # exit code, output and errors of every process


@pytest.fixture(scope="module")
def run(meeting_point: Callable[[], str]) -> Iterator[Callable[..., Ended]]:
    """Starts `processes` of a worker with `devices` each and waits for them; none outlives the
    tests. All are told what is `given`; by `sizes`, how many each believes that there are."""
    started: list[subprocess.Popen] = []

    def begin(worker: str, devices: int, given: dict[str, Any]) -> subprocess.Popen:
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": os.environ["XLA_FLAGS"]
            + f" --xla_force_host_platform_device_count={devices}",
        }
        command = [sys.executable, str(Path(__file__).with_name(worker)), json.dumps(given)]
        return subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(worker: str, processes: int, devices: int, **given: Any) -> Ended:
        given = {
            "coordinator": meeting_point(),
            "sizes": [processes] * processes,
        } | given
        own = [begin(worker, devices, {"process": i} | given) for i in range(processes)]
        started.extend(own)
        # All at once: a process whose output nobody reads waits, and the others for it.
        with ThreadPoolExecutor(processes) as readers:
            said = list(readers.map(lambda process: process.communicate(timeout=300), own))
        return [(process.returncode, *words) for process, words in zip(own, said, strict=True)]

    yield run
    for process in started:
        process.kill()
