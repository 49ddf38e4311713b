"""What the report says of each domain, and of each profile, where a run has several."""

from collections import Counter

from experiments.report_data import POLICIES, Artifacts, Row
from experiments.report_verdict import bounds, interval, signed

SILENT, MIXED = ("all_pass", "all_fail"), ("pivot", "too_easy")


def domain_rows(run: Artifacts) -> list[Row]:
    """Per domain its candidates, silent turns, pivots and each policy's held-out reward."""
    if len(run.domains) < 2:
        return []
    return [
        {
            "name": name,
            "candidates": _candidates(run, name),
            **_outcome(Counter((run.select_audit or {}).get("domain", {}).get(name, {}))),
            "rewards": [_reward(policy["domains"][name]) for policy in run.policies.values()],
            "change": _change(run, name),
        }
        for name in run.domains
    ]


def domain_head(run: Artifacts) -> list[str]:
    names = [POLICIES[name] for name in run.policies]
    return ["Domain", "Train + held out", "Zero variance", "Pivots", *names, "PivotRL − SFT"]


def profile_rows(run: Artifacts) -> list[Row]:
    """One row per profile of the policy, if it was profiled again."""
    if not run.profiles:
        return []
    first = {"number": 0, "step": 0, "reason": "before training", "audit": run.select_audit or {}}
    return [
        {key: own[key] for key in ("number", "step", "reason")}
        | _outcome(Counter(own["audit"].get("status", {})))
        for own in [first, *run.profiles]
    ]


def _candidates(run: Artifacts, name: str) -> str:
    audit = (run.candidates_audit or {}).get("by_domain", {}).get(name)
    return f"{audit['by_split']['train']:,} + {audit['by_split']['heldout']:,}" if audit else "–"


def _outcome(status: Counter[str]) -> Row:
    silent = sum(status[name] for name in SILENT)
    scored = silent + sum(status[name] for name in MIXED)
    share = f"{silent:,} of {scored:,} ({silent / scored:.0%})" if scored else "–"
    return {"silent": share, "pivots": f"{status['pivot']:,}"}


def _reward(scores: Row) -> str:
    entry = scores["heldout"]
    return "–" if entry["mean"] is None else f"{entry['mean']:.3f} {bounds(interval(entry))}"


def _change(run: Artifacts, name: str) -> str:
    """PivotRL against SFT, paired by candidate."""
    scores = run.policies.get("pivotrl", {}).get("domains", {}).get(name, {})
    entry = scores.get("against", {}).get("sft", {}).get("heldout")
    if not entry or entry["mean"] is None:
        return "–"
    return f"{signed(entry['mean'])} {bounds(interval(entry))}"
