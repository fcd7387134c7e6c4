"""Charts as inline SVG that takes its colours and fonts from the page, so that it fits light, dark and print.

A chart is 400 units wide, about the pixels of a phone. Series differ in shape as well as in colour. Each function
takes the id of the element that names the chart, and returns markup that is safe to put into a page.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

WIDTH, LEFT, RIGHT = 400, 46, 382
MARKERS = (  # circle, square, triangle, diamond, cross; of radius 1 around the origin
    "M-1,0a1,1 0 1 0 2,0a1,1 0 1 0 -2,0z",
    "M-.9,-.9h1.8v1.8h-1.8z",
    "M0,-1.2l1.15,2h-2.3z",
    "M0,-1.3l1.3,1.3l-1.3,1.3l-1.3,-1.3z",
    "M-.4,-1.2h.8v.8h.8v.8h-.8v.8h-.8v-.8h-.8v-.8h.8z",
)


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high` with a tick each `step`; `percent` writes parts of one as per cent."""

    label: str
    low: float
    high: float
    step: float
    percent: bool = False

    def ticks(self) -> list[float]:
        first, last = math.ceil(self.low / self.step - 1e-9), math.floor(self.high / self.step + 1e-9)
        return [k * self.step for k in range(first, last + 1)]

    def write(self, value: float) -> str:
        return f"{value:.0%}" if self.percent else f"{value:.{0 if self.step >= 1 else 1}f}"

    def place(self, value: float, start: float, end: float) -> float:
        """Where `value` lies between the positions `start` and `end` of the two ends."""
        return start + (value - self.low) / (self.high - self.low) * (end - start)


@dataclass(frozen=True)
class Point:
    """One mark; `hint` is the text under a resting pointer, `size` the radius in units."""

    x: float
    y: float
    hint: str
    size: float = 4


@dataclass(frozen=True)
class Bar:
    """A score with its interval, or without one."""

    value: float
    interval: tuple[float, float] | None = None


def row_chart(named_by: str, axis: Axis, names: Sequence[str], series: dict[str, Sequence[Bar]]) -> Markup:
    """For each name a row, in it for each series a mark at its value and a bar over its interval.

    A series has one `Bar` per name; a NaN is left out. Without intervals the marks of a row are close together.
    """
    lane = 11 if any(bar.interval for bars in series.values() for bar in bars) else 6
    row_height, top = 21 + lane * len(series), 22 if len(series) > 1 else 4
    bottom = top + row_height * len(names)
    svg = _drawing(named_by, bottom + 38)
    start, end = 12, RIGHT
    for tick in axis.ticks():
        _tick_below(svg, axis, axis.place(tick, start, end), tick, top, bottom)
    _add(svg, "text", axis.label, "label", x=(start + end) / 2, y=bottom + 32, text_anchor="middle")
    for k, name in enumerate(names):
        above = top + k * row_height
        _add(svg, "text", name, x=start, y=above + 13)
        for number, bars in enumerate(series.values()):
            bar, y = bars[k], above + 19 + lane * (number + 0.5)
            if bar.interval:
                low, high = (axis.place(value, start, end) for value in bar.interval)
                _add(svg, "path", kind=f"interval series{number}", d=f"M{low:.1f},{y:.1f}H{high:.1f}")
            if not math.isnan(bar.value):
                _mark(svg, number, axis.place(bar.value, start, end), y, 4, f"{name}: {bar.value:.3f}")
    if len(series) > 1:
        _legend(svg, series, 12)
    return _markup(svg)


