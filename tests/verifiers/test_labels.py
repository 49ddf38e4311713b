"""The label parser against what upstream's was seen to do, and any text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivotrl_jax.verifiers.labels import EQUAL, NOT_EQUAL, parse_label

FAR = "x" * 201


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("[[A=B]]", True),
        ("[[A!=B]]", False),
        ("In some cases [[A!=B]] but in this case [[A=B]]", True),
        ("In some cases [[A=B]] but in this case [[A!=B]]", False),
        (f"[[A!=B]] then [[A=B]]{FAR}", False),
        (f"[[A=B]] then [[A!=B]]{FAR}", True),
        (f"[[A!=B]]{FAR}[[A=B]]", True),
        (f"[[A=B]]{FAR}[[A!=B]]", False),
        (f"[[A=B]] [[A!=B]]{'x' * 192}", False),
        (f"[[A=B]][[A!=B]]{'x' * 192}", False),  # all of the second within the last 200
        (f"[[A=B]][[A!=B]]{'x' * 193}", True),  # one character of it is outside
        (f"[[A=B]]{'x' * 193}", True),
        (f"[[A=B]]{'x' * 194}", True),
        ("[[A!=B]] or [[A=B]]? [[A!=B]]", False),
        ("[[A=B]] or [[A!=B]]? [[A=B]]", True),
        ("", None),
        ("equal", None),
        ("[[A==B]]", None),
        ("[[a=b]]", None),
        ("[A=B]", None),
        ("[[ A=B ]]", None),
        ("[[A=B]", None),
    ],
)
def test_the_label_of_a_reply(text: str, label: bool | None) -> None:
    assert parse_label(text) is label


def by_scanning(text: str) -> bool | None:
    def labels(part: str) -> list[bool]:
        places = ((i, label) for i in range(len(part)) for label in (EQUAL, NOT_EQUAL))
        return [label == EQUAL for i, label in places if part.startswith(label, i)]

    return next(iter([*labels(text[-200:])[-1:], *labels(text)[:1]]), None)


PIECES = st.sampled_from([EQUAL, NOT_EQUAL, "[[A", "!=B]]", "x" * 60, "x" * 190, "\ud800", "[["])


@given(st.lists(PIECES | st.text(max_size=5)).map("".join))
def test_any_text_is_parsed_as_by_scanning(text: str) -> None:
    assert parse_label(text) is by_scanning(text)
