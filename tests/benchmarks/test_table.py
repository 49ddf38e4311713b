"""Tables as a reader sees them, rows as a program reads them, medians of alternating sides."""

import json

import pytest

from benchmarks.table import cell, markdown, report
from benchmarks.timing import medians, once
from pivotrl_jax.errors import UserError

ROWS = [
    {"side": "tree", "tokens": 1280, "ratio": 6.6},
    {"side": "flat", "tokens": 8448, "ratio": None},
]


def test_a_table_aligns_numbers_to_the_right():
    assert markdown(ROWS, ("side", "tokens", "ratio")).splitlines() == [
        "| side | tokens | ratio |",
        "| ---- | -----: | ----: |",
        "| tree |  1,280 |  6.60 |",
        "| flat |  8,448 |     – |",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.012345, "0.0123"),
        (5.0, "5.00"),
        (123.4, "123"),
        (12345.6, "12,346"),
        (7, "7"),
        ("x", "x"),
    ],
)
def test_cells(value, text):
    assert cell(value) == text


def test_report_prints_each_row_in_its_table_and_keeps_all(tmp_path, capsys):
    path = tmp_path / "new" / "rows.json"
    other = {"side": "tree", "mfu": 0.5}
    report("trial", {"A": ("side", "tokens"), "B": ("side", "mfu")}, [*ROWS, other], path)
    kept = json.loads(path.read_text())
    assert kept["rows"] == [*ROWS, other]
    assert kept["benchmark"] == "trial"
    assert {"device", "versions", "command", "cpu_count"} <= kept.keys()
    first, second = capsys.readouterr().out.split("**B**")
    assert "8,448" in first
    assert "0.500" in second
    assert "flat" not in second


def test_a_file_that_cannot_be_written_is_the_users_to_mend(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--json"):
        report("trial", {}, ROWS, tmp_path / "file" / "rows.json")


def test_sides_alternate_after_a_round_of_warm_up_and_hand_on_what_they_return():
    order = []

    def side(name):
        def run(carry):
            order.append(name)
            return carry + 1

        return run

    seconds, carry = medians({"a": side("a"), "b": side("b")}, 0, rounds=2)
    assert seconds.keys() == {"a", "b"}
    assert carry == len(order) == 6
    assert order[2:] in (["a", "b", "b", "a"], ["b", "a", "a", "b"])
    assert once(lambda: order.clear())("kept") == "kept"
    assert order == []