def point_chart(
    named_by: str,
    x_axis: Axis,
    y_axis: Axis,
    points: dict[str, Sequence[Point]],
    lines: dict[str, Sequence[Sequence[tuple[float, float]]]],
    bands: Sequence[tuple[float, float]] = (),
    diagonal: bool = False,
) -> Markup:
    """Points and pieces of line of each series against two axes; `bands` are ranges of x that are shaded."""
    top, bottom = 22, 262
    svg = _drawing(named_by, bottom + 38)

    def at(x: float, y: float) -> tuple[float, float]:
        return x_axis.place(x, LEFT, RIGHT), y_axis.place(y, bottom, top)

    def written(x: float, y: float) -> str:
        across, up = at(x, y)
        return f"{across:.1f},{up:.1f}"

    for low, high in bands:
        left, right = (x_axis.place(value, LEFT, RIGHT) for value in (low, high))
        _add(svg, "rect", kind="band", x=left, y=top, width=right - left, height=bottom - top)
    for tick in x_axis.ticks():
        _tick_below(svg, x_axis, at(tick, 0)[0], tick, top, bottom)
    for tick in y_axis.ticks():
        y = y_axis.place(tick, bottom, top)
        _add(svg, "path", kind="grid", d=f"M{LEFT},{y:.1f}H{RIGHT}")
        _add(svg, "text", y_axis.write(tick), x=LEFT - 5, y=y + 4, text_anchor="end")
    _add(svg, "text", x_axis.label, "label", x=(LEFT + RIGHT) / 2, y=bottom + 32, text_anchor="middle")
    middle = (top + bottom) / 2
    turned = f"rotate(-90 10 {middle})"
    _add(svg, "text", y_axis.label, "label", x=10, y=middle, text_anchor="middle", transform=turned)
    if diagonal:
        (left, low), (right, high) = at(x_axis.low, y_axis.low), at(x_axis.high, y_axis.high)
        _add(svg, "path", kind="guide", d=f"M{left:.1f},{low:.1f}L{right:.1f},{high:.1f}")
    for number, (name, some) in enumerate(points.items()):
        pieces = ("L".join(written(x, y) for x, y in piece) for piece in lines[name])
        _add(svg, "path", kind=f"line series{number}", d="M" + "M".join(pieces))
        for point in some:
            x, y = at(point.x, point.y)
            _mark(svg, number, x, y, point.size, point.hint)
    if len(points) > 1:
        _legend(svg, points, LEFT)
    return _markup(svg)


def _drawing(named_by: str, height: float) -> ElementTree.Element:
    view = {"viewBox": f"0 0 {WIDTH} {height:.0f}", "role": "img", "aria-labelledby": named_by}
    return ElementTree.Element("svg", view)


def _add(parent: ElementTree.Element, tag: str, text: str = "", kind: str = "", **attributes) -> ElementTree.Element:
    """Append an element; `kind` is its class, numbers are rounded, `a_b` is written `a-b`."""
    written = {
        name.replace("_", "-"): f"{value:.1f}" if isinstance(value, float) else str(value)
        for name, value in attributes.items()
    }
    element = ElementTree.SubElement(parent, tag, written | ({"class": kind} if kind else {}))
    element.text = text
    return element


def _tick_below(svg, axis: Axis, x: float, value: float, top: float, bottom: float) -> None:
    _add(svg, "path", kind="grid", d=f"M{x:.1f},{top}V{bottom:.1f}")
    _add(svg, "text", axis.write(value), x=x, y=bottom + 15.0, text_anchor="middle")


def _mark(svg, number: int, x: float, y: float, size: float, hint: str) -> None:
    place = f"translate({x:.1f} {y:.1f}) scale({size:.2f})"
    _add(_add(svg, "path", kind=f"mark series{number}", d=MARKERS[number], transform=place), "title", hint)


def _legend(svg, names: Sequence[str], left: float) -> None:
    space = (RIGHT - left) / len(names)
    for number, name in enumerate(names):
        _mark(svg, number, left + 6 + number * space, 9, 4, name)
        _add(svg, "text", name, x=left + 15 + number * space, y=13)


def _markup(svg: ElementTree.Element) -> Markup:
    return Markup(ElementTree.tostring(svg, encoding="unicode"))
