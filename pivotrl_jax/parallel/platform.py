"""Compiler flags: one table by platform, with the reason for each."""

import dataclasses
import importlib.util
from collections.abc import Mapping, MutableMapping
from types import MappingProxyType
from typing import Literal

Platform = Literal["cpu", "gpu", "tpu"]


@dataclasses.dataclass(frozen=True)
class Flag:
    name: str
    value: str
    reason: str
    source: str

    def __str__(self) -> str:
        return f"--{self.name}={self.value}"


# Left out is what XLA does by itself: --xla_gpu_triton_gemm_any, and for TPUs
# --xla_tpu_enable_async_collective_fusion and its kin, with and without which libtpu 0.0.42
# compiles the gradient of eight sharded layers for v5e to the same program.
FLAGS: Mapping[Platform, tuple[Flag, ...]] = MappingProxyType(
    {
        "cpu": (
            Flag(
                "xla_cpu_collective_call_terminate_timeout_seconds",
                "600",
                "several devices on few cores reach a collective minutes apart; after 40 s, the "
                "default, the process is ended",
                "github.com/openxla/xla/pull/32115",
            ),
        ),
        "gpu": (
            Flag(
                "xla_gpu_enable_latency_hiding_scheduler",
                "true",
                "gathers the next layer's parameters while this one computes; accepted by jaxlib "
                "0.10.2, its effect is not measured here",
                "docs.jax.dev/en/latest/gpu_performance_tips.html",
            ),
        ),
        "tpu": tuple(
            Flag(
                name,
                "true",
                "overlaps the gradients' exchange between slices with the next layer's backward "
                "pass; accepted by libtpu 0.0.42 and without effect within a slice, its effect "
                "between slices is not measured here",
                "github.com/AI-Hypercomputer/maxtext: benchmarks/xla_flags_library.py",
            )
            for name in (
                "xla_tpu_enable_data_parallel_all_reduce_opt",
                "xla_tpu_data_parallel_opt_different_sized_ops",
            )
        ),
    }
)
VARIABLES: Mapping[Platform, str] = MappingProxyType(
    {"cpu": "XLA_FLAGS", "gpu": "XLA_FLAGS", "tpu": "LIBTPU_INIT_ARGS"}
)
PLUGINS: Mapping[str, Platform] = MappingProxyType(
    {"libtpu": "tpu", "jax_cuda12_plugin": "gpu", "jax_cuda13_plugin": "gpu"}
)
ALIASES: Mapping[str, Platform] = MappingProxyType(
    {"cpu": "cpu", "gpu": "gpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu"}
)


def platforms(environ: Mapping[str, str]) -> set[Platform]:
    """Those that JAX may start: what JAX_PLATFORMS says, or else the CPU and installed plugins."""
    if named := environ.get("JAX_PLATFORMS"):
        found = [ALIASES[name] for name in named.lower().split(",") if name in ALIASES]
    else:
        found = [own for name, own in PLUGINS.items() if importlib.util.find_spec(name)]
    return {"cpu", *found}


def set_flags(environ: MutableMapping[str, str]) -> None:
    """Adds the flags of all `platforms` to XLA_FLAGS and LIBTPU_INIT_ARGS in `environ`.

    A flag that is there already stays as it is. Only what is set before JAX starts its backends
    has an effect.
    """
    for platform in sorted(platforms(environ)):
        variable = VARIABLES[platform]
        for flag in FLAGS[platform]:
            before = environ.get(variable, "")
            if flag.name not in names(before):
                environ[variable] = f"{before} {flag}".strip()


def names(flags: str) -> set[str]:
    """The names of "--a=1 --b=2"."""
    return {flag.lstrip("-").partition("=")[0] for flag in flags.split()}
