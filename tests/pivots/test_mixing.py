"""Caps against brute force, seats against one-by-one apportionment, batches over many epochs."""

import collections
import itertools
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivotrl_jax.errors import UserError
from pivotrl_jax.pivots import SelectionSettings, audit, select
from pivotrl_jax.pivots.mixing import Caps, cap, kind, mixed_batch, seats
from pivotrl_jax.trajectories import Action, ToolCall


def profile(*rows: tuple[str, str, float]) -> tuple[pa.Table, list[str]]:
    """The selection of candidates a, b, ... of (domain, kind, mean of 20 samples), and kinds."""
    mean = np.array([row[2] for row in rows])
    columns = {
        "candidate_id": [f"{i:03d}" for i in range(len(rows))],
        "domain": [row[0] for row in rows],
        "turn": [0] * len(rows),
        "n": [20] * len(rows),
        "mean": mean,
        "variance": mean * (1 - mean),
    }
    chosen = select(pa.table(columns), SelectionSettings(threshold=0.9), allow_empty=True)
    return chosen, [row[1] for row in rows]


def test_the_kind_of_an_action() -> None:
    call = ToolCall("bash", {"command": "ls"})
    kinds = [kind(Action("done")), kind(Action("look", (call,))), kind(Action("", (call, call)))]
    assert kinds == ["message", "tool", "batch"]


CHAT = [("chat", "message", m) for m in (0.1, 0.2, 0.3, 0.8)]
TOOLS = [("chat", "tool", m) for m in (0.1, 0.4, 0.5, 0.7)]


@pytest.mark.parametrize(
    ("caps", "dropped"),
    [
        (Caps(), {}),
        (Caps(message_share=0.5), {}),
        (Caps(message_share=0.49), {"003": "over_message_share"}),
        (Caps(message_share=0.2), dict.fromkeys(("001", "002", "003"), "over_message_share")),
        (Caps(message_share=0.0), {f"00{i}": "over_message_share" for i in range(4)}),
        (Caps(pivots=7), {"003": "over_pivots"}),
        (Caps(pivots=5), {"003": "over_pivots", "006": "over_pivots", "007": "over_pivots"}),
        (
            Caps(message_share=0.4, pivots=5),
            {"002": "over_message_share", "003": "over_message_share", "007": "over_pivots"},
        ),
    ],
)
def test_the_easiest_are_dropped_first(caps: Caps, dropped: dict[str, str]) -> None:
    table, kinds = profile(*CHAT, *TOOLS)
    rows = cap(table, kinds, {"chat": caps}).to_pylist()
    assert {r["candidate_id"]: r["status"] for r in rows if not r["selected"]} == dropped
    assert {row["status"] for row in rows if row["selected"]} == {"pivot"}


def test_a_share_is_met_exactly() -> None:
    table, kinds = profile(*CHAT[:3], *TOOLS[:2])
    assert all(cap(table, kinds, {"chat": Caps(message_share=0.6)})["selected"].to_pylist())
    assert not all(cap(table, kinds, {"chat": Caps(message_share=0.59)})["selected"].to_pylist())


def test_a_cap_touches_its_domain_and_what_was_selected_only() -> None:
    other = [("sql", "message", 0.5), ("chat", "message", 0.0), ("chat", "message", 1.0)]
    table, kinds = profile(*other, *CHAT, *TOOLS)
    capped = cap(table, kinds, {"chat": Caps(message_share=0.0)})
    assert capped.schema == table.schema
    assert capped["status"].to_pylist()[:3] == ["pivot", "all_fail", "all_pass"]
    assert capped["selected"].to_pylist()[:3] == [True, False, False]
    counts = audit(capped)["domain"]
    assert counts["chat"] == {"all_fail": 1, "all_pass": 1, "over_message_share": 4, "pivot": 4}
    assert counts["sql"] == {"pivot": 1}


CANDIDATES = st.lists(
    st.tuples(st.just("d"), st.sampled_from(["message", "tool"]), st.integers(1, 17)), max_size=9
)


@given(CANDIDATES, st.integers(0, 10), st.none() | st.integers(1, 9))
def test_as_many_are_kept_as_the_caps_allow(rows, tenths, most) -> None:
    table, kinds = profile(*((domain, kind, m / 20) for domain, kind, m in rows))
    if not rows:
        return
    kept = cap(table, kinds, {"d": Caps(tenths / 10, most)})["selected"].to_pylist()
    counts = collections.Counter(kinds)

    def fits(messages: int, tools: int) -> bool:
        return 10 * messages <= tenths * (messages + tools) and messages + tools <= (most or 9)

    sizes = itertools.product(range(counts["message"] + 1), range(counts["tool"] + 1))
    assert sum(kept) == max(m + t for m, t in sizes if fits(m, t))
    own = collections.Counter(kind for kind, keep in zip(kinds, kept, strict=True) if keep)
    assert fits(own["message"], own["tool"])
    for one in ("message", "tool"):
        means = [(row[2], keep) for row, keep in zip(rows, kept, strict=True) if row[1] == one]
        assert max((m for m, keep in means if keep), default=0) <= min(
            (m for m, keep in means if not keep), default=20
        )


