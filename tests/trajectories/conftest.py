import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pivotrl_jax.trajectories import Trajectory, read

SWE = Path(__file__).parents[2] / "experiments" / "data" / "swe"


@pytest.fixture(scope="session")
def mini_file() -> Path:
    return SWE / "swebench_mini_swe_agent_deepseek.jsonl.gz"


@pytest.fixture(scope="session")
def demos_file() -> Path:
    return SWE / "sweagent_demonstrations.jsonl.gz"


@pytest.fixture(scope="session")
def mini(mini_file: Path) -> list[Trajectory]:
    return read(mini_file)[0]


@pytest.fixture(scope="session")
def demos(demos_file: Path) -> list[Trajectory]:
    return read(demos_file)[0]


@pytest.fixture(scope="session")
def demo_lines(demos_file: Path) -> list[bytes]:
    return gzip.decompress(demos_file.read_bytes()).splitlines()


@pytest.fixture(scope="session")
def mini_row(mini_file: Path) -> dict[str, Any]:
    with gzip.open(mini_file) as rows:
        return json.loads(rows.readline())


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes JSON objects (or raw bytes) as the lines of a file of this name."""

    def write_rows(*rows: dict[str, Any] | bytes, name: str = "rows.jsonl") -> Path:
        encoded = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path = tmp_path / name
        path.write_bytes(b"\n".join(encoded) + b"\n")
        return path

    return write_rows


@pytest.fixture(scope="session")
def carried() -> Callable[[str], list[dict[str, Any]]]:
    """The rows of a carried file, or of one in this folder's data, by its name without ending."""

    def rows(name: str) -> list[dict[str, Any]]:
        folder = SWE.parent if "/" in name else Path(__file__).parent / "data"
        with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    return rows
