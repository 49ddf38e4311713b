"""What the command lines of all benchmarks share."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from jax.sharding import Mesh

from experiments.context import use_compilation_cache
from experiments.memory import use_huge_pages
from pivotrl_jax.errors import UserError
from pivotrl_jax.parallel import MeshSettings, make_mesh


def one_device() -> Mesh:
    """The mesh that benchmarks run on."""
    return make_mesh(MeshSettings(), jax.devices()[:1])


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--quick", action="store_true", help="small shapes, within two minutes")
    made.add_argument("--json", type=Path, help="keep the rows in this file")
    made.add_argument("--rounds", type=int, help="measured rounds (the median counts)")
    return made


def run(main: Callable[[], None]) -> None:
    """Runs a benchmark on one device; what the user can mend ends in one sentence."""
    use_huge_pages()
    use_compilation_cache()
    try:
        with jax.set_mesh(one_device()):
            main()
    except UserError as error:
        sys.exit(f"error: {error}")
