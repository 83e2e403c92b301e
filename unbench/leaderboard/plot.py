"""The forget/specificity plot: Pareto front, label placement and inline SVG, in plain Python (no plotting library)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

WIDTH, HEIGHT = 400, 380
LEFT, RIGHT, TOP, BOTTOM = 50, 16, 24, 46
TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MARGIN = 0.04
"""Share of the axis left free beyond 0 and 1, so that no mark is cut."""
CHARACTER, LINE = 7.2, 15.0
"""Rough width of a character and height of a line, in pixels of the drawing."""
LONGEST_LABEL = 26
MOST_LABELS = 40
"""With more points only the front is labelled, thinned out if need be; the others tell their name when pointed at."""


@dataclass(frozen=True)
class Span:
    """A value and its interval."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Point:
    """One run in the plot."""

    label: str
    x: Span
    y: Span
    aside: bool = False
    """Drawn hollow and kept off the Pareto front: a control, or a run that is no full result."""


@dataclass(frozen=True)
class Placed:
    """Where a label goes: its box, and whether it lies so far from its point that a line must lead to it."""

    box: Box
    far: bool


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in x without losing in y (estimates, not intervals), from left to right."""
    rivals = [point for point in points if not point.aside]
    front = [p for p in rivals if not any(_beats(q, p) for q in rivals)]
    return sorted(front, key=lambda p: (p.x.value, -p.y.value, p.label))


def labelled(points: Sequence[Point]) -> list[Point]:
    """The points that get a label: all, or so many of the front as there may be room for."""
    if len(points) <= MOST_LABELS:
        return list(points)
    front = pareto_front(points)
    return front[:: -(-len(front) // MOST_LABELS) or 1]


def place_labels(
    anchors: Sequence[tuple[float, float]],
    widths: Sequence[float],
    height: float,
    bounds: Box,
    arms: Sequence[Box] = (),
) -> list[Placed]:
    """A place for each label near its point, off other labels, points and lines (``arms``) where there is room.

    y grows downwards.
    """
    points = [(x - 5, y - 5, x + 5, y + 5) for x, y in anchors]
    placed: dict[int, Placed] = {}
    for index in sorted(range(len(anchors)), key=lambda i: (-anchors[i][0], anchors[i][1], i)):
        taken = [place.box for place in placed.values()]

        def cost(candidate: tuple[float, Box], taken: list[Box] = taken, own: int = index) -> float:
            radius, box = candidate
            outside = (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, bounds)
            others = sum(_overlap(box, other) for i, other in enumerate(points) if i != own)
            crossed = sum(_overlap(box, arm) for arm in arms)
            return radius + 3 * outside + 2 * others + crossed + 3 * sum(_overlap(box, other) for other in taken)

        radius, box = min(_candidates(anchors[index], widths[index], height), key=cost)
        placed[index] = Placed(box, radius > 16)
    return [placed[index] for index in range(len(anchors))]


def scatter_svg(points: Sequence[Point], ident: str, title: str, description: str) -> str:
    """The plot as an inline SVG: intervals as crosses, the Pareto front as steps, every point labelled.

    ``ident`` must be unique on the page. All text is escaped; colours come from the page's style sheet.
    """
    names = {"aria-labelledby": f"{ident}-title", "aria-describedby": f"{ident}-desc"}
    svg = ElementTree.Element("svg", {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "class": "plot", **names})
    ElementTree.SubElement(svg, "title", {"id": f"{ident}-title"}).text = printable(title)
    ElementTree.SubElement(svg, "desc", {"id": f"{ident}-desc"}).text = printable(description)
    _draw_axes(svg)
    _draw_front(svg, pareto_front(points))
    for point in points:
        _draw_cross(svg, point)
    for point in points:
        _draw_mark(svg, point)
    _draw_labels(svg, labelled(points))
    return ElementTree.tostring(svg, encoding="unicode")


def _beats(a: Point, b: Point) -> bool:
    no_worse = a.x.value >= b.x.value and a.y.value >= b.y.value
    return no_worse and (a.x.value > b.x.value or a.y.value > b.y.value)


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _candidates(anchor: tuple[float, float], width: float, height: float) -> list[tuple[float, Box]]:
    found = []
    for radius in (9.0, 16.0, 26.0, 40.0, 56.0, 74.0, 94.0, 116.0, 140.0):
        for turn in range(16):
            angle = 2 * math.pi * turn / 16
            x, y = anchor[0] + radius * math.cos(angle), anchor[1] + radius * math.sin(angle)
            # The side of the box that faces the point touches the circle.
            left = x - width * (1 - math.cos(angle)) / 2
            top = y - height * (1 - math.sin(angle)) / 2
            found.append((radius + 0.01 * turn, (left, top, left + width, top + height)))
    return found


def _px(value: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (value + MARGIN) / (1 + 2 * MARGIN)


def _py(value: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value + MARGIN) / (1 + 2 * MARGIN)


def _number(value: float) -> str:
    return f"{value:.1f}"


def _line(parent: ElementTree.Element, css: str, x1: float, y1: float, x2: float, y2: float) -> None:
    ends = {"x1": _number(x1), "y1": _number(y1), "x2": _number(x2), "y2": _number(y2)}
    ElementTree.SubElement(parent, "line", {"class": css, **ends})


def _text(parent: ElementTree.Element, css: str, x: float, y: float, text: str, **attributes: str) -> None:
    place = {"class": css, "x": _number(x), "y": _number(y), **attributes}
    ElementTree.SubElement(parent, "text", place).text = text


def _draw_axes(svg: ElementTree.Element) -> None:
    # A screen reader gets title and description; ticks read one by one would only be noise.
    group = ElementTree.SubElement(svg, "g", {"aria-hidden": "true"})
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
    for tick in TICKS:
        _line(group, "grid", _px(tick), top, _px(tick), bottom)
        _line(group, "grid", left, _py(tick), right, _py(tick))
        _text(group, "tick", _px(tick), bottom + 16, f"{tick:.1f}", **{"text-anchor": "middle"})
        _text(group, "tick", left - 7, _py(tick) + 4, f"{tick:.1f}", **{"text-anchor": "end"})
    _text(group, "axis", (left + right) / 2, HEIGHT - 8, "forget →", **{"text-anchor": "middle"})
    turn = f"rotate(-90 14 {_number((top + bottom) / 2)})"
    _text(group, "axis", 14, (top + bottom) / 2, "specificity →", **{"text-anchor": "middle", "transform": turn})


def _front_lines(front: Sequence[Point]) -> list[Box]:
    """The steps of the front as lines, from the left axis down to the lower one."""
    lines: list[Box] = []
    x = _px(0)
    for point, following in zip(front, [*front[1:], None], strict=False):
        y, right = _py(point.y.value), _px(point.x.value)
        lines += [(x, y, right, y), (right, y, right, _py(following.y.value if following else 0))]
        x = right
    return lines


def _draw_front(svg: ElementTree.Element, front: Sequence[Point]) -> None:
    lines = _front_lines(front)
    if lines:
        start = f"M{_number(lines[0][0])},{_number(lines[0][1])}"
        steps = [f"L{_number(x)},{_number(y)}" for _, _, x, y in lines]
        ElementTree.SubElement(svg, "path", {"class": "front", "d": "".join([start, *steps])})


def _draw_cross(svg: ElementTree.Element, point: Point) -> None:
    css = "cross aside" if point.aside else "cross"
    for x1, y1, x2, y2 in _arms(point):
        _line(svg, css, x1, y1, x2, y2)


def _arms(point: Point) -> list[Box]:
    """Ends of the cross's lines: left, top, right, bottom of each."""
    x, y = _px(point.x.value), _py(point.y.value)
    found: list[Box] = []
    if point.x.low is not None and point.x.high is not None:
        found.append((_px(point.x.low), y, _px(point.x.high), y))
    if point.y.low is not None and point.y.high is not None:
        found.append((x, _py(point.y.high), x, _py(point.y.low)))
    return found


