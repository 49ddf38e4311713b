"""Where a worked answer ends up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivotrl_jax.evaluation.suites.numbers import arrives_at, final_number

CASES = [
    # marks come before what follows them, and before the last number
    ("She makes 9 * 2 = $18 every day.\n#### 18", 18),
    ("#### 12\nThe answer is: 13", 12),
    ("#### 3\nNo, wait.\n#### 1,450,000 people in 7 towns", 1_450_000),
    ("#### **$-5.50**", -5.5),
    ("#### Step 3\nThat leaves 40 apples.", 40),
    ("#### none", None),
    (r"So \boxed{18}. We checked 3 cases.", 18),
    (r"First \boxed{4}, then \boxed{\text{about } 6{,}250 \text{ m}^2}", 2),
    (r"\boxed{\frac{3}{4}}", 0.75),
    (r"\boxed{x} so 7", 7),
    (r"#### 8 \boxed{9}", 9),
    (r"\boxed{12", 12),
    # the last number
    ("It takes 2/2=1 bolt, 3 bolts in total.", 3),
    ("That is 18.", 18),
    ("That is 18.00 dollars", 18),
    ("It costs $1,234.50!", 1234.5),
    ("It costs \\$20 for **3 eggs**", 3),
    ("They are 1,2,3", 3),
    ("So .5 of it", 0.5),
    ("It rose by +7%", 7),
    ("The change is -5", -5),
    ("The change is −5 degrees", -5),
    ("The change is -$5", -5),
    ("minus (-5)", -5),
    ("10-5", 5),
    ("10 -5", 5),
    ("(2+3)-5", 5),
    ("pages 10-15", 15),
    ("COVID-19", 19),
    ("eats 18 apples, v2", 18),
    ("18km", 18),
    ("1/2", 0.5),
    ("7/0", None),
    ("2*3", 3),
    ("eighteen", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "number"), CASES)
def test_final_number(text, number):
    assert final_number(text) == number


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        ("18.0", 18, True),
        ("0.3333333", 1 / 3, True),
        ("17.99", 18, False),
        ("0", 0, True),
        ("1e", 1, True),
        ("no number", 0, False),
        ("9" * 400, 18, False),
    ],
)
def test_arrives_at(text, gold, right):
    assert arrives_at(text, gold) is right


@given(
    st.integers(-(10**9), 10**9), st.booleans(), st.sampled_from(["{}", "#### {}", r"\boxed{{{}}}"])
)
def test_a_number_is_read_as_it_is_written(number, commas, frame):
    written = f"{number:,}" if commas else str(number)
    assert final_number("Of 4 ways: " + frame.format(written)) == number


@given(st.text(alphabet="0123456789,./-+$#\\{}boxedfrac \n", max_size=200))
def test_any_text_is_read(text):
    found = final_number(text)
    assert found is None or isinstance(found, float)


@pytest.mark.parametrize("piece", ["\\boxed{", "1,", "-", "#### ", "1/", "9", "\\frac{1"])
def test_hostile_text_is_read(piece):
    found = final_number(piece * 20_000)
    assert found is None or isinstance(found, float)
