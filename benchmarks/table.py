"""Rows of a benchmark: printed as Markdown tables, kept as JSON with where they came from."""

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.versions import in_words, versions
from pivotrl_jax.errors import UserError

Row = dict[str, Any]
# Title of a table to the columns it shows of the rows.
Tables = Mapping[str, Sequence[str]]


def report(name: str, tables: Tables, rows: Iterable[Row], path: Path | None) -> list[Row]:
    """Prints `tables` of `rows` once all are there; `path` holds the rows so far at any time."""
    done: list[Row] = []
    for row in rows:
        done.append(row)
        print(f"{name}: {len(done)} rows", file=sys.stderr, flush=True)
        if path is not None:
            save(path, name, done)
    for title, columns in tables.items():
        # A row of another table has nothing here but perhaps its name.
        own = [row for row in done if any(column in row for column in columns[1:])]
        print(f"\n**{title}**\n\n{markdown(own, columns)}")
    print(f"\n`{command()}` on {device()}; {in_words(versions())}.")
    return done


def markdown(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """A Markdown table, numbers to the right; a row without a column shows a dash."""
    lines = [list(columns)] + [[cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [any(isinstance(row.get(column), str) for row in rows) for column in columns]
    padded = [
        [x.ljust(n) if text else x.rjust(n) for x, n, text in zip(line, widths, texts, strict=True)]
        for line in lines
    ]
    rule = ["-" * n if text else "-" * (n - 1) + ":" for n, text in zip(widths, texts, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])


def cell(value: Any) -> str:
    """Three significant digits for a float, separators for an int, a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".removesuffix(".")
    return f"{value:,}" if isinstance(value, int) else str(value)


def save(path: Path, name: str, rows: Sequence[Row]) -> None:
    """Writes rows, device, versions and command; UserError when the disk refuses."""
    content = {
        "benchmark": name,
        "command": command(),
        "device": device(),
        "cpu_count": os.cpu_count(),
        "versions": versions(),
        "rows": list(rows),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another --json") from None


def command() -> str:
    """What was typed, without the path of the script."""
    return " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])


def device() -> str:
    """Number and kind of the devices, with the processor's name and its cores on a CPU."""
    kind = jax.devices()[0].device_kind
    if kind == "cpu":
        return f"{os.cpu_count()} cores of {_processor()}"
    return f"{jax.device_count()} x {kind}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
