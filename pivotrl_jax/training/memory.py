"""How many rows a micro-batch has: enough tokens to keep a device busy, as far as they fit."""

import logging
import math
import os
import resource
from collections.abc import Callable
from pathlib import Path

import jax

from pivotrl_jax.errors import UserError

GIB = 2**30
# Tokens of a micro-batch that keep one device busy; more of them would only take more memory. Every
# micro-batch reads the weights, adds up gradients and exchanges both between devices anew, which
# weighs more where arithmetic is fast.
SATURATING = {"cpu": 2_048}
SATURATING_ACCELERATOR = 32_768
# The compiler does not plan for gaps between buffers, nor for those of other programs.
USABLE = 0.9


def device_memory() -> int:
    """Bytes that one device may use: the backend's limit, or on CPU its share of the host's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or host_memory() // jax.local_device_count()


def host_memory() -> int:
    """Bytes that this process may use: all that the machine has, or less under a limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *cgroup_limits()]
    own, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return min(limits if own == resource.RLIM_INFINITY else [*limits, own])


def cgroup_limits(root: Path = Path("/")) -> list[int]:
    """Bytes that this process's control groups, and those above them, allow (versions 1 and 2)."""
    table, limits = root / "proc/self/cgroup", []
    for line in table.read_text().splitlines() if table.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        kind, name = ("memory", "memory.limit_in_bytes") if controllers else ("", "memory.max")
        own = Path(path.lstrip("/"))
        files = [root / "sys/fs/cgroup" / kind / group / name for group in (own, *own.parents)]
        limits += [file.read_text().strip() for file in files if file.exists()]
    return [int(limit) for limit in limits if limit != "max"]


def needed(lowered: jax.stages.Lowered) -> float:
    """Bytes per device of a program while it runs; infinite where it does not even compile.

    The compiler for TPUs refuses what exceeds the chip, the others leave it to the allocator.
    """
    try:
        return footprint(lowered.compile())
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return math.inf


def footprint(compiled: jax.stages.Compiled) -> int:
    """Bytes per device of arguments, results and temporaries."""
    found = compiled.memory_analysis()
    assert found is not None
    kept = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return kept + found.temp_size_in_bytes


def saturating(platform: str) -> int:
    return SATURATING.get(platform, SATURATING_ACCELERATOR)


def rows_per_device(
    rows: int, tokens: int, useful: int, need: Callable[[int], float], memory: int
) -> int:
    """Rows of one micro-batch per device, for a device's share of `rows` rows, and of each of them
    `tokens` tokens.

    As few micro-batches as have `useful` tokens each, of equal size, so that hardly any row is
    padding; then halved until `need(rows per device)` fits `memory`, both in bytes. Raises
    UserError when one row does not fit.
    """
    most = max(1, useful // tokens)
    size = math.ceil(rows / math.ceil(rows / most))
    while (wanted := need(size)) > USABLE * memory:
        if size == 1:
            raise UserError(_too_large(tokens, wanted, memory))
        size = math.ceil(size / 2)
    logging.getLogger(__name__).info(
        "micro-batches of %d rows (%s tokens) per device: %.2f GiB needed of %.2f GiB",
        size, f"{size * tokens:,}", wanted / GIB, memory / GIB,
    )  # fmt: skip
    return size


def _too_large(tokens: int, wanted: float, memory: int) -> str:
    amount = f"{wanted / GIB:.2f} GiB" if math.isfinite(wanted) else "more than there is"
    return (
        f"an update of one row of {tokens:,} tokens per device needs {amount}, and a device has "
        f"{memory / GIB:.2f} GiB, of which {USABLE:.0%} may be used; lower text.trunk_tokens, "
        "train.pivots_per_row or train.samples, set train.remat=full, or put more devices along "
        "mesh.fsdp, or mesh.context where a single row is too long"
    )
