"""Small static charts as inline SVG; colours are CSS classes, so that a page can be dark."""

import dataclasses
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from markupsafe import Markup, escape

from experiments.reports.chart_scale import Scale, number, ticks, whole

WIDTH, HEIGHT = 330, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 26, 38
SCALE = 1.6  # of a chart in a file of its own
CHAR, LINE, GAP = 5.4, 14, 10  # of names: a character's width about, a line's height, between two
SMOOTH_FROM = 40  # points; shorter series are drawn as they are

Points = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Series:
    """One line, or its points as `dots`; `style` is the class s1 to s4 or s0 (muted).

    A `band` has the low and the high end at each of the values, which are then drawn as they are.
    """

    label: str
    values: Points
    style: str = "s1"
    dots: bool = False
    band: Points = ()


@dataclasses.dataclass(frozen=True)
class Layer:
    """One colour of a stacked histogram: how many values fall into each bin."""

    label: str
    counts: Sequence[int]
    style: str = "s1"


def line_chart(
    title: str, series: Sequence[Series], x_label: str, y_label: str, percent: bool = False
) -> Markup:
    """Lines over steps; long series are drawn faintly with their moving mean on top.

    Names that do not fit beside `y_label` stand below the chart.
    """
    xs = [x for line in series for x, _ in line.values]
    ys = [y for line in series for _, y in line.values]
    ys += [end for line in series for ends in line.band for end in ends]
    y_ticks = ticks(min(0.0, *ys) if _near_zero(ys) else min(ys), max(ys))
    x = Scale(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, LEFT, WIDTH - RIGHT)
    y = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    x_ticks = [tick for tick in ticks(x.low, x.high) if x.low <= tick <= x.high]
    if x.high - x.low >= 1:
        x_ticks = whole(x_ticks)
    parts = [_axes(x, y, x_ticks, y_ticks, x_label, y_label, percent)]
    parts += [_area(line, x, y) for line in series if line.band]
    parts += [_line(line, x, y) for line in series]
    entries = list(dict.fromkeys((line.label, line.style) for line in series))
    if len(series) == 1:
        return _svg(title, parts)
    if sum(map(_entry_width, entries)) < WIDTH - RIGHT - CHAR * len(y_label):
        return _svg(title, [*parts, _legend(entries)])
    return _svg(title, [*parts, _list(entries)], HEIGHT + LINE * len(entries))


def histogram(
    title: str,
    edges: Sequence[float],
    layers: Sequence[Layer],
    x_label: str,
    y_label: str,
    mark: tuple[float, str] | None = None,
) -> Markup:
    """Stacked counts per bin; `mark` is a labelled vertical line, such as a threshold."""
    totals = np.sum([layer.counts for layer in layers], axis=0)
    y_ticks = whole(ticks(0, max(1, int(totals.max()))))
    x = Scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT)
    y = Scale(0, y_ticks[-1], HEIGHT - BOTTOM, TOP)
    x_ticks = [tick for tick in ticks(edges[0], edges[-1], 6) if edges[0] <= tick <= edges[-1]]
    parts = [_axes(x, y, x_ticks, y_ticks, x_label, y_label, percent=False)]
    floor = np.zeros(len(edges) - 1)
    for layer in layers:
        top = floor + np.asarray(layer.counts)
        parts += [
            _column(x(left), x(right), y(high), y(low), layer, int(high - low))
            for (left, right), low, high in zip(pairwise(edges), floor, top, strict=True)
            if high > low
        ]
        floor = top
    if mark:
        parts.append(_mark(x(mark[0]), mark[1]))
    parts.append(_legend([(layer.label, layer.style) for layer in layers]))
    return _svg(title, parts)


def interval_chart(
    title: str,
    rows: Sequence[tuple[str, float, float, float]],
    x_label: str,
    ends: tuple[float, float],
    strong: str | None = None,
) -> Markup:
    """One dot with its whisker per row of (label, mean, low, high), on an axis over `ends`.

    The row labelled `strong`, by default the last one, stands out. Long labels make it wider.
    """
    left = max(62, 8 + 6.2 * max(len(label) for label, *_ in rows))
    width, height = WIDTH - 62 + left, 58 + 26 * len(rows)
    strong = rows[-1][0] if strong is None else strong
    x_ticks = ticks(*ends, 5)
    x = Scale(x_ticks[0], x_ticks[-1], left, width - RIGHT - 8)
    bottom = height - BOTTOM
    parts = [
        f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="10" y2="{bottom}"/>'
        f'<text class="tick" x="{x(t):.1f}" y="{bottom + 14}" text-anchor="middle">'
        f"{number(t, x_ticks)}</text>"
        for t in x_ticks
    ]
    for index, (label, mean, low, high) in enumerate(rows):
        y, style = 26 + 26 * index, "s1" if label == strong else "s0"
        parts.append(
            f'<text class="name" x="0" y="{y + 4}">{escape(label)}</text>'
            f'<line class="whisker {style}" x1="{x(low):.1f}" x2="{x(high):.1f}"'
            f' y1="{y}" y2="{y}"/>'
            f'<circle class="dot {style}" cx="{x(mean):.1f}" cy="{y}" r="4.5"/>'
        )
    parts.append(_x_label(x_label, height, width))
    return _svg(title, parts, height, width)


