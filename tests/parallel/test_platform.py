"""Compiler flags: which are set where, and that compilers take them."""

import os
import subprocess
import sys

import pytest

from pivotrl_jax.parallel import platform, set_flags
from pivotrl_jax.parallel.platform import FLAGS, VARIABLES, platforms

CPU = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
GPU = "--xla_gpu_enable_latency_hiding_scheduler=true"


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("cpu", {"cpu"}),
        ("cuda,cpu", {"cpu", "gpu"}),
        ("TPU", {"cpu", "tpu"}),
        ("metal", {"cpu"}),
    ],
)
def test_jax_platforms_says_which(named, found):
    assert platforms({"JAX_PLATFORMS": named}) == found


def test_without_it_the_installed_plugins_do(monkeypatch):
    monkeypatch.setattr(
        platform.importlib.util, "find_spec", lambda name: name == "jax_cuda12_plugin" or None
    )
    assert platforms({}) == {"cpu", "gpu"}
    assert platforms({"JAX_PLATFORMS": ""}) == {"cpu", "gpu"}


def test_flags_join_what_is_set_and_override_nothing():
    environ = {"JAX_PLATFORMS": "cuda", "XLA_FLAGS": "--xla_dump_to=/x"}
    set_flags(environ)
    assert environ["XLA_FLAGS"] == f"--xla_dump_to=/x {CPU} {GPU}"
    assert "LIBTPU_INIT_ARGS" not in environ
    own = GPU.replace("true", "false")
    environ = {"JAX_PLATFORMS": "cuda", "XLA_FLAGS": own}
    set_flags(environ)
    assert environ["XLA_FLAGS"] == f"{own} {CPU}"
    set_flags(environ)
    assert environ["XLA_FLAGS"] == f"{own} {CPU}"


def test_flags_for_tpus_are_not_told_to_others():
    environ = {"JAX_PLATFORMS": "tpu"}
    set_flags(environ)
    assert environ["XLA_FLAGS"] == CPU
    assert environ["LIBTPU_INIT_ARGS"].count("--xla_tpu_") == len(FLAGS["tpu"]) > 0


def test_every_flag_has_a_reason_and_a_source():
    flags = [flag for own in FLAGS.values() for flag in own]
    assert FLAGS.keys() == VARIABLES.keys()
    assert all(flag.reason and "." in flag.source for flag in flags)
    assert len({flag.name for flag in flags}) == len(flags)


def test_the_compilers_know_them():
    """An unknown one ends the process. XLA's parser is the same for CPUs and GPUs."""
    code = """
import jax
from jax.experimental import topologies
jax.numpy.zeros(1).block_until_ready()
print(len(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices))
"""
    environ = os.environ | {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    environ |= {"JAX_PLATFORMS": "cpu,cuda,tpu", "XLA_FLAGS": "", "LIBTPU_INIT_ARGS": ""}
    set_flags(environ)
    assert {*map(str, FLAGS["cpu"] + FLAGS["gpu"])} == {*environ["XLA_FLAGS"].split()}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("8\n", 0), done.stderr[-2000:]
