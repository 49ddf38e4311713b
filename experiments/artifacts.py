"""Small files of a run, written whole by process 0, and how two of them differ."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pivotrl_jax.errors import UserError
from pivotrl_jax.parallel import first


def added(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Sums of counts under the same names, also one level down."""
    return {
        name: added(a.get(name, {}), b.get(name, {}))
        if isinstance(a.get(name, b.get(name)), Mapping)
        else a.get(name, 0) + b.get(name, 0)
        for name in a.keys() | b.keys()
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """ "field: old -> new" for every leaf that differs."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(f"{prefix}{name}: {a!r} -> {b!r}")
    return found


def write_json(path: Path, value: Any) -> None:
    """Whole or absent: an interrupted write leaves no half file behind. Process 0 writes alone."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    _write(path, lambda partial_path: partial_path.write_text(text, encoding="utf-8"))


def write_table(path: Path, table: pa.Table) -> None:
    """A Parquet file, written like JSON."""
    _write(path, lambda partial_path: pq.write_table(table, partial_path))


def _write(path: Path, write: Callable[[Path], object]) -> None:
    if not first():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(path.name + ".partial")
    try:
        write(partial_path)
        os.replace(partial_path, path)
    except OSError as error:
        partial_path.unlink(missing_ok=True)
        raise UserError(
            f"{path} could not be written ({error.strerror}); free some space and run the same "
            "command again, it resumes"
        ) from error
