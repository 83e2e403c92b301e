"""The forget/specificity plot: Pareto front, label placement and inline SVG, in plain Python (no plotting library)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from unbench.leaderboard.labels import CHARACTER, LINE, Box, place_labels, printable, shorten

WIDTH, HEIGHT = 420, 380
LEFT, RIGHT, TOP, BOTTOM = 50, 16, 16, 46
MARGIN = 0.04
"""Share of the axis left free beyond its ends, so that no mark is cut."""
MOST_LABELS = 40
"""With more points only the front is labelled, thinned out if need be; the table tells the others."""


@dataclass(frozen=True)
class Axis:
    """What an axis shows, from one end to the other."""

    label: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    """Whether its steps are powers of ten; values below ``low`` are drawn there."""

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Values and their words."""
        if not self.log:
            return [(i / 5, f"{i / 5:.1f}") for i in range(6)]
        first, last = round(math.log10(self.low)), round(math.log10(self.high))
        return [(10.0**power, _power(power)) for power in range(first, last + 1)]

    def share(self, value: float) -> float:
        """Place between the ends, 0 to 1."""
        if not self.log:
            return (value - self.low) / (self.high - self.low)
        low, high = math.log10(self.low), math.log10(self.high)
        return (math.log10(max(value, self.low)) - low) / (high - low)


FORGET, SPECIFICITY, OVERALL = Axis("forget"), Axis("specificity"), Axis("overall")


def cost_axis(values: Sequence[float]) -> Axis:
    """Seconds on a logarithmic axis that holds all values, one decade at least."""
    seen = [value for value in values if value > 0] or [1.0]
    low = max(math.floor(math.log10(min(seen))), -2)
    return Axis("seconds a seed", 10.0**low, 10.0 ** max(math.ceil(math.log10(max(seen))), low + 1), log=True)


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


def pareto_front(points: Sequence[Point], cheap: bool = False) -> list[Point]:
    """Points that no other beats in x without losing in y (estimates, not intervals), from left to right; ``cheap``:
    less of x is better."""
    sign = -1.0 if cheap else 1.0
    rivals = sorted((p for p in points if not p.aside), key=lambda p: (-sign * p.x.value, -p.y.value, p.label))
    front: list[Point] = []
    for point in rivals:  # from the best x on: on the front where y is better than everything before
        best = front[-1] if front else None
        if (
            best is None
            or point.y.value > best.y.value
            or (point.x.value, point.y.value) == (best.x.value, best.y.value)
        ):
            front.append(point)
    return sorted(front, key=lambda p: (p.x.value, -sign * p.y.value, p.label))


