"""What the verifiers said of the profiled samples."""

from collections import Counter

from experiments.reports.data import Artifacts, Row, samples

MOST = 12  # rows; the rest is one


def reason_rows(run: Artifacts) -> list[Row]:
    """Samples of the training profile by what was said of them, the most frequent first.

    Each row has the `reason` and how many samples were `accepted`, `rejected` and `unjudged`
    (truncated, or with an error of the verifier).
    """
    if "profile" in run.missing:
        return []
    table = samples(run.workdir, ["reason", "error", "reward"]).to_pylist()
    counts: dict[str, Counter[str]] = {}
    for sample in table:
        counts.setdefault(_kind(sample["error"] or sample["reason"]), Counter())[_said(sample)] += 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1].total(), item[0]))
    rows = [_row(reason, own) for reason, own in ordered[:MOST]]
    rest = ordered[MOST:]
    if rest:
        total = sum((own for _, own in rest), Counter())
        rows.append(_row(f"{len(rest)} other reasons", total))
    return rows


def _kind(reason: str) -> str:
    """A reason without what it quotes of the sample, which stands behind a colon or in brackets."""
    return reason.split(":")[0].split(" (")[0]


def _said(sample: Row) -> str:
    if sample["error"] is not None:
        return "unjudged"
    return "accepted" if sample["reward"] > 0 else "rejected"


def _row(reason: str, counts: Counter[str]) -> Row:
    return {"reason": reason} | {
        name: counts[name] for name in ("accepted", "rejected", "unjudged")
    }
