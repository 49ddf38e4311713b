"""What the numbers allow one to say, in one sentence each."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from experiments.reports.data import POLICIES
from pivotrl_jax.evaluation.bootstrap import Interval

Policies = dict[str, dict[str, Any]]


def sentences(policies: Policies) -> list[str]:
    """Each policy against the one before it, the last ones first: win rates, held-out rewards, and
    then retention, as far as they were measured."""
    played = [
        _win_rates(after, before, changes)
        for after, before in _steps(list(policies))
        if (changes := policies[after].get("against", {}).get(before, {}).get("episodes"))
    ]
    measured = [name for name, policy in policies.items() if _has_reward(policy)]
    rewarded = [_comparison(policies, after, before) for after, before in _steps(measured)]
    found = played + rewarded + _retention(policies)
    if not {"pivotrl", "end_to_end"} & set(measured):
        found.insert(0, "PivotRL has not been evaluated in this work directory yet.")
    # A line may not break between a number and its per cent sign.
    return [text.replace(" %", "\N{NO-BREAK SPACE}%") for text in found]


def _steps(there: Sequence[str]) -> list[tuple[str, str]]:
    """Policies with the one before each, the last ones first."""
    ordered = [name for name in POLICIES if name in there]
    return [(after, before) for before, after in reversed(list(pairwise(ordered)))]


def _win_rates(after: str, before: str, changes: dict[str, dict[str, Any]]) -> str:
    told = " and by ".join(
        f"{signed(change.mean)} {bounds(change)} {mode} ({_judgement(change)})"
        for mode, change in ((mode, interval(entry)) for mode, entry in changes.items())
    )
    return (
        f"{POLICIES[after]} changed the win rate against {POLICIES[before]} by {told}; "
        "tasks are paired."
    )


def difference(policies: Policies, after: str, before: str) -> tuple[Interval, bool]:
    """Held-out reward of `after` minus `before`, and whether candidates were paired.

    The evaluation stores paired differences under `against`. Without them the two separate
    intervals are combined as if the policies had met different candidates, which is wider.
    """
    paired = policies[after].get("against", {}).get(before, {}).get("heldout")
    if paired:
        return interval(paired), True
    new, old = interval(policies[after]["heldout"]), interval(policies[before]["heldout"])
    mean = new.mean - old.mean
    below = math.hypot(new.mean - new.low, old.high - old.mean)
    above = math.hypot(new.high - new.mean, old.mean - old.low)
    return Interval(mean, mean - below, mean + above), False


def interval(entry: dict[str, Any]) -> Interval:
    """The interval of an evaluation entry; an absent bound is NaN."""
    low, high = entry.get("low"), entry.get("high")
    return Interval(
        entry["mean"], math.nan if low is None else low, math.nan if high is None else high
    )


def signed(value: float, digits: int = 3) -> str:
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def retention_change(policies: Policies, name: str, text_set: str) -> float | None:
    """Relative change of perplexity against the base policy; above 0 is forgetting."""
    before = policies.get("base", {}).get("perplexity", {}).get(text_set)
    after = policies[name].get("perplexity", {}).get(text_set)
    if not before or not after:
        return None
    return after["perplexity"] / before["perplexity"] - 1


def _has_reward(policy: dict[str, Any]) -> bool:
    return (policy.get("heldout") or {}).get("mean") is not None


def _comparison(policies: Policies, after: str, before: str) -> str:
    change, paired = difference(policies, after, before)
    size = policies[after]["heldout"]
    how = "paired by candidate" if paired else "from the two separate intervals, not paired"
    return (
        f"{POLICIES[after]} changed held-out reward by {signed(change.mean)} "
        f"{bounds(change)} against {POLICIES[before]}: {_judgement(change)} "
        f"({size['n_candidates']} candidates of {size['n_trajectories']} trajectories, {how})."
    )


def _judgement(change: Interval) -> str:
    if math.isnan(change.low):
        return "one trajectory alone gives no interval, so nothing can be concluded"
    if not change.excludes_zero:
        return "not distinguishable from zero at this size"
    return (
        "better, zero lies outside the 95 % interval"
        if change.mean > 0
        else ("worse, zero lies outside the 95 % interval")
    )


def bounds(entry: Interval) -> str:
    """For example "[−0.010, 0.070]"."""
    if math.isnan(entry.low):
        return "[no interval]"
    return f"[{entry.low:.3f}, {entry.high:.3f}]".replace("-", "−")


def _retention(policies: Policies) -> list[str]:
    """What the last policy lost: answers to questions or, where none were asked, perplexity."""
    name = next((name for name in reversed(POLICIES) if name in policies and name != "base"), None)
    if name is None:
        return []
    suites = policies[name].get("against", {}).get("base", {}).get("suites")
    return [_answers(name, suites)] if suites else _perplexity(policies, name)


def _answers(name: str, suites: dict[str, Any]) -> str:
    change = interval(suites["mean"])
    return (
        f"Retention: {POLICIES[name]} changed out-of-domain accuracy by {signed(change.mean)} "
        f"{bounds(change)} against Base: {_judgement(change)} (mean of {len(suites) - 1} suites, "
        "paired by question)."
    )


def _perplexity(policies: Policies, name: str) -> list[str]:
    """The out-of-domain set on which the policy moved most."""
    changes = {
        text_set: change
        for text_set in policies[name].get("perplexity", {})
        if (change := retention_change(policies, name, text_set)) is not None
    }
    if not changes:
        return []
    worst = max(changes, key=lambda text_set: changes[text_set])
    return [
        f"Retention: of {len(changes)} out-of-domain sets, perplexity after {POLICIES[name]} rose "
        f"most on {worst}, by {signed(100 * changes[worst], 1)} % against Base."
        if changes[worst] > 0
        else f"Retention: perplexity after {POLICIES[name]} rose on none of the "
        f"{len(changes)} out-of-domain sets."
    ]
