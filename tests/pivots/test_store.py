"""The profile store against kills, damage, a full disk and other configurations."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.pivots import SCHEMA, ProfileStore

MANIFEST = {"model": "3f2a", "tokenizer": "77aa", "sampling": {"temperature": 1.0, "top_p": 1.0}}


def rows(*candidates: str, samples: int = 2) -> list[dict]:
    return [
        {
            "candidate_id": candidate,
            "sample": k,
            "tokens": [1, 2, 3 + k],
            "text": "```bash\nls\n```",
            "length": 3,
            "drafted": 1,
            "truncated": False,
            "malformed": False,
            "logp": -1.5,
            "criteria": '{"name": 1.0}',
            "reason": "equal",
            "error": None if k else "judge failed",
            "reward": 1.0 if k else None,
        }
        for candidate in candidates
        for k in range(samples)
    ]


def test_resumes_where_it_stopped(tmp_path: Path) -> None:
    ProfileStore(tmp_path, MANIFEST).append(rows("a", "b"))
    store = ProfileStore(tmp_path, MANIFEST)
    assert store.done() == {"a", "b"}
    store.append(rows("c"))
    assert store.done() == ProfileStore(tmp_path, MANIFEST).done() == {"a", "b", "c"}
    assert store.read().schema == SCHEMA
    assert store.read().to_pylist() == rows("a", "b", "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "manifest.json",
        "samples-00000.parquet",
        "samples-00001.parquet",
    ]


def test_an_empty_store_reads_as_an_empty_table(tmp_path: Path) -> None:
    table = ProfileStore(tmp_path / "deep" / "train", MANIFEST).read()
    assert (table.num_rows, table.schema) == (0, SCHEMA)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "0000"}, "'model' is '3f2a' there and '0000' now"),
        ({"sampling": {"temperature": 0.5, "top_p": 1.0}}, "'sampling' is"),
        ({"candidates": "9"}, "'candidates' is None there"),
    ],
)
def test_another_profile_is_refused(tmp_path: Path, change: dict, named: str) -> None:
    ProfileStore(tmp_path, MANIFEST).append(rows("a"))
    with pytest.raises(UserError, match="another work directory or delete") as caught:
        ProfileStore(tmp_path, MANIFEST | change)
    assert named in str(caught.value)
    assert ProfileStore(tmp_path, MANIFEST).done() == {"a"}


@pytest.mark.parametrize("damage", ["gone", "truncated"])
def test_samples_without_their_manifest_are_refused(tmp_path: Path, damage: str) -> None:
    ProfileStore(tmp_path, MANIFEST).append(rows("a"))
    manifest = tmp_path / "manifest.json"
    manifest.unlink() if damage == "gone" else manifest.write_text('{"model": ')
    with pytest.raises(UserError, match=r"manifest\.json"):
        ProfileStore(tmp_path, MANIFEST)


@pytest.mark.parametrize("kept", [0, 0.01, 0.5, 0.99])
def test_a_chunk_cut_short_is_dropped_alone(tmp_path: Path, kept: float) -> None:
    store = ProfileStore(tmp_path, MANIFEST)
    for candidate in "abc":
        store.append(rows(candidate, samples=50))
    chunk = tmp_path / "samples-00001.parquet"
    os.truncate(chunk, int(kept * chunk.stat().st_size))
    (tmp_path / "samples-00003.parquet.tmp").write_bytes(b"half")
    store = ProfileStore(tmp_path, MANIFEST)
    assert store.done() == {"a", "c"}
    store.append(rows("b", samples=50))
    assert sorted(set(store.read()["candidate_id"].to_pylist())) == ["a", "b", "c"]
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch, call: str) -> None:
    store = ProfileStore(tmp_path, MANIFEST)
    store.append(rows("a"))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(UserError, match=r"samples of 1 candidates are kept.*free some space"):
            store.append(rows("b"))
    assert store.done() == {"a"}
    store.append(rows("b"))
    assert ProfileStore(tmp_path, MANIFEST).done() == {"a", "b"}


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_store import MANIFEST, rows
from pivotrl_jax.pivots import ProfileStore
store = ProfileStore(Path(sys.argv[1]), MANIFEST)
for i in range(100_000):
    store.append(rows(f"{i}", samples=20))
    print(i, flush=True)
"""


def test_a_killed_writer_loses_nothing_it_reported(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        reported = [writer.stdout.readline().strip() for _ in range(15)]
        writer.kill()
    store = ProfileStore(tmp_path, MANIFEST)
    assert store.done() >= set(reported)
    assert store.read().num_rows == 20 * len(store.done())


def test_a_chunk_that_cannot_be_read_now_is_not_deleted(tmp_path: Path, monkeypatch) -> None:
    ProfileStore(tmp_path, MANIFEST).append(rows("a"))

    def broken(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.read_table", broken)
        with pytest.raises(OSError, match="Input/output"):
            ProfileStore(tmp_path, MANIFEST)
    assert ProfileStore(tmp_path, MANIFEST).done() == {"a"}


def test_lone_surrogates_can_be_stored(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path, MANIFEST)
    store.append([row | {"text": "a\ud800"} for row in rows("a")])
    assert store.read()["text"].to_pylist() == ["a?", "a?"]
