"""Files to trajectories; what cannot be read is counted and set aside, never lost."""

import dataclasses
import difflib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pivotrl_jax.errors import UserError
from pivotrl_jax.trajectories import contexts, files
from pivotrl_jax.trajectories.dialogues import simulations
from pivotrl_jax.trajectories.fold import Sharing, fold
from pivotrl_jax.trajectories.formats import FORMATS, detect
from pivotrl_jax.trajectories.parsing import BadRow
from pivotrl_jax.trajectories.schema import Trajectory
from pivotrl_jax.trajectories.unheld import unheld

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
    """Counts of rows: lines = read + quarantined + blank; `reasons` add up to `quarantined`.

    A result file of many runs has as many rows. `formats` counts the rows read, by format;
    `unheld` what they state that no trajectory holds; `sharing` says what became of pivot rows, if
    there were any.
    """

    lines: int
    read: int
    quarantined: int
    blank: int
    reasons: dict[str, int]
    formats: dict[str, int] = dataclasses.field(default_factory=dict, compare=False)
    unheld: dict[str, int] = dataclasses.field(default_factory=dict, compare=False)
    sharing: Sharing | None = None


@dataclasses.dataclass
class _Counts:
    blank: int = 0
    rejected: list[Rejected] = dataclasses.field(default_factory=list)
    formats: Counter[str] = dataclasses.field(default_factory=Counter)
    unheld: Counter[str] = dataclasses.field(default_factory=Counter)


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """What a row holds, None if it is blank; its format, and what no trajectory holds of it."""

    found: Trajectory | Rejected | None
    fmt: str = ""
    unheld: Counter[str] = dataclasses.field(default_factory=Counter)


def read(
    path: str | Path, fmt: str = "auto", quarantine: Path | None = None, limit: int | None = None
) -> tuple[list[Trajectory], ReadAudit]:
    """The trajectories of a file, directory or glob, from up to `limit` good rows.

    Every row is counted. Pivot rows cut from one trajectory are folded back into it. `fmt` is a
    key of FORMATS or "auto" (told per row); bad rows go to the JSONL file `quarantine`. Raises
    UserError when no file is found or no row is good.
    """
    counts = _Counts()
    good = itertools.islice(_good(path, fmt, counts), limit)
    trajectories, sharing = fold(good)
    if quarantine is not None:
        _write_quarantine(counts.rejected, quarantine)
    reasons = Counter(row.reason for row in counts.rejected)
    if not trajectories:
        raise UserError(_nothing_read(path, reasons))
    kept, bad = counts.formats.total(), len(counts.rejected)
    return trajectories, ReadAudit(
        lines=kept + bad + counts.blank,
        read=kept,
        quarantined=bad,
        blank=counts.blank,
        reasons=dict(reasons),
        formats=dict(counts.formats),
        unheld=dict(counts.unheld),
        sharing=sharing if sharing.rows else None,
    )


def rows(path: str | Path, fmt: str = "auto") -> Iterator[Trajectory | Rejected | None]:
    """What each row of each file under `path` holds, in order; None for a blank line.

    Raises UserError when no file is found or `fmt` is unknown.
    """
    return (outcome.found for outcome in _outcomes(path, fmt))


def _good(path: str | Path, fmt: str, counts: _Counts) -> Iterator[Trajectory]:
    """The trajectories among the outcomes; counts every outcome as it passes."""
    for outcome in _outcomes(path, fmt):
        if outcome.found is None:
            counts.blank += 1
        elif isinstance(outcome.found, Rejected):
            counts.rejected.append(outcome.found)
        else:
            counts.formats[outcome.fmt] += 1
            counts.unheld += outcome.unheld
            yield outcome.found


def _outcomes(path: str | Path, fmt: str) -> Iterator[_Outcome]:
    """The outcome of each row, in order."""
    _check_format(fmt)
    seen: set[str] = set()
    for file in files.find(path):
        shared = contexts.beside(file)
        for line in files.lines(file):
            if not line.data.strip() and not line.truncated:
                yield _Outcome(None)
                continue
            for outcome in _records(line, fmt, shared):
                if isinstance(outcome.found, Trajectory) and outcome.found.id in seen:
                    outcome = _Outcome(_rejected(line, "duplicate_id"))
                elif isinstance(outcome.found, Trajectory):
                    seen.add(outcome.found.id)
                yield outcome


def _records(line: files.Line, fmt: str, shared: contexts.Contexts) -> Iterator[_Outcome]:
    """What a line holds: one record, or the runs of a tau2-bench result file."""
    try:
        if line.truncated:
            raise BadRow("truncated_file")
        row = _decode(line.data)
        records = simulations(row) if "simulations" in row else [row]
    except BadRow as problem:
        yield _Outcome(_rejected(line, str(problem)))
        return
    for record in records:
        try:
            record = contexts.resolved(record, shared)
            name = detect(record) if fmt == "auto" else fmt
            found = FORMATS[name](record, f"{line.file}:{line.number}")
            yield _Outcome(found, name, unheld(record))
        except BadRow as problem:
            yield _Outcome(_rejected(line, str(problem)))


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
    with files.writing(path) as out:
        out.writelines(json.dumps(dataclasses.asdict(row)) + "\n" for row in rejected)


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
