"""Eight fake CPU devices and a persistent compilation cache for every test."""

import dataclasses
import os
import socket
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nearly all of a test's time is compilation: not for speed, and without XLA's newer emitters of
# fused loops, where there is a choice, it takes a quarter as long. Other processes that tests start
# inherit this, with their own number of devices after it: the last one counts.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false" if version("jax") < "0.11" else "",
    ]
)

import hypothesis
import jax
import pytest

from pivotrl_jax.models import ModelConfig, Params, huggingface, init
from pivotrl_jax.models.presets import SMOLLM2_135M, shrink

CACHE = Path(__file__).parent.parent / ".cache"

jax.config.update("jax_compilation_cache_dir", str(CACHE / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

# The same examples everywhere, however slow the machine is; --hypothesis-profile=fresh draws new
# ones.
for name, repeatable in (("fresh", False), ("repeatable", True)):
    hypothesis.settings.register_profile(
        name,
        deadline=None,
        derandomize=repeatable,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
hypothesis.settings.load_profile("repeatable")


# Of 65,530 that Linux allows a process; the compiler ends by a segmentation fault where there are
# more, and every program that XLA:CPU keeps takes about twenty.
MANY_MAPS = 32_000


@pytest.fixture(scope="module", autouse=True)
def forgotten_programs() -> Iterator[None]:
    """Drops the compiled programs of earlier files before there are too many."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MANY_MAPS:
        jax.clear_caches()


GOLDEN = Path(__file__).parent / "models" / "golden"
# Every family of models, each with all of its features in a small model that Hugging Face
# transformers made (models/make_golden.py). One more name here is one more row of all tests that
# take `family`: logits, trees, sampling, files.
FAMILIES = ("llama31", "qwen25", "qwen3", "qwen3_moe", "gemma3", "gpt_oss")


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """Weights of no feature's initial value: norms, biases and scales all show in the logits."""

    directory: Path
    cfg: ModelConfig
    params: Params


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    directory = GOLDEN / request.param
    cfg = huggingface.read_config(directory)
    return Family(directory, cfg, huggingface.load(directory, cfg))


@pytest.fixture(scope="session")
def meeting_point() -> Callable[[], str]:
    """Addresses at which the processes of a run may meet."""

    def free() -> str:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            return f"127.0.0.1:{listener.getsockname()[1]}"

    return free


@pytest.fixture(scope="session")
def rng_key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(scope="session")
def tiny_cfg() -> ModelConfig:
    """SmolLM2 with every dimension small, two key/value heads and one byte per token."""
    return shrink(
        SMOLLM2_135M, vocab=256, width=48, layers=2, kv_heads=2, head_dim=16, ffn=96
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_params(tiny_cfg: ModelConfig) -> Params:
    return init(jax.random.key(7), tiny_cfg)
