"""Reads a work directory, whole or half done."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pivotrl_jax.errors import UserError

STAGES = {
    "read": "read/**/audit.json",
    "candidates": "candidates/audit.json",
    "sft": "sft/metrics.jsonl",
    "profile": "profile/train/samples-*.parquet",
    "select": "select/table.parquet",
    "train": "train/metrics.jsonl",
    "evaluate": "evaluate/*.json",
}
TABLE_COLUMNS = [
    "candidate_id",
    "trajectory_id",
    "domain",
    "turn",
    "n",
    "mean",
    "variance",
    "wilson_low",
    "wilson_high",
    "status",
]
POLICIES = {"base": "Base", "sft": "SFT", "pivotrl": "PivotRL", "end_to_end": "End-to-end"}

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Artifacts:
    """What the stages left behind; None or empty where a stage has not run."""

    workdir: Path
    config: Row
    timing: list[Row]
    read_audit: Row | None
    candidates_audit: Row | None
    select_audit: Row | None
    profiles: list[Row]  # the later ones: number, step, reason, audit
    table: list[Row]  # select/table.parquet
    sft: list[Row]
    train: list[Row]
    policies: dict[str, Row]  # by name, in the order of POLICIES

    @property
    def domains(self) -> list[str]:
        config = self.config.get("config", {})
        return [config.get("domain", "–"), *config.get("others", {})]

    @property
    def missing(self) -> list[str]:
        """Stages without an artifact, in the order in which they run."""
        return [name for name, pattern in STAGES.items() if not any(self.workdir.glob(pattern))]


def load(workdir: Path) -> Artifacts:
    """Everything but the samples. Raises UserError for what is no work directory or is damaged."""
    if not workdir.is_dir():
        raise UserError(f"{workdir}: there is no such directory; give --workdir of a run.")
    config = _json(workdir / "config.json")
    if config is None:
        raise UserError(f"{workdir}: there is no config.json; give --workdir of a run.")
    policies = {name: _json(workdir / "evaluate" / f"{name}.json") for name in POLICIES}
    return Artifacts(
        workdir=workdir,
        config=config,
        timing=json_lines(workdir / "timing.jsonl"),
        read_audit=_read_audit(workdir / "read"),
        candidates_audit=_json(workdir / "candidates" / "audit.json"),
        select_audit=_json(workdir / "select" / "audit.json"),
        profiles=_profiles(workdir / "profile"),
        table=_table(workdir / "select" / "table.parquet"),
        sft=json_lines(workdir / "sft" / "metrics.jsonl"),
        train=json_lines(workdir / "train" / "metrics.jsonl"),
        policies={name: policy for name, policy in policies.items() if policy},
    )


def silent(status: Mapping[str, int]) -> tuple[int, int]:
    """Candidates without variance, and all that were judged, of counts by status."""
    judged = sum(count for name, count in status.items() if name not in ("error", "too_few"))
    return status.get("all_pass", 0) + status.get("all_fail", 0), judged


def json_lines(path: Path) -> list[Row]:
    """The rows of a file, [] if it is not there; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    # What follows the last newline is either nothing or a line that was never finished.
    return [_parse(path, number, line) for number, line in enumerate(lines[:-1], start=1)]


def samples(workdir: Path, columns: list[str], candidate_ids: list[str] | None = None) -> pa.Table:
    """Profiled samples of the training split, of all candidates or of those named."""
    chosen = None if candidate_ids is None else [("candidate_id", "in", candidate_ids)]
    files = sorted(workdir.glob(STAGES["profile"]))
    return pa.concat_tables([_parquet(file, columns, chosen) for file in files])


def _read_audit(directory: Path) -> Row | None:
    """The counts of all domains."""
    audits = [audit for path in sorted(directory.glob("**/audit.json")) if (audit := _json(path))]
    if not audits:
        return None
    reasons: Counter[str] = sum((Counter(audit["reasons"]) for audit in audits), Counter())
    counts = {name: sum(audit[name] for audit in audits) for name in ("lines", "read")}
    return counts | {"reasons": dict(reasons)}


def _profiles(directory: Path) -> list[Row]:
    found = []
    for path in directory.glob("*/reason.json"):
        audit = _json(path.parent / "select" / "audit.json")
        found.append((_json(path) or {}) | {"audit": audit or {}})
    return sorted(found, key=lambda profile: profile["number"])


def _table(path: Path) -> list[Row]:
    return _parquet(path, TABLE_COLUMNS).to_pylist() if path.exists() else []


def _parquet(path: Path, columns: list[str], filters: list[Any] | None = None) -> pa.Table:
    try:
        absent = set(columns) - set(pq.read_schema(path).names)
        if absent:
            raise _damaged(path, f"column {', '.join(sorted(absent))} is missing")
        return pq.read_table(path, columns=columns, filters=filters)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _json(path: Path) -> Row | None:
    return _parse(path, 1, path.read_text(encoding="utf-8")) if path.exists() else None


def _parse(path: Path, number: int, text: str) -> Row:
    try:
        return json.loads(text)
    except ValueError as error:
        raise _damaged(path, f"line {number} is not JSON") from error


def _damaged(path: Path, problem: object) -> UserError:
    return UserError(f"{path}: {problem}; move it away and run that stage again.")
