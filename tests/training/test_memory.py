"""How many rows a micro-batch has, and what a device and a program say of their memory."""

import logging
import math
import os
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.training.memory import (
    USABLE,
    cgroup_limits,
    device_memory,
    host_memory,
    needed,
    rows_per_device,
    saturating,
)

GIB = 2**30


def free(size: int) -> float:
    return 0


def in_proportion(size: int) -> float:
    return size * USABLE * GIB


def test_a_cpu_is_busy_with_fewer_tokens_than_an_accelerator():
    assert saturating("cpu") < saturating("gpu") == saturating("tpu")


@pytest.mark.parametrize(
    ("rows", "tokens", "size"),
    [
        (16, 512, 4),  # as many as saturate the device
        (16, 3000, 1),  # a row alone is more than that
        (3, 512, 3),  # all there are
        (5, 512, 3),  # two micro-batches of 3, one row of padding instead of three
        (9, 512, 3),
    ],
)
def test_tokens_saturate_a_device_and_hardly_a_row_is_padding(rows, tokens, size):
    assert rows_per_device(rows, tokens, 2048, free, GIB) == size


@pytest.mark.parametrize(("fits", "size"), [(8, 8), (7.9, 4), (3.9, 2), (1, 1)])
def test_rows_are_halved_until_they_fit(fits, size):
    memory = round(fits * GIB)
    assert rows_per_device(8, 100, 2048, in_proportion, memory) == size


def test_halves_are_rounded_up():
    tried = []

    def need(size: int) -> float:
        tried.append(size)
        return in_proportion(size)

    assert rows_per_device(7, 100, 2048, need, GIB) == 1
    assert tried == [7, 4, 2, 1]


@pytest.mark.parametrize(
    ("needs", "said"), [(3.5 * GIB, "needs 3.50 GiB"), (math.inf, "needs more than there is")]
)
def test_one_row_that_does_not_fit_is_one_sentence(needs, said):
    with pytest.raises(UserError) as caught:
        rows_per_device(4, 70_000, 2048, lambda size: needs, 2 * GIB)
    text = str(caught.value)
    assert f"one row of 70,000 tokens per device {said}, and a device has 2.00 GiB" in text
    for remedy in ("text.trunk_tokens", "train.pivots_per_row", "train.remat=full", "mesh.fsdp"):
        assert remedy in text


def test_the_choice_is_logged(caplog):
    with caplog.at_level(logging.INFO, "pivotrl_jax"):
        rows_per_device(4, 1000, 2048, in_proportion, 4 * GIB)
    (record,) = caplog.records
    assert record.getMessage() == (
        "micro-batches of 2 rows (2,000 tokens) per device: 1.80 GiB needed of 4.00 GiB"
    )


def test_a_program_needs_arguments_results_and_temporaries_once():
    x = jax.ShapeDtypeStruct((1 << 16,), jnp.float32)
    grow = lambda x: x + 1  # noqa: E731
    assert needed(jax.jit(grow).lower(x)) == 2 * 4 * 2**16
    assert needed(jax.jit(grow, donate_argnums=0).lower(x)) == 4 * 2**16
    # Sorting has to write its operand down.
    assert needed(jax.jit(lambda x: jnp.sort(x + 1)[::2].sum()).lower(x)) >= 2 * 4 * 2**16


def test_a_program_is_measured_per_device(place):
    mesh, _ = place(1, 8, 1)
    split = jax.NamedSharding(mesh, jax.P("fsdp"))
    x = jax.ShapeDtypeStruct((1 << 16,), jnp.float32, sharding=split)
    assert needed(jax.jit(lambda x: x + 1).lower(x)) == 2 * 4 * 2**13


class Refused:
    """A program that the compiler will not compile."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def compile(self) -> None:
        raise jax.errors.JaxRuntimeError(self.reason)


def test_what_the_compiler_finds_too_large_needs_more_than_there_is():
    assert needed(Refused("RESOURCE_EXHAUSTED: Ran out of memory on HBM")) == math.inf
    with pytest.raises(jax.errors.JaxRuntimeError, match="UNIMPLEMENTED"):
        needed(Refused("UNIMPLEMENTED: no such sort"))


def test_fake_devices_share_the_memory_of_the_machine():
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < host_memory() <= physical
    assert device_memory() == host_memory() // 8


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_limits_of_control_groups(tmp_path):
    limits = partial(cgroup_limits, tmp_path)
    assert limits() == []
    groups = tmp_path / "sys/fs/cgroup"
    write(tmp_path, {"proc/self/cgroup": "0::/system.slice/run.scope\n"})
    write(
        groups,
        {"system.slice/run.scope/memory.max": "max\n", "system.slice/memory.max": "3000\n"},
    )
    assert limits() == [3000]
    # Version 1 in a container, which sees its own group as the root.
    write(tmp_path, {"proc/self/cgroup": "4:memory:/docker/1f\n3:cpu,cpuacct:/docker/1f\n"})
    write(groups, {"memory/memory.limit_in_bytes": "7000\n"})
    assert limits() == [7000]
