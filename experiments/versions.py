"""Which code a result comes from: the versions of what it runs on, and its own commit."""

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tokenizers", "numpy")
ROOT = Path(__file__).parents[1]


def versions() -> dict[str, str]:
    """By name, Python first and this project last, which has a version only in a checkout."""
    packages = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | packages | commit(ROOT)


def in_words(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in found.items())


def commit(checkout: Path) -> dict[str, str]:
    """The commit, with a "+" where tracked files differ from it; nothing without git."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty=+", "--abbrev=10"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return {}
    return {} if said.returncode else {"pivotrl_jax": said.stdout.strip()}
