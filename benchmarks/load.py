"""Host memory and time of loading a checkpoint and of exporting one, each in its own process.

    python -m benchmarks.load [--quick] [--json FILE]

`beyond_mib` is the peak of resident memory beyond the parameters (on an accelerator: of host memory
in all), `against_copy` the seconds over those of reading or writing as many bytes and doing nothing
with them. The checkpoint is random float32 in the shapes of Qwen3-0.6B with a vocabulary of 32,768,
made in a temporary directory (`TMPDIR` says where). Needs Linux, whose /proc tells a peak.
"""

import dataclasses
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks.command import parser, run
from benchmarks.table import Row, report
from pivotrl_jax.errors import UserError
from pivotrl_jax.models import ModelConfig, huggingface, safetensors, weights
from pivotrl_jax.models.presets import QWEN_3_0_6B

VOCAB = 32_768
LAYERS, QUICK_LAYERS = 44, 3
ROOM = 2.2  # the checkpoint, and an export of it or a copy of that
MIB = 2**20

COLUMNS = (
    "side", "dtype", "devices", "file_mib", "parameters_mib", "largest_tensor_mib", "beyond_mib",
    "seconds", "against_copy",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Side:
    """`load` or `export`, with parameters of `dtype`, over `devices` (fake ones, on a CPU)."""

    name: str
    dtype: str
    devices: int


def sides() -> list[Side]:
    found = [Side("load", "float32", 1), Side("load", "bfloat16", 1), Side("export", "float32", 1)]
    if jax.default_backend() == "cpu":
        found += [Side("load", "float32", 8), Side("export", "float32", 8)]
    return found


def checkpoint(directory: Path, cfg: ModelConfig) -> dict[str, int]:
    """Writes one and returns the bytes of its tensors; UserError where there is no room for it."""
    shapes = weights.tensor_shapes(cfg, huggingface.NAMES)
    specs = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    sizes = {name: 4 * math.prod(shape) for name, shape in shapes.items()}
    free, needed = shutil.disk_usage(directory).free, int(ROOM * sum(sizes.values()))
    if free < needed:
        raise UserError(
            f"{directory} has room for {free // MIB:,} MiB, and {needed // MIB:,} are needed; set "
            "TMPDIR to another place, or give --quick"
        )
    rng = np.random.default_rng(0)
    arrays = (rng.standard_normal(shape, np.float32) for shape in shapes.values())
    safetensors.write_all(directory, specs, arrays, shard_bytes=2 * 10**9)
    config = json.dumps(huggingface.config_to_hf(cfg))
    (directory / "config.json").write_text(config, encoding="utf-8")
    return sizes


def once(side: Side, source: Path, scratch: Path) -> dict[str, float]:
    """What a worker measured; what it exported is gone afterwards."""
    target = source if side.name == "load" else scratch / "exported"
    job = {
        "side": side.name, "dtype": side.dtype, "directory": str(target), "checkpoint": str(source)
    }  # fmt: skip
    (scratch / "job.json").write_text(json.dumps(job), encoding="utf-8")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count="
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load_worker", str(scratch / "job.json")],
        env=os.environ | {"XLA_FLAGS": flags + str(side.devices)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    shutil.rmtree(scratch / "exported", ignore_errors=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"{side.name} ended with: {lines[-1]}; free memory, or give --quick")
    return json.loads(done.stdout)


def row(side: Side, sizes: Mapping[str, int], found: Sequence[Mapping[str, float]]) -> Row:
    """Medians of all rounds."""
    median = {name: statistics.median(one[name] for one in found) for name in found[0]}
    return {
        "side": side.name,
        "dtype": side.dtype,
        "devices": side.devices,
        "file_mib": sum(sizes.values()) / MIB,
        "parameters_mib": median["parameters"] / MIB,
        "largest_tensor_mib": max(sizes.values()) / MIB,
        "beyond_mib": median["beyond"] / MIB,
        "seconds": median["seconds"],
        "against_copy": median["seconds"] / median["copy_seconds"],
    }


def rows(cfg: ModelConfig, chosen: Sequence[Side], rounds: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        source = scratch / "checkpoint"
        source.mkdir()
        sizes = checkpoint(source, cfg)
        for side in chosen:
            yield row(side, sizes, [once(side, source, scratch) for _ in range(rounds)])


def config(layers: int) -> ModelConfig:
    return dataclasses.replace(QWEN_3_0_6B, vocab=VOCAB, layers=layers)


def main() -> None:
    given = parser("load", __doc__).parse_args()
    if not Path("/proc/self/clear_refs").exists():
        raise UserError("this system has no /proc/self/clear_refs; run on Linux")
    cfg = config(QUICK_LAYERS if given.quick else LAYERS)
    title = "Loading and exporting, resident memory beyond the parameters"
    report("load", {title: COLUMNS}, rows(cfg, sides(), given.rounds or 1), given.json)


if __name__ == "__main__":
    run(main)
