"""The data of the pivot browser: candidates with history, expert action and samples."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from markupsafe import Markup

from experiments.reports.data import Artifacts, Row, samples

CANDIDATES = 200
HISTORY_CHARS = 12_000  # of one candidate, the latest messages first
MESSAGE_CHARS = 3_000
ACTION_CHARS = 2_000
SAMPLES = 32
SAMPLE_COLUMNS = [
    "candidate_id",
    "sample",
    "text",
    "length",
    "truncated",
    "malformed",
    "criteria",
    "reason",
    "error",
    "reward",
]


def payload(run: Artifacts) -> Row:
    """{"candidates": [...], "profiled": total}, at most CANDIDATES of them, all pivots first."""
    chosen = choose(run.table)
    ids = [row["candidate_id"] for row in chosen]
    texts = _texts(run.workdir / "candidates" / "candidates_text.jsonl", set(ids))
    drawn = _samples(run, ids)
    return {
        "profiled": len(run.table),
        "candidates": [
            {
                "id": row["candidate_id"],
                "trajectory": row["trajectory_id"],
                "turn": row["turn"],
                "domain": row["domain"],
                "status": row["status"],
                "n": row["n"],
                "mean": row["mean"],
                "variance": row["variance"],
                "wilson": [row["wilson_low"], row["wilson_high"]],
                "samples": drawn.get(row["candidate_id"], []),
                **texts.get(row["candidate_id"], {"history": [], "left_out": 0, "expert": ""}),
            }
            for row in chosen
        ],
    }


def choose(table: list[Row], limit: int = CANDIDATES) -> list[Row]:
    """All pivots by falling variance, then the other statuses in turn until `limit`."""
    ordered = sorted(
        table, key=lambda row: (-row["variance"] if row["n"] else 0.0, row["candidate_id"])
    )
    seen: Counter[str] = Counter()
    ranked = []
    for row in ordered:
        ranked.append((row["status"] != "pivot", seen[row["status"]], row["candidate_id"], row))
        seen[row["status"]] += 1
    return [row for *_, row in sorted(ranked, key=lambda entry: entry[:3])[:limit]]


def script_json(value: Any) -> Markup:
    """JSON for a <script> element: no text in it can end the element or open a comment."""
    text = json.dumps(_without_nan(value), allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def clip(text: str, limit: int) -> str:
    """The start and the end of `text`, with the number of characters left out between them."""
    if len(text) <= limit:
        return text
    head, tail = text[: limit * 2 // 3], text[-(limit // 3) :]
    return f"{head}\n[… {len(text) - len(head) - len(tail):,} characters left out …]\n{tail}"


def _texts(path: Path, ids: set[str]) -> dict[str, Row]:
    if not path.exists():
        return {}
    with path.open(encoding="utf-8") as file:
        rows = (json.loads(line) for line in file)
        return {row["candidate_id"]: _text(row) for row in rows if row["candidate_id"] in ids}


def _text(row: Row) -> Row:
    history: list[Row] = []
    room = HISTORY_CHARS
    for message in reversed(row["history"]):
        content = clip(str(message["content"]), MESSAGE_CHARS)
        if history and len(content) > room:
            break
        history.insert(0, {"role": message["role"], "content": content})
        room -= len(content)
    left_out = len(row["history"]) - len(history)
    return {"history": history, "left_out": left_out, "expert": clip(row["expert"], ACTION_CHARS)}


def _samples(run: Artifacts, ids: list[str]) -> dict[str, list[Row]]:
    if not ids or "profile" in run.missing:
        return {}
    drawn: dict[str, list[Row]] = {}
    for row in samples(run.workdir, SAMPLE_COLUMNS, ids).sort_by("sample").to_pylist():
        group = drawn.setdefault(row.pop("candidate_id"), [])
        if len(group) < SAMPLES:
            row["text"] = clip(row["text"], ACTION_CHARS)
            row["criteria"] = json.loads(row["criteria"] or "{}")
            group.append(row)
    return drawn


def _without_nan(value: Any) -> Any:
    """JSON has no NaN, and a browser refuses to parse one."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and value != value else value
