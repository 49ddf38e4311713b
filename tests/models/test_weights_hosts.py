"""Two processes that share a model load it and save it together."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).parent.parent.parent
GOLDEN = Path(__file__).parent / "golden" / "qwen3"


def start(process: int, coordinator: str, target: Path) -> subprocess.Popen:
    worker = Path(__file__).with_name("weights_worker.py")
    command = [sys.executable, str(worker), str(process), coordinator, str(GOLDEN), str(target)]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2",
    }
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_each_process_reads_its_part_and_one_writes_the_whole(tmp_path, meeting_point):
    coordinator = meeting_point()
    workers = [start(process, coordinator, tmp_path / "saved") for process in range(2)]
    results = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], results
    for out, _ in results:
        read, held, whole = map(int, out.splitlines()[-1].split())
        assert read == held
        assert held < 0.6 * whole

    saved = {}
    for path in (tmp_path / "saved").glob("model-*.safetensors"):
        saved |= load_file(path)
    golden = load_file(GOLDEN / "model.safetensors")
    assert saved.keys() == golden.keys()
    for name, array in golden.items():
        np.testing.assert_array_equal(saved[name], array)
