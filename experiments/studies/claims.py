"""The paper's claims, each with the measured difference and what it allows one to say."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from experiments.reports.verdict import interval
from experiments.studies.summary import PIVOTRL
from pivotrl_jax.evaluation.bootstrap import Interval

NO_WORSE = 0.05  # how far below zero a "no worse" may reach
FEWER = 4  # times fewer rollout turns than end-to-end RL

REPRODUCED, NOT_REPRODUCED, UNDECIDED = "reproduced", "not reproduced", "undecided"
WINS = ("in_domain/greedy", "in_domain/sampled")
RULE = (
    "A claim of a difference is reproduced where the 95 % interval lies above zero, not reproduced "
    "where it lies below, and undecided where it holds zero or where seeds differ in sign. A claim "
    "of no loss (“no worse”) is reproduced where the interval lies above "
    f"−{100 * NO_WORSE:.0f} points and not wholly below zero."
)
RULE_OF_TURNS = f"That of turns is a count: {FEWER} times fewer, as the settings have it."

Row = dict[str, Any]
Summary = Row  # what `summary.summary` makes


@dataclasses.dataclass(frozen=True)
class Claim:
    """That of `arm`, the difference `of` something is above zero; with `no_worse`, not below.

    `of` is "below_pivotrl" (PivotRL minus the arm) or "change" (the arm minus Base). `paper` is the
    paper's own figure, in points.
    """

    text: str
    arm: str
    measured: tuple[str, ...]
    paper: str
    of: Literal["below_pivotrl", "change"] = "below_pivotrl"
    no_worse: bool = False


CLAIMS = (
    Claim("PivotRL above SFT in domain", "sft", WINS, "+4.17"),
    Claim("PivotRL above SFT out of domain", "sft", ("ood",), "+10.04"),
    Claim("PivotRL out of domain no worse than Base", "pivotrl", ("ood",), "+0.21", "change", True),
    Claim(
        "PivotRL in domain no worse than end-to-end RL", "end_to_end", WINS, "0.00", no_worse=True
    ),
    Claim("Pivots matter: above random turns", "no_filter", WINS, "+4.13"),
    Claim("The functional reward matters: above strict match", "strict", WINS, "–"),
    Claim("Both matter: above strict match on random turns", "neither", WINS, "+6.47"),
    Claim("Random turns above Base", "no_filter", WINS, "+15.33", "change"),
    Claim("Strict match above Base", "strict", WINS, "–", "change"),
    Claim("Strict match on random turns above Base", "neither", WINS, "+12.99", "change"),
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """A claim as it was measured in one way: a difference in points, or a count as text."""

    claim: str
    measured: str
    paper: str
    value: Interval | str
    verdict: str


def rule(findings: Sequence[Finding]) -> str:
    """How the verdicts came about."""
    counted = any(isinstance(found.value, str) for found in findings)
    return f"{RULE} {RULE_OF_TURNS}" if counted else RULE


def findings(summary: Summary) -> list[Finding]:
    """Every claim that the arms of the study can speak to."""
    differences = [finding for claim in CLAIMS for finding in _of(claim, summary)]
    return differences + list(_turns(summary))


def _of(claim: Claim, summary: Summary) -> Iterator[Finding]:
    means = summary.get(claim.arm, {}).get("means", {})
    for name in claim.measured:
        entry = means.get(name, {}).get(claim.of)
        if entry is not None:
            found = interval(entry)
            verdict = judged(found, NO_WORSE if claim.no_worse else 0)
            if not claim.no_worse and _of_both_signs(_by_seed(claim, name, summary)):
                verdict = UNDECIDED
            yield Finding(claim.text, name, claim.paper, found, verdict)


def _by_seed(claim: Claim, measured: str, summary: Summary) -> list[float]:
    """The claim's difference in each seed that both arms have."""
    other = PIVOTRL if claim.of == "below_pivotrl" else next(iter(summary))
    own, others = ({s: _reached(run, measured) for s, run in summary[name]["seeds"].items()}
                   for name in (claim.arm, other))  # fmt: skip
    sign = -1 if claim.of == "below_pivotrl" else 1
    return [sign * (own[seed] - others[seed]) for seed in own.keys() & others.keys()]


def _reached(run: Row, measured: str) -> float:
    if measured == "ood":
        return run["ood"]["mean"]
    return run["in_domain"][measured.removeprefix("in_domain/")]


def _of_both_signs(differences: Sequence[float]) -> bool:
    return any(x > 0 for x in differences) and any(x < 0 for x in differences)


def judged(found: Interval, slack: float) -> str:
    """What an interval says of "above zero", or with a `slack` of "no worse than zero"."""
    if found.high < 0:
        return NOT_REPRODUCED
    return REPRODUCED if found.low > -slack else UNDECIDED


def _turns(summary: Summary) -> Iterator[Finding]:
    """Rollout turns of end-to-end RL over PivotRL's, of the seeds that both have."""
    if not {"pivotrl", "end_to_end"} <= summary.keys():
        return
    ours, theirs = (summary[name]["seeds"] for name in ("pivotrl", "end_to_end"))
    seeds = ours.keys() & theirs.keys()
    training, profile = (
        sum(ours[s]["turns"][part] for s in seeds) for part in ("training", "profile")
    )
    spent = sum(theirs[s]["turns"]["training"] for s in seeds)
    if training:
        value = f"{spent / training:.1f} ({spent / (training + profile):.1f} with the profile)"
        verdict = REPRODUCED if spent >= FEWER * training else NOT_REPRODUCED
        yield Finding("PivotRL takes fewer rollout turns", "times fewer", "4.1", value, verdict)
