"""Which profiled candidates are pivots (paper eq. 5), and what became of the others."""

import collections
import dataclasses
import difflib
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pivotrl_jax.errors import UserError

_DEPTHS = ((0, "0-1"), (2, "2-4"), (5, "5-9"), (10, "10+"))


@dataclasses.dataclass(frozen=True)
class SelectionSettings:
    """Eq. 5 keeps variance > `min_variance` and mean < `threshold`.

    `min_samples`: valid samples below which a candidate is not judged. `keep_all_zero` also keeps
    the candidates that always failed. `criterion` "random" draws as many judged candidates as
    "pivot" would keep, with `seed`; "all" keeps every judged candidate (both are ablations).
    """

    threshold: float = 0.6
    min_variance: float = 0.0
    min_samples: int = 2
    keep_all_zero: bool = False
    criterion: Literal["pivot", "random", "all"] = "pivot"
    seed: int = 0

    def __post_init__(self) -> None:
        valid = ("pivot", "random", "all")
        if self.criterion not in valid:
            nearest = difflib.get_close_matches(self.criterion, valid, n=1, cutoff=0.0)[0]
            raise UserError(
                f"unknown criterion {self.criterion!r}: use one of {', '.join(valid)} "
                f"(nearest is {nearest!r})"
            )


def select(table: pa.Table, settings: SelectionSettings, *, allow_empty: bool = False) -> pa.Table:
    """Adds `status` (what the profile says) and `selected` (whether to train on it).

    `table` is that of `statistics.candidate_table`. Status is one of pivot, too_easy (mixed, but
    mean >= threshold), all_pass and all_fail (variance <= min_variance, mean above or below one
    half), too_few and error (no valid sample at all). UserError if nothing is selected, unless
    `allow_empty`.
    """
    n, mean, variance = (table[name].to_numpy() for name in ("n", "mean", "variance"))
    status = np.select(
        [
            n == 0,
            n < settings.min_samples,
            (variance <= settings.min_variance) & (mean < 0.5),
            variance <= settings.min_variance,
            mean < settings.threshold,
        ],
        ["error", "too_few", "all_fail", "all_pass", "pivot"],
        default="too_easy",
    )
    selected = _selected(status, settings)
    table = table.append_column("status", pa.array(status)).append_column(
        "selected", pa.array(selected)
    )
    if not selected.any() and not allow_empty:
        raise UserError(nothing_selected(table, settings))
    return table


def _selected(status: np.ndarray, settings: SelectionSettings) -> np.ndarray:
    judged = ~np.isin(status, ["error", "too_few"])
    kept = ["pivot", "all_fail"] if settings.keep_all_zero else ["pivot"]
    pivots = np.isin(status, kept)
    if settings.criterion == "pivot":
        return pivots
    if settings.criterion == "all":
        return judged
    drawn = np.random.default_rng(settings.seed).choice(
        np.flatnonzero(judged), pivots.sum(), replace=False
    )
    return np.isin(np.arange(len(status)), drawn)


def nothing_selected(table: pa.Table, settings: SelectionSettings) -> str:
    """Why `select` took no candidate of `table`, and what may help."""
    status = table["status"].to_pylist()
    counts = ", ".join(f"{count} {name}" for name, count in sorted(_counts(status).items()))
    return (
        f"no candidate was selected out of {len(status)} ({counts or 'none profiled'}; "
        f"threshold {settings.threshold}, min_variance {settings.min_variance}): "
        "if most are all_fail, warm-start longer; if most are all_pass, raise the sampling "
        "temperature; if most are too_easy, raise the threshold; if most are error or too_few, "
        "whose samples have no verdict, raise sampling.max_tokens where they are truncated; "
        "otherwise profile more samples K per candidate"
    )


def audit(table: pa.Table) -> dict[str, Any]:
    """Counts by status: overall, per domain and per depth bucket of `turn`; JSON-ready."""
    status, selected = table["status"].to_pylist(), table["selected"].to_pylist()
    domains, turns = table["domain"].to_pylist(), table["turn"].to_pylist()
    return {
        "candidates": len(status),
        "selected": sum(selected),
        "selected_by_domain": {
            domain: sum(s for d, s in zip(domains, selected, strict=True) if d == domain)
            for domain in dict.fromkeys(domains)
        },
        "status": _counts(status),
        "domain": _counts_by(domains, status),
        "depth": _counts_by([_depth(turn) for turn in turns], status),
    }


def _counts(values: Any) -> dict[str, int]:
    return dict(collections.Counter(map(str, values)))


def _counts_by(keys: list[str], status: list[str]) -> dict[str, dict[str, int]]:
    return {
        key: _counts(s for k, s in zip(keys, status, strict=True) if k == key)
        for key in dict.fromkeys(keys)
    }


def _depth(turn: int) -> str:
    return next(label for start, label in reversed(_DEPTHS) if turn >= start)
