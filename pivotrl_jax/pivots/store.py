"""Profiled samples on disk: Parquet chunks that are whole or absent."""

import errno
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pivotrl_jax.errors import UserError
from pivotrl_jax.parallel import first, from_first

SCHEMA = pa.schema(
    [
        ("candidate_id", pa.string()),
        ("sample", pa.int32()),
        ("tokens", pa.list_(pa.int32())),
        ("text", pa.string()),
        ("length", pa.int32()),
        ("drafted", pa.int32()),  # leading tokens that are the expert's and cost no decoding
        ("truncated", pa.bool_()),
        ("malformed", pa.bool_()),
        ("logp", pa.float64()),  # untempered, summed over the tokens
        ("criteria", pa.string()),  # a JSON object
        ("reason", pa.string()),
        ("error", pa.string()),  # null unless the sample could not be judged
        ("reward", pa.float64()),  # null without a verdict
    ]
)
_REMEDY = "use another work directory or delete this one"


class ProfileStore:
    """The samples of one profile in `directory`, resumable after a kill at any moment.

    `manifest` pins what the samples depend on (hashes of model, tokenizer, template, sampling
    settings, candidates; JSON values). Opening checks it, and drops chunks that are not readable;
    their candidates are simply not `done`. UserError if the manifest differs. Of several processes
    the first one reads and writes; all of them open and append alike.
    """

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        self._directory = Path(directory)
        self._done: set[str] = from_first(lambda: self._open(json.loads(json.dumps(manifest))))

    def _open(self, manifest: dict[str, Any]) -> set[str]:
        """The candidates that are done."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._pin(manifest)
        for leftover in self._directory.glob("*.tmp"):
            leftover.unlink()
        done: set[str] = set()
        for chunk in self._chunks():
            try:
                ids = pq.read_table(chunk, columns=["candidate_id"])["candidate_id"]
            except pa.ArrowInvalid:  # cut short; other errors may pass, so they must not delete
                chunk.unlink()
            else:
                done.update(ids.to_pylist())
        return done

    def done(self) -> set[str]:
        """The candidates with samples on disk."""
        return set(self._done)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write one chunk; it must hold all samples of each of its candidates.

        UserError if the disk is full; what was there before is kept.
        """
        clean = [{name: _storable(row[name]) for name in SCHEMA.names} for row in rows]
        if first():
            self._append(pa.Table.from_pylist(clean, SCHEMA))
        self._done.update(row["candidate_id"] for row in clean)

    def _append(self, table: pa.Table) -> None:
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        chunks = self._chunks()
        index = int(chunks[-1].stem.removeprefix("samples-")) + 1 if chunks else 0
        self._write(f"samples-{index:05d}.parquet", buffer.getvalue())

    def read(self) -> pa.Table:
        return from_first(lambda: read_samples(self._directory))

    def _chunks(self) -> list[Path]:
        return _chunks(self._directory)

    def _pin(self, manifest: dict[str, Any]) -> None:
        path = self._directory / "manifest.json"
        if not path.exists():
            if self._chunks():
                raise UserError(f"{path} is missing beside profiled samples: {_REMEDY}")
            self._write(path.name, json.dumps(manifest, indent=1).encode())
            return
        try:
            pinned = json.loads(path.read_bytes())
        except ValueError as error:
            raise UserError(f"{path} is not readable ({error}): {_REMEDY}") from error
        names = sorted(pinned.keys() | manifest.keys())
        differing = [name for name in names if pinned.get(name) != manifest.get(name)]
        if differing:
            details = "; ".join(
                f"{name!r} is {pinned.get(name)!r} there and {manifest.get(name)!r} now"
                for name in differing
            )
            raise UserError(f"{path} belongs to another profile: {details}: {_REMEDY}")

    def _write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write a file that is whole or absent, also after a power cut."""
        temporary = self._directory / f"{name}.tmp"
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._directory / name)
            _sync(self._directory)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"{self._directory}: the disk is full while writing {name}; the samples of "
                f"{len(self._done)} candidates are kept: free some space and run again"
            ) from error


def read_samples(directory: Path) -> pa.Table:
    """All samples of a store, in the order in which they were appended."""
    return pa.concat_tables([SCHEMA.empty_table(), *map(_read, _chunks(directory))])


def _chunks(directory: Path) -> list[Path]:
    return sorted(directory.glob("samples-*.parquet"))


def _read(chunk: Path) -> pa.Table:
    return pq.read_table(chunk, schema=SCHEMA)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _storable(value: Any) -> Any:
    # Lone surrogates, which a model can produce through JSON escapes, have no UTF-8 form.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
