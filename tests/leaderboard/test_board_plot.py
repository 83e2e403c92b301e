"""Pareto front, label placement, the SVG."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from unbench.leaderboard.labels import place_labels
from unbench.leaderboard.plot import MOST_LABELS, OVERALL, Point, Span, cost_axis, pareto_front, scatter_svg


def _point(label: str, x: float, y: float, aside: bool = False) -> Point:
    return Point(label, Span(x, x - 0.05, x + 0.05), Span(y, None, None), aside)


def _overlap(a, b) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def test_front_leaves_out_what_is_beaten_and_what_stands_aside():
    points = [_point("a", 0.9, 0.5), _point("b", 0.5, 0.9), _point("c", 0.5, 0.5), _point("oracle", 1, 1, aside=True)]
    assert [p.label for p in pareto_front(points)] == ["b", "a"]
    assert pareto_front([]) == []


def test_ties_are_all_on_the_front():
    assert [p.label for p in pareto_front([_point("b", 0.5, 0.5), _point("a", 0.5, 0.5)])] == ["a", "b"]


def test_labels_of_a_crowd_do_not_overlap_and_stay_inside():
    anchors = [(300 + 4 * (i % 4), 40 + 5 * (i // 4)) for i in range(12)]
    bounds = (50.0, 10.0, 390.0, 330.0)
    boxes = [place.box for place in place_labels(anchors, [60.0] * 12, 15, bounds)]
    assert len(boxes) == 12
    assert all(_overlap(a, b) == 0 for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(b[0] >= bounds[0] and b[1] >= bounds[1] and b[2] <= bounds[2] and b[3] <= bounds[3] for b in boxes)


def test_svg_holds_title_description_crosses_and_escapes():
    svg = scatter_svg([_point('<script>"&', 0.9, 0.5), _point("b", 0.5, 0.9)], "id-1", "T <b>", "D & d")
    assert "<script>" not in svg
    tree = ElementTree.fromstring(svg)
    assert tree.findtext("title") == "T <b>"
    assert tree.findtext("desc") == "D & d"
    assert tree.get("aria-labelledby") == "id-1-t id-1-d"
    paths = {path.get("class"): path.get("d") for path in tree.iter("path")}
    assert set(paths) == {"grid", "front", "cross"}
    assert (paths["cross"].count("H"), paths["cross"].count("V")) == (2, 0)  # x intervals only
    assert len(list(tree.iter("circle"))) == 2
    assert '<script>"&' in [text.text for text in tree.iter("text")]


def test_svg_of_controls_alone_has_no_front():
    assert 'class="front"' not in scatter_svg([_point("none", 0, 1, aside=True)], "i", "t", "d")


@pytest.mark.parametrize("dip", [0.0, 0.2])
def test_a_crowd_labels_only_its_front_and_not_too_much_of_it(dip):
    points = [_point(f"method-{i}", i / 400, 1 - i / 400 - dip * (i % 20 > 0)) for i in range(400)]
    tree = ElementTree.fromstring(scatter_svg(points, "i", "t", "d"))
    labels = {text.text for text in tree.iter("text") if text.get("class") == "label"}
    assert 1 <= len(labels) <= MOST_LABELS
    assert labels <= {point.label for point in pareto_front(points)}
    assert len(list(tree.iter("circle"))) == 400


def test_cheaper_is_better_to_the_left():
    points = [Point("slow", Span(100.0), Span(0.9)), Point("fast", Span(2.0), Span(0.8)),
              Point("beaten", Span(50.0), Span(0.7)), Point("free", Span(0.0), Span(0.1))]  # fmt: skip
    assert [p.label for p in pareto_front(points, cheap=True)] == ["free", "fast", "slow"]
    axis = cost_axis([point.x.value for point in points])
    assert (axis.low, axis.high) == (1.0, 100.0)
    assert [words for _, words in axis.ticks] == ["1", "10", "100"]
    assert axis.share(0.0) == 0.0
    tree = ElementTree.fromstring(scatter_svg(points, "i", "t", "d", axis, OVERALL, cheap=True))
    assert "← seconds a seed" in [text.text for text in tree.iter("text")]


def test_the_front_is_what_no_other_beats():
    points = [_point(f"p{i}", (7 * i % 23) / 23, (11 * i % 19) / 19) for i in range(60)]
    found = {point.label for point in pareto_front(points)}

    def beaten(p: Point) -> bool:
        return any(
            q.x.value >= p.x.value and q.y.value >= p.y.value and (q.x.value, q.y.value) != (p.x.value, p.y.value)
            for q in points
        )

    assert found == {point.label for point in points if not beaten(point)}
