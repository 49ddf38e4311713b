import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from experiments.reports import chart_scale, charts


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.5, 1.0]), (0.31, 0.47, [0.3, 0.35, 0.4, 0.45, 0.5]), (-3, 4, [-4, -2, 0, 2, 4])],
)
def test_ticks_are_round_and_enclose_the_data(low, high, expected):
    np.testing.assert_allclose(chart_scale.ticks(low, high), expected, atol=1e-12)


def test_ticks_of_a_constant():
    found = chart_scale.ticks(2.0, 2.0)
    assert found[0] <= 2.0 < found[-1]


def test_numbers_read_well():
    assert chart_scale.number(-0.1, [-0.1, 0.0]) == "−0.1"
    assert chart_scale.number(1500, [1000, 1500]) == "1,500"
    assert chart_scale.number(2e-6, [0, 1e-6]) == "2e−6"


def test_columns_are_as_high_as_their_counts():
    layers = [charts.Layer("pivots", [1, 0, 3], "s1"), charts.Layer("others", [2, 4, 0], "s0")]
    svg = charts.histogram("Mean", [0, 1, 2, 3], layers, "mean", "candidates", (1.5, "cut"))
    fills = re.findall(r'height="([\d.]+)"><title>(\w+): (\d+)', svg)
    assert [(name, count) for _, name, count in fills] == [
        ("pivots", "1"), ("pivots", "3"), ("others", "2"), ("others", "4"),
    ]  # fmt: skip
    unit = float(fills[0][0])
    np.testing.assert_allclose([float(h) for h, *_ in fills], [unit, 3 * unit, 2 * unit, 4 * unit],
                               atol=0.02)  # fmt: skip
    ET.fromstring(svg)


def test_line_chart_is_well_formed_and_escapes_its_words():
    series = [charts.Series("<b>", [(0, 0.1), (1, 0.3)]), charts.Series("y", [(0, 0.2)], "s2")]
    root = ET.fromstring(charts.line_chart("a <b> & c", series, "step", "share", percent=True))
    words = [text.text for text in root.iter("text")]
    assert root.get("aria-label") == "a <b> & c"
    assert {"<b>", "0 %", "30 %", "step", "share"} <= set(words)


def test_a_higher_value_is_drawn_higher():
    path = charts.line_chart("t", [charts.Series("x", [(0, 0.0), (1, 2.0)])], "step", "y")
    (x0, y0), (x1, y1) = re.findall(r"([\d.]+) ([\d.]+)", re.search(r'd="(.*?)"', path)[1])
    assert float(y1) < float(y0)
    assert float(x0) < float(x1)


def test_moving_mean_keeps_a_straight_line_and_both_ends():
    points = [(step, 2.0 * step) for step in range(60)]
    np.testing.assert_allclose(charts.moving_mean(points), points)


def test_dots_stand_where_their_line_would_turn():
    points = [(0.0, 0.1), (0.1, 0.3), (0.2, 0.2)]
    line, dots = (
        charts.line_chart("t", [charts.Series("x", points, dots=dots)], "share", "y")
        for dots in (False, True)
    )
    turns = re.findall(r"([\d.]+) ([\d.]+)", re.search(r' d="(.*?)"', line)[1])
    assert re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', dots) == turns
    # The axis of a narrow range is as narrow.
    assert turns[-1][0] == f"{charts.WIDTH - charts.RIGHT:.1f}"
    assert {"0.10", "0.20"} & {text.text for text in ET.fromstring(dots).iter("text")}


def test_a_label_of_several_lines_is_told_once():
    series = [charts.Series("others", [(0, y), (1, y)], "s0") for y in (1.0, 2.0)]
    assert charts.line_chart("t", series, "step", "y").count(">others<") == 1


def test_a_band_lies_around_its_line():
    line = charts.Series("x", [(0, 1.0), (1, 2.0)], band=[(0.5, 1.5), (1.0, 4.0)])
    svg = charts.line_chart("t", [line], "step", "y")
    band, path = (
        re.findall(r"([\d.]+) ([\d.]+)", re.search(rf'class="{style} s1" d="(.*?)"', svg)[1])
        for style in ("band", "line")
    )
    assert [x for x, _ in band] == [path[0][0], path[1][0], path[1][0], path[0][0]]
    low, lower, high, higher = (float(y) for _, y in band)
    ys = [float(y) for _, y in path]
    # Pixels go down. The band's highest end sets the axis, on which a unit is as long everywhere.
    assert high == pytest.approx(charts.TOP, abs=0.1)
    assert ys[0] - ys[1] == pytest.approx((low - higher), abs=0.15)
    assert lower == ys[0]


def test_names_that_do_not_fit_stand_below_the_chart():
    def drawn(*names: str) -> tuple[float, list[float]]:
        series = [charts.Series(name, [(0, 0.0), (1, 1.0)]) for name in names]
        root = ET.fromstring(charts.line_chart("t", series, "step", "share"))
        own = [float(text.get("y")) for text in root.iter("text") if text.text in names]
        return float(root.get("viewBox").split()[-1]), own

    assert drawn("a", "b") == (charts.HEIGHT, [12, 12])
    height, (first, second) = drawn("a", "b" * 60)
    assert charts.HEIGHT < first < second < height


def test_the_strong_row_is_named_or_the_last():
    rows = [("first", 0.1, 0.0, 0.2), ("a name of many letters", 0.5, 0.4, 0.6)]
    for strong, name in ((None, 1), ("first", 0)):
        root = ET.fromstring(charts.interval_chart("t", rows, "rate", (0, 1), strong))
        styles = [each.get("class") for each in root.iter("circle")]
        assert styles.index("dot s1") == name
        assert styles.count("dot s0") == 1
        # Nothing runs into the names, which take nothing from the axis.
        grid = [float(each.get("x1")) for each in root.iter("line") if each.get("class") == "grid"]
        assert min(grid) > charts.CHAR * len(rows[1][0])
        width = float(root.get("viewBox").split()[2])
        assert max(grid) < width
        assert max(grid) - min(grid) == pytest.approx(charts.WIDTH - 62 - charts.RIGHT - 8)


def test_a_chart_is_a_file_with_its_own_style():
    chart = charts.line_chart("<t>", [charts.Series("x", [(0, 1), (1, 2)])], "step", "y")
    root = ET.fromstring(charts.standalone(chart, ".line { fill: none; }"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("viewBox") == f"-8 -8 {charts.WIDTH + 16} {charts.HEIGHT + 16}"
    assert root.get("aria-label") == "<t>"
    style, ground = list(root)[:2]
    assert style.text == ".line { fill: none; }"
    assert ground.get("class") == "ground"
    assert len(root) == 2 + len(ET.fromstring(chart))
