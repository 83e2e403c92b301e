"""Curves of one run: knowledge over ring distance, before and after, and forget over an attack's strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from unbench.leaderboard.labels import printable
from unbench.results.schema import AttackPoint, AttackResult, Group, Result

RINGS = (
    ("forget", "forget"), ("same_subject", "same subject"), ("connected", "connected"), ("same_answer", "same answer"),
    ("same_relation", "same relation"), ("far", "far"), ("world", "world"),
)  # fmt: skip
"""From the forgotten facts outwards; a near ring by its kind, the others by the ring."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 620, 250, 42, 12, 14, 40
LOW, HIGH = -0.1, 1.0
PANEL_WIDTH, PANEL_HEIGHT = 260, 150


@dataclass(frozen=True)
class RingPoint:
    """Knowledge of one ring, means over its counted probes."""

    label: str
    n: int
    before: float | None
    after: float | None
    reference: float | None


def ring_points(result: Result) -> list[RingPoint]:
    """The rings of a run, from the forgotten facts outwards; the kinds of the forget ring weighted by their probes."""
    found = []
    for key, label in RINGS:
        groups = [g for g in result.groups if g.counted and not g.given and _ring_of(g) == key]
        if groups:
            before, after, reference = (
                _mean(groups, name) for name in ("known_target", "known_unlearned", "known_reference")
            )
            found.append(RingPoint(label, sum(group.n for group in groups), before, after, reference))
    return found


def _ring_of(group: Group) -> str:
    return group.kind if group.ring == "near" else group.ring


def _mean(groups: Sequence[Group], name: str) -> float | None:
    pairs = [(getattr(group, name), group.n) for group in groups]
    known = [(value, n) for value, n in pairs if value is not None]
    total = sum(n for _, n in known)
    return sum(value * n for value, n in known) / total if total else None


def ring_svg(points: Sequence[RingPoint], title: str, knowledge: str) -> str:
    """Before, after and reference as lines over the rings; each line has its own dash and mark, besides its colour."""
    step = (WIDTH - LEFT - RIGHT) / max(len(points), 1)
    places = [LEFT + step * (i + 0.5) for i in range(len(points))]
    parts = [_open(WIDTH, HEIGHT, "rings", title,
                   f"{knowledge} over ring distance: the model before (squares), after unlearning (dots), and one that "
                   "never knew (rings, dashed). The table of rings holds the same numbers.", "plot rings")]  # fmt: skip
    parts.append(_grid(WIDTH, LEFT, RIGHT, [_y(v, HEIGHT) for v in (0.0, 0.5, 1.0)], ("0", ".5", "1")))
    narrow = step < 84
    for x, point in zip(places, points, strict=True):
        words = point.label.split(" ") if narrow else [point.label]
        for line, word in enumerate(words):
            parts.append(f'<text class="tick" x="{x:.0f}" y="{HEIGHT - 22 + 14 * line}" text-anchor="middle">'
                         f"{escape(word)}</text>")  # fmt: skip
    for css, name in (("ref", "reference"), ("was", "before"), ("is", "after")):
        drawn = [(x, _y(getattr(p, name), HEIGHT)) for x, p in zip(places, points, strict=True)
                 if getattr(p, name) is not None]  # fmt: skip
        if drawn:
            parts.append(f'<path class="line {css}" d="{_line(drawn)}"/>')
            parts += [_mark(css, x, y) for x, y in drawn]
    return "".join([*parts, "</svg>"])


def attack_svgs(attacks: Sequence[AttackResult]) -> list[str]:
    """A panel for each attack."""
    drawn: list[str] = []
    for number, attack in enumerate(attacks):
        drawn.append(_attack_svg(attack, number, not any(drawn)))
    return drawn


