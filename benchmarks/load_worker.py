"""Loads or exports a checkpoint in a process of its own, so that its memory is its own.

    python -m benchmarks.load_worker JOB.json

A job names `side` (load or export), `directory` (of the checkpoint, or to write to), `checkpoint`
and `dtype` of the parameters. Prints JSON: `seconds`, `copy_seconds` (of as many bytes read or
written, nothing else), `parameters` in bytes and `beyond`, the peak of resident bytes beyond them.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.context import use_compilation_cache
from pivotrl_jax.models import Params, huggingface, logical_axes, safetensors, shapes
from pivotrl_jax.models.config import ModelConfig
from pivotrl_jax.parallel import MeshSettings, make_mesh, shardings

PROC = Path("/proc/self")
CHUNK = 16 * 2**20


def resident(field: str) -> int:
    """Bytes in memory: VmRSS as it is, VmHWM at the highest."""
    lines = (PROC / "status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def measure(job: dict[str, Any]) -> dict[str, float]:
    directory = Path(job["directory"])
    cfg = huggingface.read_config(Path(job["checkpoint"]))
    cfg = dataclasses.replace(cfg, dtype=job["dtype"])
    layout = shardings(shapes(cfg), logical_axes(cfg), make_mesh(MeshSettings()))
    params = None if job["side"] == "load" else filled(cfg, layout)
    (PROC / "clear_refs").write_text("5")  # the highest begins here
    before, began = resident("VmRSS"), time.perf_counter()
    if params is None:
        params = jax.block_until_ready(huggingface.load(directory, cfg, layout))
        # Without an accelerator parameters are in the same memory.
        before += size(params) if jax.default_backend() == "cpu" else 0
    else:
        huggingface.save(directory, params, cfg)
    seconds, beyond = time.perf_counter() - began, resident("VmHWM") - before
    return {
        "seconds": seconds,
        "copy_seconds": read(directory) if job["side"] == "load" else written(directory),
        "parameters": size(params),
        "beyond": beyond,
    }


def filled(cfg: ModelConfig, layout: Params) -> Params:
    """Born in place: what is freed now would be room that an export does not seem to take."""

    def ones() -> Params:
        return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes(cfg))

    return jax.block_until_ready(jax.jit(ones, out_shardings=layout)())


def size(params: Params) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def read(directory: Path) -> float:
    """Seconds to read the weight files."""
    buffer, began = bytearray(CHUNK), time.perf_counter()
    for path in safetensors.weight_files(directory):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - began


def written(directory: Path) -> float:
    """Seconds to write a file of as many bytes as the weight files have."""
    remaining = sum(path.stat().st_size for path in safetensors.weight_files(directory))
    buffer, began = memoryview(bytes(CHUNK)), time.perf_counter()
    with (directory / "copy").open("wb", buffering=0) as file:
        while remaining:
            remaining -= file.write(buffer[:remaining])
    return time.perf_counter() - began


if __name__ == "__main__":
    use_compilation_cache()
    print(json.dumps(measure(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
