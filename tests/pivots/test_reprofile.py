"""The rule for profiling again, on hand-made and on random histories."""

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivotrl_jax.errors import UserError
from pivotrl_jax.pivots.reprofile import Profile, ReprofileSettings, due, profiles


def steps(*shares: float | None, name: str = "mixed_share") -> list[dict[str, float | None]]:
    return [{"step": i, "loss": 1.0, name: share} for i, share in enumerate(shares)]


THIRD = ReprofileSettings(mixed_share=1 / 3, window=2)


@pytest.mark.parametrize(
    ("shares", "reason"),
    [
        ([0.9, 0.6, 0.2, 0.2], "mixed_share fell to 0.2, below 0.333 of 0.75"),
        ([0.9, 0.6, 0.25, 0.25], None),  # a third exactly is not below
        ([0.9, 0.0, 0.0], None),  # start and present would overlap
        ([0.6, 0.6, 0.6, 0.1, 0.6], None),
        ([0.6, 0.6, 0.6, 0.6, 0.3, 0.0], "mixed_share fell to 0.15, below 0.333 of 0.6"),
        ([0.0, 0.0, 0.0, 0.0], None),
        ([math.nan, 0.6, 0.1, None], "mixed_share fell to 0.1, below 0.333 of 0.6"),
        ([0.6, 0.6, math.nan, None], None),
        ([None, None, 0.1, 0.1], None),
    ],
)
def test_a_share_of_the_start(shares: list[float | None], reason: str | None) -> None:
    assert due(steps(*shares), THIRD) == reason


def test_each_metric_has_its_own_fraction() -> None:
    history = steps(0.5, 0.1, name="reward_std")
    assert due(history, ReprofileSettings(mixed_share=0.9, window=1)) is None
    settings = ReprofileSettings(mixed_share=0.9, reward_std=0.5, window=1)
    assert due(history, settings) == "reward_std fell to 0.1, below 0.5 of 0.5"


def test_every_so_many_steps_and_never_by_default() -> None:
    settings = ReprofileSettings(every=3)
    assert [due(steps(*[0.5] * n), settings) for n in range(4)] == [
        None, None, None, "3 steps since the last profile",
    ]  # fmt: skip
    assert due(steps(*[1.0] * 20, *[0.0] * 20), ReprofileSettings()) is None


def test_a_run_is_divided_by_its_profiles() -> None:
    falling = [0.9, 0.9, 0.1, 0.1]
    history = steps(*falling, 0.8, 0.8, 0.8, *falling)
    found = profiles(history, ReprofileSettings(every=5, mixed_share=0.5, window=2))
    share = "mixed_share fell to 0.1, below 0.5 of 0.9"
    assert found == (
        Profile(0, 0, "before training"),
        Profile(1, 4, share),
        Profile(2, 9, "5 steps since the last profile"),
    )
    assert [profile.directory for profile in found] == ["profile/0", "profile/1", "profile/2"]


SHARES = st.lists(st.none() | st.floats(0, 1) | st.just(math.nan), max_size=60)


@given(SHARES, st.integers(1, 6), st.none() | st.integers(1, 20), st.floats(0.05, 0.95))
def test_a_resumed_run_finds_the_same_profiles(shares, window, every, fraction) -> None:
    settings = ReprofileSettings(every=every, mixed_share=fraction, window=window)
    history = steps(*shares)
    whole = profiles(history, settings)
    assert [profile.number for profile in whole] == list(range(len(whole)))
    for cut in range(len(history) + 1):
        kept = json.loads(json.dumps(history[:cut]))
        assert profiles(kept, settings) == tuple(p for p in whole if p.step <= cut)
    assert due(history[whole[-1].step :], settings) is None
    if every is not None:
        ends = [*(profile.step for profile in whole), len(history)]
        assert all(b - a <= every for a, b in itertools.pairwise(ends))


@pytest.mark.parametrize(
    "wrong", [{"every": 0}, {"window": 0}, {"mixed_share": 0.0}, {"reward_std": 1.0}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match="give"):
        ReprofileSettings(**wrong)
