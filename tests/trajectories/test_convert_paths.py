"""What the command line writes where, and what it must not write over."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pivotrl_jax.trajectories import files
from pivotrl_jax.trajectories.__main__ import main

Write = Callable[..., Path]
DATA = Path(__file__).parents[2] / "experiments" / "data"
GOOD = {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yo."}]}


@pytest.mark.parametrize("to", ["openai_chat", "nemo_gym"])
@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_what_is_called_compressed_is(ending: str, to: str, tmp_path: Path) -> None:
    file = DATA / "tool_use/tau2_sft_v1_small.jsonl.gz"
    plain, out = tmp_path / "plain.jsonl", tmp_path / f"rows.jsonl{ending}"
    for path in (plain, out):
        assert main(["convert", "--to", to, str(file), str(path)]) == 0
    magic = {"": plain.read_bytes()[:4], ".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}[ending]
    assert out.read_bytes().startswith(magic)
    assert list(files.lines(out))[-1].data == list(files.lines(plain))[-1].data
    assert len(out.read_bytes()) < len(plain.read_bytes()) / 3 or not ending


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("rows.jsonl", "rows.jsonl"),
        ("rows.jsonl", "link.jsonl"),
        ("*.jsonl", "rows.jsonl"),
        (".", "rows.jsonl"),
        # Bad rows would be written over it.
        ("out.quarantine.jsonl", "out"),
        ("rows.jsonl", "folder"),
        ("rows.jsonl", "rows.jsonl/out.jsonl"),
        ("rows.jsonl", "out.json"),
    ],
)
def test_nothing_is_written_where_it_must_not_be(
    source: str, target: str, tmp_path: Path, write: Write, capsys: Any
) -> None:
    write(GOOD, b"{")
    write(GOOD, b"{", name="out.quarantine.jsonl")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "rows.jsonl")
    (tmp_path / "folder").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.glob("*") if path.is_file()}
    command = ["convert", "--to", "openai_chat", str(tmp_path / source), str(tmp_path / target)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert target.rpartition("/")[2] in error
    assert before == {path: path.read_bytes() for path in tmp_path.glob("*") if path.is_file()}


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = [sys.executable, "-m", "pivotrl_jax.trajectories", "inspect"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*command, str(DATA / "tool_use/tau2_sft_v1_small.jsonl.gz")],
        stdout=writing, stderr=subprocess.PIPE, cwd=DATA.parents[1], check=False,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
