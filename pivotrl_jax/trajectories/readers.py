"""Files to trajectories; what cannot be read is counted and set aside, never lost."""

import dataclasses
import difflib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pivotrl_jax.errors import UserError
from pivotrl_jax.trajectories import files
from pivotrl_jax.trajectories.formats import FORMATS, detect
from pivotrl_jax.trajectories.schema import BadRow, Trajectory

QUARANTINE_CHARS = 500


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A bad row: where it stands, why it was refused, and how its text begins."""

    file: str
    line: int
    reason: str
    text: str


@dataclasses.dataclass(frozen=True)
class ReadAudit:
    """Counts of rows: lines = read + quarantined + blank; `reasons` add up to `quarantined`."""

    lines: int
    read: int
    quarantined: int
    blank: int
    reasons: dict[str, int]


def read(
    path: str | Path, fmt: str = "auto", quarantine: Path | None = None, limit: int | None = None
) -> tuple[list[Trajectory], ReadAudit]:
    """The trajectories of a file, directory or glob, up to `limit`, and the count of every row.

    `fmt` is a key of FORMATS or "auto" (told per row); bad rows go to the JSONL file `quarantine`.
    Raises UserError when no file is found or no row is good.
    """
    trajectories: list[Trajectory] = []
    rejected: list[Rejected] = []
    blank = 0
    for row in rows(path, fmt):
        if row is None:
            blank += 1
        elif isinstance(row, Rejected):
            rejected.append(row)
        else:
            trajectories.append(row)
        if len(trajectories) == limit:
            break
    if quarantine is not None:
        _write_quarantine(rejected, quarantine)
    reasons = Counter(row.reason for row in rejected)
    if not trajectories:
        raise UserError(_nothing_read(path, reasons))
    total = len(trajectories) + len(rejected) + blank
    return trajectories, ReadAudit(total, len(trajectories), len(rejected), blank, dict(reasons))


def rows(path: str | Path, fmt: str = "auto") -> Iterator[Trajectory | Rejected | None]:
    """What each row of each file under `path` holds, in order; None for a blank line.

    Raises UserError when no file is found or `fmt` is unknown.
    """
    _check_format(fmt)
    seen: set[str] = set()
    for file in files.find(path):
        for line in files.lines(file):
            if not line.data.strip() and not line.truncated:
                yield None
                continue
            try:
                trajectory = _parse(line, fmt)
                if trajectory.id in seen:
                    raise BadRow("duplicate_id")
            except BadRow as problem:
                yield _rejected(line, str(problem))
                continue
            seen.add(trajectory.id)
            yield trajectory


def _parse(line: files.Line, fmt: str) -> Trajectory:
    if line.truncated:
        raise BadRow("truncated_file")
    row = _decode(line.data)
    name = detect(row) if fmt == "auto" else fmt
    return FORMATS[name](row, f"{line.file}:{line.number}")


def _decode(data: bytes) -> dict[str, Any]:
    try:
        row = json.loads(data.decode("utf-8-sig"))
        # JSON may escape half of a surrogate pair, which no tokenizer can encode later on.
        if b"\\ud" in data.lower():
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise BadRow("not_utf8") from None
    except (ValueError, RecursionError):
        raise BadRow("not_json") from None
    if not isinstance(row, dict):
        raise BadRow("not_an_object")
    return row


def _rejected(line: files.Line, reason: str) -> Rejected:
    text = line.data[: 4 * QUARANTINE_CHARS].decode("utf-8", errors="replace")
    return Rejected(line.file, line.number, reason, text[:QUARANTINE_CHARS])


def _write_quarantine(rejected: list[Rejected], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rejected)
    path.write_text(text, encoding="utf-8")


def _nothing_read(path: str | Path, reasons: Counter[str]) -> str:
    if not reasons:
        return f"{str(path)!r} holds no rows: give one trajectory (a JSON object) per line"
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
    return (
        f"no row of {str(path)!r} is a trajectory ({listed}): "
        "give one JSON object with `messages` per line"
    )


def _check_format(fmt: str) -> None:
    names = ["auto", *FORMATS]
    if fmt not in names:
        nearest = difflib.get_close_matches(fmt, names, n=1, cutoff=0.0)[0]
        raise UserError(f"unknown trajectory format {fmt!r}: did you mean {nearest!r}?")