def labelled(points: Sequence[Point], cheap: bool = False) -> list[Point]:
    """The points that get a label: all, or so many of the front as there may be room for."""
    if len(points) <= MOST_LABELS:
        return list(points)
    front = pareto_front(points, cheap)
    return front[:: -(-len(front) // MOST_LABELS) or 1]


def scatter_svg(
    points: Sequence[Point],
    ident: str,
    title: str,
    description: str,
    x: Axis = FORGET,
    y: Axis = SPECIFICITY,
    cheap: bool = False,
) -> str:
    """The plot as an inline SVG: intervals as crosses, the Pareto front as steps, points labelled.

    ``ident`` must be unique on the page; ``cheap``: less of x is better. All text is escaped; colours come from the
    page's style sheet.
    """
    names = {"aria-labelledby": f"{ident}-t {ident}-d"}
    svg = ElementTree.Element("svg", {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "class": "plot", **names})
    ElementTree.SubElement(svg, "title", {"id": f"{ident}-t"}).text = printable(title)
    ElementTree.SubElement(svg, "desc", {"id": f"{ident}-d"}).text = printable(description)
    _Scatter(svg, points, x, y, cheap).draw()
    return ElementTree.tostring(svg, encoding="unicode", short_empty_elements=True).replace(" />", "/>")


def _power(power: int) -> str:
    """10 to the power, in few letters: 0.1, 1, 100, 10k."""
    value = 10.0**power
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def text_at(parent: ElementTree.Element, css: str, x: float, y: float, text: str, **attributes: str) -> None:
    """A text element."""
    place = {"class": css, "x": _number(x), "y": _number(y), **attributes}
    ElementTree.SubElement(parent, "text", place).text = text


class _Scatter:
    """One plot being drawn."""

    def __init__(self, svg: ElementTree.Element, points: Sequence[Point], x: Axis, y: Axis, cheap: bool) -> None:
        self.svg, self.points, self.x, self.y, self.cheap = svg, points, x, y, cheap
        self.front = pareto_front(points, cheap)

    def draw(self) -> None:
        self._axes()
        # One path each: a board may have a hundred crosses, and the page thousands.
        self._path("front", self._front_lines(), closed=True)
        self._path("cross", [arm for point in self.points if not point.aside for arm in self._arms(point)])
        self._path("cross aside", [arm for point in self.points if point.aside for arm in self._arms(point)])
        for point in self.points:
            place = {"cx": _number(self._px(point.x.value)), "cy": _number(self._py(point.y.value)), "r": "4.5"}
            ElementTree.SubElement(self.svg, "circle", {"class": "mark aside" if point.aside else "mark", **place})
        self._labels(labelled(self.points, self.cheap))

    def _px(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (self.x.share(value) + MARGIN) / (1 + 2 * MARGIN)

    def _py(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (self.y.share(value) + MARGIN) / (1 + 2 * MARGIN)

    def _axes(self) -> None:
        # A screen reader gets title and description; ticks read one by one would only be noise.
        group = ElementTree.SubElement(self.svg, "g", {"aria-hidden": "true"})
        left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
        across = [(self._px(value), words) for value, words in self.x.ticks]
        up = [(self._py(value), words) for value, words in self.y.ticks]
        grid = [(x, top, x, bottom) for x, _ in across] + [(left, y, right, y) for y, _ in up]
        self._path("grid", grid, parent=group)
        for x, words in across:
            text_at(group, "tick", x, bottom + 16, words, **{"text-anchor": "middle"})
        for y, words in up:
            text_at(group, "tick", left - 7, y + 4, words, **{"text-anchor": "end"})
        better = "← {}" if self.cheap else "{} →"
        text_at(group, "axis", (left + right) / 2, HEIGHT - 8, better.format(self.x.label), **{"text-anchor": "middle"})
        turn = f"rotate(-90 14 {_number((top + bottom) / 2)})"
        anchor = {"text-anchor": "middle", "transform": turn}
        text_at(group, "axis", 14, (top + bottom) / 2, f"{self.y.label} →", **anchor)

    def _front_lines(self) -> list[Box]:
        """The steps of the front as lines: from the left axis down to the lower one, or up from it to the right."""
        front = list(reversed(self.front)) if self.cheap else self.front
        lines: list[Box] = []
        x = WIDTH - RIGHT if self.cheap else self._px(self.x.low)
        for point, following in zip(front, [*front[1:], None], strict=False):
            y, edge = self._py(point.y.value), self._px(point.x.value)
            lines += [(x, y, edge, y), (edge, y, edge, self._py(following.y.value if following else self.y.low))]
            x = edge
        return lines

    def _arms(self, point: Point) -> list[Box]:
        """Ends of the cross's lines: left, top, right, bottom of each."""
        x, y = self._px(point.x.value), self._py(point.y.value)
        found: list[Box] = []
        if point.x.low is not None and point.x.high is not None:
            found.append((self._px(point.x.low), y, self._px(point.x.high), y))
        if point.y.low is not None and point.y.high is not None:
            found.append((x, self._py(point.y.high), x, self._py(point.y.low)))
        return found

    def _path(self, css: str, lines: Sequence[Box], closed: bool = False,
              parent: ElementTree.Element | None = None) -> None:  # fmt: skip
        """Lines as one path; ``closed``: each begins where the one before ended."""
        if not lines:
            return
        steps = []
        for index, (x1, y1, x2, y2) in enumerate(lines):
            if not (closed and index):
                steps.append(f"M{_number(x1)} {_number(y1)}")
            steps.append(f"H{_number(x2)}" if y1 == y2 else f"V{_number(y2)}")
        ElementTree.SubElement(self.svg if parent is None else parent, "path", {"class": css, "d": "".join(steps)})

    def _labels(self, points: Sequence[Point]) -> None:
        labels = [shorten(point.label) for point in points]
        anchors = [(self._px(point.x.value), self._py(point.y.value)) for point in points]
        bounds = (LEFT + 2.0, TOP - 10.0, WIDTH - 2.0, HEIGHT - BOTTOM - 2.0)
        lines = [line for point in points for line in self._arms(point)]
        lines += [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in self._front_lines()]
        arms = [(a - 1.5, b - 1.5, c + 1.5, d + 1.5) for a, b, c, d in lines]
        places = place_labels(anchors, [CHARACTER * len(label) for label in labels], LINE, bounds, arms)
        leaders = []
        for (x, y), place in zip(anchors, places, strict=True):
            left, top, right, bottom = place.box
            if place.far:
                end = min(max(x, left), right), min(max(y, top), bottom)
                leaders.append(f"M{_number(x)} {_number(y)}L{_number(end[0])} {_number(end[1])}")
        if leaders:
            ElementTree.SubElement(self.svg, "path", {"class": "leader", "d": "".join(leaders)})
        for point, label, (x, _), place in zip(points, labels, anchors, places, strict=True):
            left, _, right, bottom = place.box
            anchor, at = "middle", (left + right) / 2
            if left >= x:
                anchor, at = "start", left
            elif right <= x:
                anchor, at = "end", right
            css = "label aside" if point.aside else "label"
            text_at(self.svg, css, at, bottom - 4, label, **{"text-anchor": anchor})