def _attack_svg(attack: AttackResult, number: int, first: bool) -> str:
    """forget over strength, a line a series; the worst point that counts is ringed. Empty for fewer than two points."""
    points = [point for point in attack.points if point.forget.value is not None]
    if len(points) < 2:
        return ""
    series: dict[str, list[AttackPoint]] = {}
    for point in points:
        series.setdefault(point.series, []).append(point)
    lone = all(len(own) == 1 for own in series.values())
    strengths = sorted({point.strength for point in points})
    count = len(points) if lone else len(strengths)
    inner = PANEL_WIDTH - 34 - 10

    def place(index: int) -> float:
        return 34 + inner * (index + 0.5) / count

    name = attack.name.removeprefix("unbench:")
    parts = [_open(PANEL_WIDTH, PANEL_HEIGHT, f"a{number}", f"forget under {name}",
                   f"{len(points)} points; the table of curves holds the same numbers.", "plot panel")]  # fmt: skip
    # Every panel has the same grid: the first one draws it.
    grid = _grid(PANEL_WIDTH, 34, 10, [_py(v) for v in (0.0, 0.5, 1.0)], ("0", ".5", "1"))
    parts.append(grid.replace("<g ", '<g id="pg" class="pg" ', 1) if first else '<use href="#pg"/>')
    if not lone and len(strengths) <= 8:
        parts += [f'<text class="tick" x="{place(i):.0f}" y="{PANEL_HEIGHT - 8}" text-anchor="middle">{s:g}</text>'
                  for i, s in enumerate(strengths)]  # fmt: skip
    worst = attack.points[attack.worst] if attack.worst is not None and attack.worst < len(attack.points) else None
    for index, own in enumerate(series.values()):
        drawn = [(place(index if lone else strengths.index(p.strength)), _py(p.forget.value or 0.0)) for p in own]
        if len(drawn) > 1:
            parts.append(f'<path class="line s{index % 4}" d="{_line(drawn)}"/>')
        for point, (x, y) in zip(own, drawn, strict=True):
            css = "mark" if point.counted else "mark aside"
            parts.append(f'<circle class="{css}" cx="{x:.0f}" cy="{y:.0f}" r="3"/>')
            if point is worst:
                parts.append(f'<circle class="worst" cx="{x:.0f}" cy="{y:.0f}" r="7"/>')
    return "".join([*parts, "</svg>"])


def _open(width: int, height: int, ident: str, title: str, description: str, css: str) -> str:
    return (
        f'<svg class="{css}" viewBox="0 0 {width} {height}" role="img" aria-labelledby="{ident}-t {ident}-d">'
        f'<title id="{ident}-t">{escape(printable(title))}</title><desc id="{ident}-d">{escape(description)}</desc>'
    )


def _grid(width: int, left: int, right: int, heights: Sequence[float], words: Sequence[str]) -> str:
    lines = "".join(f"M{left} {y:.0f}H{width - right}" for y in heights)
    texts = "".join(
        f'<text class="tick" x="{left - 6}" y="{y + 4:.0f}" text-anchor="end">{word}</text>'
        for y, word in zip(heights, words, strict=True)
    )
    return f'<g aria-hidden="true"><path class="grid" d="{lines}"/>{texts}</g>'


def _y(value: float, height: int) -> float:
    share = (min(max(value, LOW), HIGH) - LOW) / (HIGH - LOW)
    return height - BOTTOM - (height - TOP - BOTTOM) * share


def _py(value: float) -> float:
    return PANEL_HEIGHT - 26 - (PANEL_HEIGHT - 26 - 10) * min(max(value, 0.0), 1.0)


def _line(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.0f} {y:.1f}" for x, y in places)


def _mark(css: str, x: float, y: float) -> str:
    if css == "was":
        return f'<rect class="mark was" x="{x - 4:.0f}" y="{y - 4:.1f}" width="8" height="8"/>'
    radius = "5.5" if css == "ref" else "4.5"
    return f'<circle class="mark {css}" cx="{x:.0f}" cy="{y:.1f}" r="{radius}"/>'