def standalone(chart: Markup, style: str) -> str:
    """A chart as an SVG file, with the `style` that a page would give it and a margin of 8."""
    opening, content = str(chart).split(">", 1)
    start, box, rest = re.split('(?<=viewBox=")0 0 ([^"]*)', opening)
    width, height = map(float, box.split())
    wide, high = width + 16, height + 16
    start = start.replace(
        "<svg", f'<svg xmlns="http://www.w3.org/2000/svg" width="{SCALE * width:.0f}"'
    )
    ground = f'<rect class="ground" x="-8" y="-8" width="{wide:g}" height="{high:g}"/>'
    return f"{start}-8 -8 {wide:g} {high:g}{rest}><style>{style}</style>{ground}{content}\n"


def bar(share: float, style: str = "s1") -> Markup:
    """A bar for a table cell, `share` of its full width."""
    width = 100 * min(max(share, 0.0), 1.0)
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="100" height="8"/>'
        f'<rect class="fill {style}" width="{width:.2f}" height="8"/></svg>'
    )


def _near_zero(values: Sequence[float]) -> bool:
    """Whether an axis that starts at zero still shows how the values move."""
    return (min(values) >= 0 and min(values) < 0.5 * max(values)) or min(values) < 0


def _axes(
    x: Scale,
    y: Scale,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_label: str,
    y_label: str,
    percent: bool,
) -> str:
    parts = [
        f'<text class="label" x="0" y="12">{escape(y_label)}</text>',
        _x_label(x_label, HEIGHT),
    ]
    for tick in y_ticks:
        text = f"{100 * tick:.0f} %" if percent else number(tick, y_ticks)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}"'
            f' y2="{y(tick):.1f}"/><text class="tick" x="{LEFT - 6}" y="{y(tick) + 3.5:.1f}"'
            f' text-anchor="end">{text}</text>'
        )
    for tick in x_ticks:
        parts.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 15}"'
            f' text-anchor="middle">{number(tick, x_ticks)}</text>'
        )
    return "".join(parts)


def _x_label(text: str, height: float, width: float = WIDTH) -> str:
    return (
        f'<text class="label" x="{width - RIGHT:g}" y="{height - 6}" text-anchor="end">'
        f"{escape(text)}</text>"
    )


def _line(line: Series, x: Scale, y: Scale) -> str:
    if line.dots:
        return "".join(_path([point], x, y, line.style) for point in line.values)
    if line.band or len(line.values) < SMOOTH_FROM:
        return _path(line.values, x, y, f"line {line.style}")
    return _path(line.values, x, y, f"line faint {line.style}") + _path(
        moving_mean(line.values), x, y, f"line {line.style}"
    )


def _path(points: Points, x: Scale, y: Scale, style: str) -> str:
    if len(points) == 1:
        ((px, py),) = points
        return f'<circle class="dot {style}" cx="{x(px):.1f}" cy="{y(py):.1f}" r="3"/>'
    path = "L".join(f"{x(px):.1f} {y(py):.1f}" for px, py in points)
    return f'<path class="{style}" d="M{path}"/>'


def _area(line: Series, x: Scale, y: Scale) -> str:
    xs = [step for step, _ in line.values]
    lows, highs = zip(*line.band, strict=True)
    outline = [*zip(xs, lows, strict=True), *reversed(list(zip(xs, highs, strict=True)))]
    path = "L".join(f"{x(px):.1f} {y(py):.1f}" for px, py in outline)
    return f'<path class="band {line.style}" d="M{path}Z"/>'


def moving_mean(points: Points) -> list[tuple[float, float]]:
    """Centred mean over a tenth of the points; at the ends the window shrinks on both sides."""
    reach, last = max(1, len(points) // 20), len(points) - 1
    ys = np.array([value for _, value in points])
    half = [min(reach, index, last - index) for index in range(len(points))]
    return [
        (step, float(ys[index - half[index] : index + half[index] + 1].mean()))
        for index, (step, _) in enumerate(points)
    ]


def _column(left: float, right: float, top: float, bottom: float, layer: Layer, count: int) -> str:
    return (
        f'<rect class="fill {layer.style}" x="{left + 0.75:.2f}" y="{top:.2f}"'
        f' width="{max(right - left - 1.5, 1):.2f}" height="{bottom - top:.2f}">'
        f"<title>{escape(layer.label)}: {count}</title></rect>"
    )


def _mark(x: float, label: str) -> str:
    return (
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="label" x="{x + 4:.1f}" y="{TOP + 10}">{escape(label)}</text>'
    )


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    parts, right = [], float(WIDTH - RIGHT + GAP)
    for entry in reversed(entries):
        right -= _entry_width(entry)
        parts.append(_entry(entry, right, 12))
    return "".join(parts)


def _list(entries: Sequence[tuple[str, str]]) -> str:
    """One name a line, below a chart of the usual height."""
    return "".join(
        _entry(entry, LEFT, HEIGHT + LINE * index + 6) for index, entry in enumerate(entries)
    )


def _entry(entry: tuple[str, str], x: float, y: float) -> str:
    label, style = entry
    return (
        f'<rect class="fill {style}" x="{x:.1f}" y="{y - 8:g}" width="9" height="9" rx="1.5"/>'
        f'<text class="label" x="{x + 13:.1f}" y="{y:g}">{escape(label)}</text>'
    )


def _entry_width(entry: tuple[str, str]) -> float:
    return CHAR * len(entry[0]) + 14 + GAP


def _svg(title: str, parts: Sequence[str], height: float = HEIGHT, width: float = WIDTH) -> Markup:
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img"'
        f' aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
