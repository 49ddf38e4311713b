"""Measures of texts, and the best pairing."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivotrl_jax.verifiers.matching import assign, paired
from pivotrl_jax.verifiers.texts import dice, facts, ratio, word_ratio

TEXT = st.text(st.sampled_from("abc 1.,?\n\ud800é")) | st.text()


@pytest.mark.parametrize("measure", [ratio, word_ratio])
@given(a=TEXT, b=TEXT)
def test_measures_are_symmetric_and_reflexive(measure, a: str, b: str) -> None:
    assert measure(a, a) == 1
    assert measure(a, b) == measure(b, a)
    assert 0 <= measure(a, b) <= 1


def test_ratio_has_no_popular_elements() -> None:
    text = "abcdefghij" * 40
    assert ratio(text, text[:200] + "wxyz" + text[200:]) > 0.99


def test_word_ratio_reads_words_only() -> None:
    assert word_ratio("Please, provide your ID!", "please provide YOUR id") == 1
    assert word_ratio("one two three", "four five six") == 0
    assert word_ratio("👍", "👎") < 1


@pytest.mark.parametrize("measure", [ratio, word_ratio])
def test_what_lies_beyond_the_compared_part_differs(measure) -> None:
    expert = "yes of course " * 20
    assert measure(expert, expert + "spam " * 200_000) < 0.01


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("It costs $1,234.50.", {"1234.5"}),
        ("It costs 1234.5 dollars", {"1234.5"}),
        ("Order #W2378156, item 1096508426", {"#w2378156", "1096508426"}),
        ("Mail jane.doe1@example.com.", {"jane.doe1@example.com"}),
        ("on 2024-05-20 at 14:30", {"2024", "5", "20", "14", "30"}),
        ("1. Your user ID\n2. Your order", set()),
        ("  3) flights", set()),
        ('say "Cancel Order" to go on', {"cancel order"}),
        ('{"message": "x1"}', {"x1"}),
        ("three bags", set()),
        ("1e999999999 bags", {"1e999999999"}),
        (f"{'9' * 40} bags", {"9" * 40}),
    ],
)
def test_facts(text: str, stated: set[str]) -> None:
    assert facts(text) == stated


def test_dice_counts_repetitions() -> None:
    assert dice("aab", "abb") == pytest.approx(2 / 3)
    assert dice({"x": 3}, {"x": 5}) == 1
    assert dice("", "") == 1
    assert dice("a", "") == 0


@given(
    st.integers(1, 5).flatmap(
        lambda width: st.lists(
            st.lists(st.integers(0, 9), min_size=width, max_size=width), min_size=1, max_size=5
        )
    )
)
def test_the_assignment_is_the_heaviest(weights: list[list[int]]) -> None:
    pairs = assign(weights)
    rows, columns = len(weights), len(weights[0])
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == min(rows, columns)
    if rows <= columns:
        best = max(sum(weights[i][j] for i, j in enumerate(chosen))
                   for chosen in itertools.permutations(range(columns), rows))  # fmt: skip
        assert sum(weights[i][j] for i, j in pairs) == best


def test_pairs_avoid_the_greedy_trap_and_count_what_is_left_over() -> None:
    table = {("A", "a"): 0.9, ("A", "b"): 0.7, ("B", "a"): 0.8, ("B", "b"): 0.1}
    score = lambda a, b: {"s": table.get((a, b), 0.0)}  # noqa: E731
    assert paired("AB", "ab", score, ["s"])["s"] == pytest.approx((0.7 + 0.8) / 2)
    assert paired("AB", "ab", score, ["s"], ordered=True)["s"] == pytest.approx((0.9 + 0.1) / 2)
    assert paired("A", "ab", score, ["s"])["s"] == pytest.approx(0.9 / 2)
    assert paired("A", "x", lambda a, b: {}, ["s"])["s"] == 0


@pytest.mark.parametrize("piece", ["1", "1.", "a1 ", '"', '"a', "@", "1-", "\n 1", "“", "1,"])
def test_a_megabyte_of_facts_is_read(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    assert facts(text) == facts(text[:50_000])
