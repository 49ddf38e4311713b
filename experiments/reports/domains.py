"""What the report says of each domain, and of each profile, where a run has several."""

from collections.abc import Mapping

from experiments.reports.data import POLICIES, Artifacts, Row, silent
from experiments.reports.verdict import bounds, interval, signed


def domain_rows(run: Artifacts) -> list[Row]:
    """Per domain its candidates, silent turns, pivots and each policy's held-out reward."""
    if len(run.domains) < 2:
        return []
    return [
        {
            "name": name,
            "candidates": _candidates(run, name),
            "silent": _silent((run.select_audit or {}).get("domain", {}).get(name, {})),
            "pivots": f"{(run.select_audit or {}).get('selected_by_domain', {}).get(name, 0):,}",
            "rewards": [_reward(policy["domains"][name]) for policy in run.policies.values()],
            "change": _change(run, name),
        }
        for name in run.domains
    ]


def domain_head(run: Artifacts) -> list[str]:
    names = [POLICIES[name] for name in run.policies]
    change = f"PivotRL − {POLICIES[_before(run)]}"
    return ["Domain", "Train + held out", "Zero variance", "Pivots", *names, change]


def profile_rows(run: Artifacts) -> list[Row]:
    """One row per profile of the policy, if it was profiled again."""
    if not run.profiles:
        return []
    first = {"number": 0, "step": 0, "reason": "before training", "audit": run.select_audit or {}}
    return [
        {key: own[key] for key in ("number", "step", "reason")}
        | {
            "silent": _silent(own["audit"].get("status", {})),
            "pivots": f"{own['audit'].get('selected', 0):,}",
        }
        for own in [first, *run.profiles]
    ]


def _candidates(run: Artifacts, name: str) -> str:
    audit = (run.candidates_audit or {}).get("by_domain", {}).get(name)
    return f"{audit['by_split']['train']:,} + {audit['by_split']['heldout']:,}" if audit else "–"


def _silent(status: Mapping[str, int]) -> str:
    flat, judged = silent(status)
    return f"{flat:,} of {judged:,} ({flat / judged:.0%})" if judged else "–"


def _before(run: Artifacts) -> str:
    """The policy that PivotRL started from."""
    return "sft" if "sft" in run.policies else "base"


def _reward(scores: Row) -> str:
    entry = scores["heldout"]
    return "–" if entry["mean"] is None else f"{entry['mean']:.3f} {bounds(interval(entry))}"


def _change(run: Artifacts, name: str) -> str:
    """PivotRL against the policy before it, paired by candidate."""
    scores = run.policies.get("pivotrl", {}).get("domains", {}).get(name, {})
    entry = scores.get("against", {}).get(_before(run), {}).get("heldout")
    if not entry or entry["mean"] is None:
        return "–"
    return f"{signed(entry['mean'])} {bounds(interval(entry))}"