def test_caps_of_an_unknown_domain_are_refused() -> None:
    table, kinds = profile(*CHAT)
    with pytest.raises(UserError, match=r"no domain 'cat'.*did you mean 'chat'"):
        cap(table, kinds, {"cat": Caps(0.5)})


@pytest.mark.parametrize("wrong", [{"message_share": 1.1}, {"message_share": -0.1}, {"pivots": 0}])
def test_caps_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match="give"):
        Caps(**wrong)


WEIGHTS = st.dictionaries(
    st.sampled_from("abcdef"), st.integers(0, 30) | st.floats(0, 1e3), min_size=1
).filter(lambda weights: any(weights.values()))


@given(WEIGHTS)
def test_seats_are_those_of_giving_one_after_the_other(weights) -> None:
    given_ = dict.fromkeys(sorted(weights), 0)
    for total in range(40):
        assert seats(weights, total) == given_
        given_[max(given_, key=lambda name: Fraction(weights[name]) / (2 * given_[name] + 1))] += 1


def test_seats_follow_the_weights() -> None:
    weights = {"swe": 0.5, "sql": 0.3, "search": 0.2}
    assert seats(weights, 10) == {"search": 2, "sql": 3, "swe": 5}
    assert seats(weights, 10**6) == {"search": 200_000, "sql": 300_000, "swe": 500_000}
    assert seats({"a": 1, "b": 0}, 7) == {"a": 7, "b": 0}


@pytest.mark.parametrize(
    "weights", [{}, {"a": 0}, {"a": -1, "b": 2}, {"a": float("nan")}, {"a": float("inf")}]
)
def test_weights_that_make_no_sense_are_refused(weights) -> None:
    with pytest.raises(UserError, match="one above 0"):
        seats(weights, 4)


DOMAINS = ["a"] * 50 + ["b"] * 12 + ["c"] * 4
SHARES = {"a": 5.0, "b": 2.0, "c": 1.0}


def batches(steps: int, seed: int = 0, batch: int = 8) -> list[np.ndarray]:
    return [mixed_batch(DOMAINS, SHARES, batch, seed, step) for step in range(steps)]


def test_batches_hold_different_items_in_the_ratio_of_the_weights() -> None:
    for batch in batches(100):
        assert len(set(batch.tolist())) == 8
        assert collections.Counter(DOMAINS[i] for i in batch) == {"a": 5, "b": 2, "c": 1}


def test_small_shares_get_their_turn() -> None:
    domains = np.array([DOMAINS[i] for batch in batches(80, batch=3) for i in batch])
    assert {name: int((domains == name).sum()) for name in "abc"} == {"a": 150, "b": 60, "c": 30}


def test_an_epoch_visits_every_item_of_a_domain() -> None:
    visited = np.concatenate(batches(10))
    assert collections.Counter(visited[visited < 50].tolist()) == dict.fromkeys(range(50), 1)
    assert collections.Counter(batch[batch >= 62].item() for batch in batches(400)) == (
        dict.fromkeys(range(62, 66), 100)
    )


@given(
    st.lists(st.integers(4, 12), min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(0, 10**6),
    st.integers(0, 10**4),
)
def test_any_step_can_be_had_alone(sizes, batch, seed, step) -> None:
    domains = [name for name, size in zip("abcd", sizes, strict=False) for _ in range(size)]
    weights = {name: 1 + 0.3 * number for number, name in enumerate(sorted(set(domains)))}
    found = mixed_batch(domains, weights, batch, seed, step)
    assert len(set(found.tolist())) == batch
    np.testing.assert_array_equal(found, mixed_batch(domains, weights, batch, seed, step))


def test_no_item_is_favoured_where_epochs_and_batches_do_not_fit() -> None:
    counts = collections.Counter(
        i for step in range(4000) for i in mixed_batch(["a"] * 7, {"a": 1}, 3, 5, step).tolist()
    )
    assert min(counts.values()) > 0.93 * 12_000 / 7
    assert max(counts.values()) < 1.07 * 12_000 / 7


def test_seeds_and_epochs_differ() -> None:
    assert len({tuple(batch) for seed in range(4) for batch in batches(30, seed)}) == 120
    first, second = (np.concatenate(batches(20)[i : i + 10]) for i in (0, 10))
    assert first[first < 50].tolist() != second[second < 50].tolist()


@pytest.mark.parametrize(
    ("domains", "weights", "named"),
    [
        (["swe", "sql"], {"swe": 1, "sqll": 1}, "weights: no domain 'sqll'.*did you mean 'sql'"),
        (["swe", "sql"], {"swe": 1}, "domains: no domain 'sql'"),
    ],
)
def test_mixtures_that_cannot_be_had_are_refused(domains, weights, named: str) -> None:
    with pytest.raises(UserError, match=named):
        mixed_batch(domains, weights, 4, 0, 0)


def test_a_domain_with_fewer_items_than_its_share_gives_them_all() -> None:
    for step in range(5):
        found = mixed_batch(["swe", "swe", "sql"], {"swe": 1, "sql": 1}, 4, 0, step)
        assert sorted(found.tolist()) == [0, 1, 2]