def _draw_mark(svg: ElementTree.Element, point: Point) -> None:
    place = {"cx": _number(_px(point.x.value)), "cy": _number(_py(point.y.value)), "r": "4.5"}
    mark = ElementTree.SubElement(svg, "circle", {"class": "mark aside" if point.aside else "mark", **place})
    spans = (
        f"{name} {span.value:.2f}"
        + (f" [{span.low:.2f}, {span.high:.2f}]" if span.low is not None and span.high is not None else "")
        for name, span in (("forget", point.x), ("specificity", point.y))
    )
    ElementTree.SubElement(mark, "title").text = f"{printable(point.label)}: {', '.join(spans)}"


def _draw_labels(svg: ElementTree.Element, points: Sequence[Point]) -> None:
    labels = [shorten(point.label) for point in points]
    anchors = [(_px(point.x.value), _py(point.y.value)) for point in points]
    bounds = (LEFT + 2.0, TOP - 18.0, WIDTH - 2.0, HEIGHT - BOTTOM - 2.0)
    lines = [line for point in points for line in _arms(point)] + _front_lines(pareto_front(points))
    arms = [(a - 1.5, b - 1.5, c + 1.5, d + 1.5) for a, b, c, d in lines]
    places = place_labels(anchors, [CHARACTER * len(label) for label in labels], LINE, bounds, arms)
    for point, label, (x, y), place in zip(points, labels, anchors, places, strict=True):
        left, top, right, bottom = place.box
        if place.far:
            _line(svg, "leader", x, y, min(max(x, left), right), min(max(y, top), bottom))
        anchor, at = ("middle", (left + right) / 2)
        if left >= x:
            anchor, at = ("start", left)
        elif right <= x:
            anchor, at = ("end", right)
        _text(svg, "label aside" if point.aside else "label", at, bottom - 4, label, **{"text-anchor": anchor})


def shorten(label: str) -> str:
    """A label that fits the plot."""
    label = printable(label)
    return label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"


def printable(text: str) -> str:
    """Text that XML can hold: control characters, and those that turn the writing direction, are replaced."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
