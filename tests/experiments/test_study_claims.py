"""What a measured difference says of a claim, and which claims the arms of a study speak to."""

import pytest

from experiments.studies.claims import findings, judged
from pivotrl_jax.evaluation.bootstrap import Interval

NAN = float("nan")


@pytest.mark.parametrize(
    ("low", "high", "slack", "verdict"),
    [
        (0.01, 0.2, 0, "reproduced"),
        (-0.01, 0.2, 0, "undecided"),
        (-0.2, -0.01, 0, "not reproduced"),
        (0.0, 0.0, 0, "undecided"),
        (-0.04, 0.02, 0.05, "reproduced"),
        (-0.06, 0.02, 0.05, "undecided"),
        (-0.04, -0.01, 0.05, "not reproduced"),
        (NAN, NAN, 0.05, "undecided"),
    ],
)
def test_a_verdict_follows_the_interval(low, high, slack, verdict):
    assert judged(Interval((low + high) / 2, low, high), slack) == verdict


def between(low: float, high: float) -> dict[str, float]:
    return {"mean": (low + high) / 2, "low": low, "high": high}


def reached(*rates: float) -> dict[str, dict]:
    """Greedy win rates by seed."""
    return {str(seed): {"in_domain": {"greedy": rate}} for seed, rate in enumerate(rates)}


@pytest.mark.parametrize(
    ("ours", "verdict"), [((0.5, 0.6), "reproduced"), ((0.5, 0.1), "undecided")]
)
def test_seeds_of_both_signs_decide_nothing(ours, verdict):
    ahead = {"below_pivotrl": between(0.1, 0.2)}
    summary = {
        "sft": {"seeds": reached(0.2, 0.2, 0.9), "means": {"in_domain/greedy": ahead}},
        "pivotrl": {"seeds": reached(*ours), "means": {}},
    }
    (found,) = findings(summary)
    assert found.verdict == verdict


def arm(turns: dict[str, int], **means: dict) -> dict:
    """`turns` of training by seed; a profile has 50 more."""
    seeds = {seed: {"turns": {"training": n, "profile": 50}} for seed, n in turns.items()}
    return {"seeds": seeds, "means": {name.replace("__", "/"): own for name, own in means.items()}}


def test_each_claim_takes_its_own_difference():
    lost = {"below_pivotrl": between(0.1, 0.2), "change": between(-0.3, -0.2)}
    kept = {"below_pivotrl": between(0, 0), "change": between(-0.04, 0.01)}
    summary = {
        "sft": arm({}, ood=lost, in_domain__greedy=lost),
        "pivotrl": arm({}, ood=kept),
        "neither": arm({}, in_domain__sampled=lost | {"below_pivotrl": None}),
    }
    found = {(each.claim, each.measured): each for each in findings(summary)}
    assert {key: each.verdict for key, each in found.items()} == {
        ("PivotRL above SFT in domain", "in_domain/greedy"): "reproduced",
        ("PivotRL above SFT out of domain", "ood"): "reproduced",
        ("PivotRL out of domain no worse than Base", "ood"): "reproduced",
        ("Strict match on random turns above Base", "in_domain/sampled"): "not reproduced",
    }
    assert found["PivotRL above SFT out of domain", "ood"].value == Interval(
        *between(0.1, 0.2).values()
    )


@pytest.mark.parametrize(
    ("spent", "value", "verdict"),
    [
        ({"0": 500, "1": 300}, "4.0 (2.7 with the profile)", "reproduced"),
        ({"0": 500, "1": 200}, "3.5 (2.3 with the profile)", "not reproduced"),
        ({"1": 500, "2": 9999}, "5.0 (3.3 with the profile)", "reproduced"),
    ],
)
def test_turns_are_of_the_seeds_that_both_have(spent, value, verdict):
    summary = {"pivotrl": arm({"0": 100, "1": 100}), "end_to_end": arm(spent)}
    (found,) = findings(summary)
    assert (found.value, found.verdict) == (value, verdict)


@pytest.mark.parametrize("gone", ["pivotrl", "end_to_end"])
def test_turns_need_both_arms(gone):
    summary = {"pivotrl": arm({"0": 100}), "end_to_end": arm({"0": 500})}
    assert not findings({name: own for name, own in summary.items() if name != gone})
