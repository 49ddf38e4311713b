import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivotrl_jax.verifiers.labels import EQUAL, NOT_EQUAL, parse_label


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[A=B]]", True),
        ("[[A!=B]]", False),
        ("", None),
        ("A=B", None),
        ("[[A = B]]", None),
        ("In some cases [[A!=B]] but in this case [[A=B]]", True),
        ("[[A=B]] at first sight, yet [[A!=B]]", False),
        (f"[[A!=B]] then [[A=B]]{'.' * 201}", False),
        (f"[[A=B]] then [[A!=B]]{'.' * 201}", True),
        (f"[[A=B]]{'.' * 300}", True),
        (f"[[A!=B]]{'.' * 300}[[A=B]]{'.' * 150}", True),
        (f"[[A=B]]{'.' * 193}", True),
        (f"[[A!=B]] [[A=B]]{'.' * 193}", True),
        (f"[[A!=B]] [[A=B]]{'.' * 194}", False),
    ],
)
def test_labels(text: str, expected: bool | None) -> None:
    assert parse_label(text) is expected


def test_labels_of_ones_own() -> None:
    assert parse_label("verdict: NO", "YES", "NO") is False


@given(st.text(max_size=400), st.sampled_from([EQUAL, NOT_EQUAL]), st.text("x ", max_size=190))
def test_a_label_near_the_end_decides(before: str, label: str, after: str) -> None:
    assert parse_label(before + label + after) is (label == EQUAL)
