"""Statistics and selection against hand-computed tables and brute force."""

import dataclasses
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.pivots import SelectionSettings, audit, candidate_table, select, wilson


def profile(
    groups: Mapping[str, Sequence[float | None]], errors: dict[str, int] | None = None
) -> pa.Table:
    """The candidate table of groups of rewards; `errors` adds samples without a verdict."""
    rows: list[tuple[str, float | None, str | None]]
    rows = [(name, reward, None) for name, rewards in groups.items() for reward in rewards]
    rows += [(name, None, "judge failed") for name, n in (errors or {}).items() for _ in range(n)]
    samples = pa.table(
        {
            "candidate_id": [row[0] for row in rows],
            "reward": pa.array([row[1] for row in rows], pa.float64()),
            "error": pa.array([row[2] for row in rows], pa.string()),
        }
    )
    names = sorted({row[0] for row in rows}, reverse=True)
    candidates = pa.table(
        {
            "candidate_id": names,
            "trajectory_id": [f"t-{name}" for name in names],
            "domain": ["sql" if name < "c" else "coding" for name in names],
            "turn": [3 * i for i in range(len(names))],
        }
    )
    return candidate_table(samples, candidates)


def statuses(table: pa.Table) -> dict[str, str]:
    return dict(zip(table["candidate_id"].to_pylist(), table["status"].to_pylist(), strict=True))


# By hand with z = 1.96: z^2 / (n + z^2) bounds 0 of n, 1/2 +- z / (2 sqrt(n + z^2)) half of n.
@pytest.mark.parametrize(
    ("passed", "total", "low", "high"),
    [
        (0, 8, 0.0, 3.8416 / 11.8416),
        (8, 8, 8 / 11.8416, 1.0),
        (4, 8, 0.215212, 0.784788),
        (1, 16, 0.011119, 0.283293),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_matches_the_hand_computed_table(passed, total, low, high) -> None:
    assert wilson(passed, total) == (pytest.approx(low, abs=2e-6), pytest.approx(high, abs=2e-6))


def test_wilson_ends_solve_the_score_equation() -> None:
    passed, total = np.array([1.0, 3.0, 7.0, 12.0]), np.array([16, 16, 9, 13])
    for end in wilson(passed, total):
        deviation = np.abs(passed / total - end)
        np.testing.assert_allclose(deviation, 1.96 * np.sqrt(end * (1 - end) / total), rtol=1e-9)


def test_statistics_match_the_standard_library() -> None:
    rng = np.random.default_rng(0)
    groups = {f"{i:03d}": rng.random(rng.integers(1, 9)).tolist() for i in range(50)}
    table = profile(groups, errors={"007": 3, "020": 1})
    assert table["candidate_id"].to_pylist() == sorted(groups)
    for row in table.to_pylist():
        rewards = groups[row["candidate_id"]]
        assert row["n"] == len(rewards)
        assert row["mean"] == pytest.approx(statistics.fmean(rewards))
        assert row["variance"] == pytest.approx(statistics.pvariance(rewards), abs=1e-12)
        assert row["trajectory_id"] == f"t-{row['candidate_id']}"


@pytest.mark.parametrize("reward", [0.1, 0.3, 0.7])
def test_equal_rewards_have_no_variance(reward: float) -> None:
    assert profile({"a": [reward] * 7})["variance"].to_pylist() == [0.0]


def test_errors_leave_the_group_and_are_not_zeros() -> None:
    table = profile({"a": [1.0, 1.0, 0.0], "b": [None, 1.0, 0.0]}, errors={"a": 5})
    assert table["n"].to_pylist() == [3, 2]
    assert table["mean"].to_pylist() == [pytest.approx(2 / 3), 0.5]


def test_selection_matches_brute_force_over_all_binary_groups() -> None:
    groups = {
        "".join(map(str, bits)): list(map(float, bits))
        for bits in itertools.product((0, 1), repeat=5)
    }
    table = select(profile(groups), SelectionSettings(threshold=0.6))
    chosen = {name for name, rewards in groups.items() if 0 < sum(rewards) < 3}
    assert {n for n, status in statuses(table).items() if status == "pivot"} == chosen
    assert table["selected"].to_pylist() == [name in chosen for name in sorted(groups)]


EXAMPLE = {"a": [1.0, 1.0], "b": [0.0, 0.0], "c": [1.0, 0.0], "d": [1.0, 1.0, 0.0], "e": [0.0]}


def test_every_status_is_given() -> None:
    table = select(profile(EXAMPLE, errors={"f": 2}), SelectionSettings())
    assert statuses(table) == {
        "a": "all_pass",
        "b": "all_fail",
        "c": "pivot",
        "d": "too_easy",
        "e": "too_few",
        "f": "error",
    }


def test_the_threshold_is_strict_and_the_variance_bound_too() -> None:
    groups = {"a": [1.0, 1.0, 1.0, 0.0, 0.0], "b": [1.0, 0.0, 0.0, 0.0, 0.0]}
    assert statuses(select(profile(groups), SelectionSettings(threshold=0.6)))["a"] == "too_easy"
    settings = SelectionSettings(threshold=0.7, min_variance=0.17)
    assert statuses(select(profile(groups), settings)) == {"a": "pivot", "b": "all_fail"}


def test_switches() -> None:
    table = profile(EXAMPLE)

    def chosen(**changes) -> set[str]:
        result = select(table, dataclasses.replace(SelectionSettings(), **changes))
        rows = result.to_pylist()
        return {row["candidate_id"] for row in rows if row["selected"]}

    assert chosen(keep_all_zero=True) == {"b", "c"}
    assert chosen(criterion="all") == {"a", "b", "c", "d"}
    drawn = [chosen(criterion="random", keep_all_zero=True, seed=seed) for seed in range(40)]
    assert {len(names) for names in drawn} == {2}
    assert set().union(*drawn) == {"a", "b", "c", "d"}
    assert drawn[3] == chosen(criterion="random", keep_all_zero=True, seed=3)


def test_an_empty_selection_says_what_to_change() -> None:
    with pytest.raises(UserError, match=r"2 all_fail.*warm-start.*temperature.*threshold.*K per"):
        select(profile({"a": [0.0, 0.0], "b": [0.0, 0.0]}), SelectionSettings())


def test_an_unknown_criterion_is_refused() -> None:
    with pytest.raises(UserError, match="nearest is 'random'"):
        SelectionSettings(criterion="randm")  # type: ignore[arg-type]


def test_the_audit_adds_up() -> None:
    table = select(profile(EXAMPLE, errors={"f": 2}), SelectionSettings())
    report = json.loads(json.dumps(audit(table)))
    assert report["candidates"] == 6
    assert report["selected"] == 1
    assert report["status"]["pivot"] == 1
    for part in ("domain", "depth"):
        assert sum(sum(counts.values()) for counts in report[part].values()) == 6
    assert sum(report["domain"]["sql"].values()) == 2
    # Turns are 0, 3, 6, 9, 12 and 15.
    depths = {bucket: sum(counts.values()) for bucket, counts in report["depth"].items()}
    assert depths == {"0-1": 1, "2-4": 1, "5-9": 2, "10+": 2}
