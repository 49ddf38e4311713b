"""Searching for a pattern says what `re` says, and ends."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.compatible.json_schema import fits
from pivotrl_jax.verifiers.compatible.patterns import found

PATTERNS = [
    "", "a", "^a+$", "^(a+)+$", "^(a|ab)*b$", "a{2,3}", "^a{2}b{0}", "(?:a|b)*?c", "[^ab]",
    "[a-c1]+$", r"\d+(?:\.\d+)?", r"^\w+\s\w+$", r"\bab\b", r"a\B", "^(?!ab).*$", "a(?=b)",
    "(?<=a)b", "(?<!ab)1", "(?i)^A", "(?i:A)b", "(?m)^b$", "(?s)a.b", "a.b", r"\Aab\Z", "(a*)*b",
    "(?:a?){3}b", "^$", "(|a)+$", "(?x) a b", r"^[A-Z]{3}(,[A-Z]{3})*$", "a$", "é", "(?P<n>a)b|1",
    "^.{2,}$", "(a)\\1", "(?>a+)b", "a++b", "(?i:a(?-i:b))",
]  # fmt: skip


@settings(max_examples=1500)
@given(st.sampled_from(PATTERNS), st.text("abAB1 .,c\né", max_size=9))
def test_says_what_re_says(pattern: str, text: str) -> None:
    assert found(pattern, text) == (re.search(pattern, text) is not None)


@pytest.mark.parametrize(
    ("pattern", "text", "there"),
    [
        ("^(a+)+$", "a" * 60 + "!", False),
        ("^(a+)+$", "a" * 20_000, True),
        ("^(a|a)*$", "a" * 20_000 + "!", False),
        (r"^(\w+\s?)*$", "word " * 4_000 + "!", False),
        ("(x+x+)+y", "x" * 5_000, False),
        ("^[^@]+@[^@]+$", "x" * 100_000, False),
    ],
)
def test_long_texts_are_searched(pattern: str, text: str, there: bool) -> None:
    assert found(pattern, text) == there


@pytest.mark.parametrize(
    ("pattern", "text"),
    [(r"^(a+)+\1$", "a" * 60 + "!"), ("(?=a*b)", "a" * 100_000)],
)
def test_what_would_take_too_long_is_an_error(pattern: str, text: str) -> None:
    with pytest.raises(UserError, match="takes too long"):
        found(pattern, text)


def test_patterns_of_values_and_of_names_are_bounded() -> None:
    slow = "a" * 60 + "!"
    assert not fits(slow, {"type": "string", "pattern": "^(a+)+$"})
    assert fits({slow: 1}, {"patternProperties": {"^(a+)+$": False}})
