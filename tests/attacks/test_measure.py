"""What an attack got back: excess, forget under the attack, their intervals, and what counts as certain."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from unbench.attacks.measure import Base, Point, lay_out, points
from unbench.attacks.worst import worst
from unbench.metrics.statistics import jackknife_t
from unbench.metrics.table import Cell, Table, add_up

PEOPLE = 12
KINDS = ("direct", "cloze")


def probes(people: int = PEOPLE, kinds: tuple[str, ...] = KINDS) -> pd.DataFrame:
    rows = [(f"{kind}/{i}", kind, f"person-{i}", f"fact-{i}") for kind in kinds for i in range(people)]
    return pd.DataFrame(rows, columns=["probe", "kind", "cluster", "fact"])


def found(known: np.ndarray, at: tuple[str, float] = ("", 1.0), *, counted: bool = True, people: int = PEOPLE,
          kinds: tuple[str, ...] = KINDS) -> pd.DataFrame:  # fmt: skip
    """What an attack asked: every probe once, at one point."""
    frame = probes(people, kinds)
    return frame.assign(series=at[0], strength=at[1], counted=counted, own=False, known=known, rank=0.0, recall=0.0)


def base(target: np.ndarray, *references: np.ndarray, known_only: bool = False) -> Base:
    frames = [probes().assign(known=known, ring="forget") for known in (target, *references)]
    return Base(frames[0], frames[1:], known_only)


def ordinary(seed: int = 0) -> tuple[np.ndarray, ...]:
    """Known to target, reference, attacked reference and attacked unlearned model."""
    draw = np.random.default_rng(seed)
    n = PEOPLE * len(KINDS)
    return (0.9 + 0.1 * draw.random(n), 0.05 * draw.random(n), 0.1 + 0.1 * draw.random(n), 0.3 + 0.4 * draw.random(n))


def straight(own: np.ndarray, attacked: np.ndarray, target: np.ndarray, reference: np.ndarray,
             keep: np.ndarray) -> tuple[float, float]:  # fmt: skip
    """Excess and forget over the people kept, kind by kind, in a loop."""
    frame = probes()
    excess, forget = [], []
    for kind in KINDS:
        rows = ((frame["kind"] == kind) & frame["cluster"].isin([f"person-{i}" for i in keep])).to_numpy()
        more = own[rows].mean() - attacked[rows].mean()
        excess.append(more)
        forget.append(1 - more / (target[rows].mean() - reference[rows].mean()))
    return float(np.mean(excess)), float(np.mean(forget))


def test_excess_and_forget_equal_a_loop_with_their_intervals() -> None:
    target, reference, attacked, own = ordinary()
    (point,) = points({0: found(own)}, found(attacked), None, base(target, reference))
    excess, forget = straight(own, attacked, target, reference, np.arange(PEOPLE))
    without = [straight(own, attacked, target, reference, np.delete(np.arange(PEOPLE), i)) for i in range(PEOPLE)]
    for score, value, left_out, bounds in (
        (point.shown.excess, excess, [one for one, _ in without], (-2.0, 2.0)),
        (point.shown.forget, forget, [one for _, one in without], (0.0, 1.0)),
    ):
        low, high, _ = jackknife_t(value, [np.array(left_out)], bounds=bounds)
        assert (score.value, score.low, score.high) == pytest.approx((value, low, high), abs=1e-12)
        assert score.n == PEOPLE * len(KINDS)
    assert point.shown.known_unlearned == pytest.approx(own.mean())
    assert point.shown.known_reference == pytest.approx(attacked.mean())
    assert point.part is not None
    assert point.part.left_out["person-3"] == pytest.approx(without[3][1], abs=1e-12)
    assert point.clear


def test_by_hand() -> None:
    """Target 1, reference 0, attacked reference .2, unlearned .6: excess .4, forget .6. Without references: .6, .4."""
    n = PEOPLE * len(KINDS)
    own, attacked = np.full(n, 0.6), np.full(n, 0.2)
    (point,) = points({0: found(own)}, found(attacked), None, base(np.ones(n), np.zeros(n)))
    assert point.shown.excess.value == pytest.approx(0.4)
    assert point.shown.forget.value == pytest.approx(0.6)
    (alone,) = points({0: found(own)}, None, None, base(np.ones(n)))
    assert alone.shown.excess.value == pytest.approx(0.6)
    assert alone.shown.forget.value == pytest.approx(0.4)
    assert alone.shown.known_reference is None


def test_what_the_attack_puts_into_both_is_taken_off() -> None:
    target, reference, _, own = ordinary()
    less = own - 0.3
    (one,) = points({0: found(less)}, found(np.zeros(len(own))), None, base(target, reference))
    (other,) = points({0: found(own)}, found(np.full(len(own), 0.3)), None, base(target, reference))
    assert one.shown.excess.value == pytest.approx(other.shown.excess.value)
    assert one.shown.forget.value == pytest.approx(other.shown.forget.value)


def test_an_attack_on_the_target_too_sets_the_scale() -> None:
    """A quantised target knows .5 and a quantised reference .1; the unlearned model .3 has half of that left."""
    n = PEOPLE * len(KINDS)
    (point,) = points({0: found(np.full(n, 0.3))}, found(np.full(n, 0.1)), found(np.full(n, 0.5)),
                      base(np.ones(n), np.zeros(n)))  # fmt: skip
    assert point.shown.forget.value == pytest.approx(0.5)
    assert point.shown.known_target == pytest.approx(0.5)


def test_seeds_are_averaged_and_widen_the_interval() -> None:
    target, reference, attacked, own = ordinary()
    many = {seed: found(own + shift) for seed, shift in enumerate((-0.2, 0.0, 0.2))}
    (point,) = points(many, found(attacked), None, base(target, reference))
    (one,) = points({0: found(own)}, found(attacked), None, base(target, reference))
    assert point.shown.excess.value == pytest.approx(one.shown.excess.value)
    wide, narrow = (p.shown.excess.high - p.shown.excess.low for p in (point, one))  # type: ignore[operator]
    assert wide > narrow
    assert point.part is not None
    assert point.part.by_seed == pytest.approx([one.shown.forget.value + d for d in (0.2, 0, -0.2)], abs=0.05)  # type: ignore[operator]


def test_a_probe_asked_twice_at_one_point_counts_with_its_mean() -> None:
    target, reference, attacked, own = ordinary()
    twice = pd.concat([found(own - 0.1), found(own + 0.1)])
    (point,) = points({0: twice}, found(attacked), None, base(target, reference))
    (one,) = points({0: found(own)}, found(attacked), None, base(target, reference))
    assert point.shown.excess.value == pytest.approx(one.shown.excess.value)
    assert point.shown.excess.n == one.shown.excess.n


def test_what_the_target_does_not_know_is_left_out() -> None:
    target, reference, attacked, own = ordinary()
    target[:3] = 0.1
    own[:3] = 9.0
    (point,) = points({0: found(own)}, found(attacked), None, base(target, reference, known_only=True))
    assert point.shown.excess.n == PEOPLE * len(KINDS) - 3
    assert point.shown.excess.value is not None
    assert point.shown.excess.value < 1


def test_curves_keep_their_order_and_parts_of_a_point_are_put_together() -> None:
    """Two halves asked in two calls, at two strengths, one of which doesn't count."""
    target, reference, attacked, own = ordinary()
    half = probes()["cluster"].isin([f"person-{i}" for i in range(6)]).to_numpy()
    curve = [(("lr", 20.0), True), (("lr", 5.0), False)]

    def asked(known: np.ndarray) -> pd.DataFrame:
        parts = [found(known, at, counted=counted)[rows] for rows in (half, ~half) for at, counted in curve]
        return pd.concat(parts)

    made = points({0: asked(own)}, asked(attacked), None, base(target, reference))
    (whole,) = points({0: found(own)}, found(attacked), None, base(target, reference))
    assert [(p.shown.series, p.shown.strength, p.shown.counted) for p in made] == [
        ("lr", 20.0, True),
        ("lr", 5.0, False),
    ]
    for point in made:
        assert point.shown.forget.value == pytest.approx(whole.shown.forget.value)
    assert [p.clear for p in made] == [True, False]


def test_models_that_were_not_asked_the_same() -> None:
    target, reference, attacked, own = ordinary()
    with pytest.raises(ValueError, match=r"The reference lacks 1 of 24 probes, cloze/11"):
        points({0: found(own)}, found(attacked)[:-1], None, base(target, reference))


def test_few_facts_give_no_forget_but_an_excess() -> None:
    kinds, people = ("direct",), 3
    n = 3
    frames = [probes(people, kinds).assign(known=known) for known in (np.ones(n), np.zeros(n))]
    (point,) = points({0: found(np.full(n, 0.5), people=people, kinds=kinds)},
                      found(np.zeros(n), people=people, kinds=kinds), None,
                      Base(frames[0], frames[1:], False))  # fmt: skip
    assert point.shown.forget.value is None
    assert "3 facts, fewer than 5" in str(point.shown.forget.reason)
    assert point.shown.excess.value == pytest.approx(0.5)
    assert point.shown.excess.low is None
    assert not point.clear


@pytest.mark.parametrize("curve", [1, pytest.param(12, marks=pytest.mark.slow)])
def test_nothing_got_back_is_seldom_called_certain(curve: int) -> None:
    """An unlearned model that knows as little as the reference: over 200 worlds of 30 people at most 5 % have a point
    that counts, however many points there are; and one that does know (.3 more) is found."""
    draw = np.random.default_rng(7)
    people, n = 30, 30 * len(KINDS)
    frames = [probes(people).assign(known=known) for known in (np.ones(n), np.zeros(n))]
    at = Base(frames[0], frames[1:], False)
    false, true = 0, 0
    worlds = 200
    for _ in range(worlds):
        person = np.tile(draw.normal(0, 0.15, people), len(KINDS))

        def asked(more: float, own: np.ndarray) -> pd.DataFrame:
            return pd.concat([found(more + own + draw.normal(0, 0.1, n), ("", float(s)), people=people)
                              for s in range(curve)])  # fmt: skip

        reference = asked(0.0, person)
        false += any(p.clear for p in points({0: asked(0.0, person[::-1])}, reference, None, at))
        true += any(p.clear for p in points({0: asked(0.3, person[::-1])}, reference, None, at))
    assert false / worlds <= 0.05
    assert true / worlds >= 0.95


def run_table(forget: float, kept: float) -> Table:
    """A run whose unlearned model has ``forget`` forgotten of the forget kinds and ``kept`` of everything else."""
    rings = [("forget", "direct", PEOPLE, 1 - forget), ("near", "same_subject", PEOPLE, kept),
             ("far", "far", PEOPLE, kept), ("world", "world", PEOPLE, kept)]  # fmt: skip
    rows, known, cell = [], [], []
    for g, (ring, kind, n, value) in enumerate(rings):
        for i in range(n):
            who = f"person-{i}" if ring in ("forget", "near") else f"{ring}-{i}"
            rows.append((ring, kind, who, f"{ring}-{i}", False, 20))
            known.append(value)
            cell.append(g)
    meta = pd.DataFrame(rows, columns=["ring", "kind", "cluster", "fact", "given", "n_candidates"])
    cluster, clusters = pd.factorize(meta["cluster"])
    n = len(meta)

    def of(values: np.ndarray, seeds: bool = False) -> dict[str, np.ndarray]:
        names = {"known": values, "rank": np.zeros(n), "recall": values, "right_logprob": np.zeros(n),
                 "fluent": np.ones(n)}  # fmt: skip
        return {name: value[:, None] if seeds else value for name, value in names.items()}

    stranger = np.where(meta["ring"] == "forget", 0.0, 1.0)
    return Table(meta, (0,), of(np.ones(n)), of(np.array(known), True), of(stranger),
                 np.ones(n, dtype=bool), tuple(Cell(r, k, False) for r, k, _, _ in rings), np.array(cell),
                 tuple(map(str, clusters)), np.asarray(cluster, dtype=np.int64), False)  # fmt: skip


def at_point(forget: float, *, counted: bool = True) -> Point:
    n = PEOPLE * len(KINDS)
    own = np.full(n, 1 - forget) + np.linspace(-0.01, 0.01, n)
    (point,) = points({0: found(own, ("lr", 4.0), counted=counted)}, found(np.zeros(n), ("lr", 4.0)), None,
                      base(np.ones(n), np.zeros(n)))  # fmt: skip
    return point


def test_worst_by_hand() -> None:
    """forget .9 and .5 under an attack; retain and specificity .8: overall_worst 3 / (2 + 1.25 + 1.25)."""
    made = worst(run_table(0.9, 0.8), [("unbench:quantize", [at_point(0.7)]), ("other:mine", [at_point(0.5)])])
    assert made.forget_worst.value == pytest.approx(0.5)
    assert made.by == "other:mine at lr, 4"
    assert made.overall_worst.value == pytest.approx(3 / 4.5)
    assert made.attacks == ["unbench:quantize", "other:mine"]
    assert made.overall_worst.low is not None
    assert made.overall_worst.low < 3 / 4.5 < made.overall_worst.high  # type: ignore[operator]


def test_worst_without_anything_got_back_is_forget_itself() -> None:
    table = run_table(0.9, 0.8)
    made = worst(table, [("unbench:quantize", [at_point(0.2, counted=False)]), ("unbench:benign", [])])
    assert made.by == "forget"
    assert made.forget_worst.value == pytest.approx(0.9)
    assert made.overall_worst.value == pytest.approx(3 / (1 / 0.9 + 2.5))


def test_overall_worst_has_the_interval_of_a_loop() -> None:
    """Every forgotten person and every far and world subject left out in turn, all parts together."""
    table = run_table(0.9, 0.8)
    draw = np.random.default_rng(3)
    table.unlearned["known"][:] = np.clip(table.unlearned["known"] + draw.normal(0, 0.05, (len(table.meta), 1)), 0, 1)
    point = at_point(0.5)
    made = worst(table, [("unbench:quantize", [point])])
    assert point.part is not None

    def kept(rows: np.ndarray) -> float:
        return float(table.unlearned["known"][rows, 0].mean())

    ring, who = table.meta["ring"].to_numpy(), table.meta["cluster"].to_numpy()

    def overall(without: str | None) -> float:
        def at(name: str) -> np.ndarray:
            return (ring == name) & (who != without)

        first = point.part.left_out.get(without, point.part.value) if without else point.part.value  # type: ignore[union-attr]
        parts = [first, (kept(at("far")) + kept(at("world"))) / 2, kept(at("near"))]
        return 3 / sum(1 / part for part in parts)

    people = [f"person-{i}" for i in range(PEOPLE)]
    others = sorted(set(who) - set(people))
    strata = [np.array([overall(one) for one in names]) for names in (people, others)]
    low, high, _ = jackknife_t(overall(None), strata)
    assert made.overall_worst.value == pytest.approx(overall(None))
    assert (made.overall_worst.low, made.overall_worst.high) == pytest.approx((low, high), abs=1e-9)


def test_lay_out_reads_as_a_run_would() -> None:
    target, reference, attacked, own = ordinary()
    asked, beside = (found(known).set_index("probe") for known in (own, attacked))
    table = lay_out({0: asked}, beside, None, base(target, reference))
    means = add_up(table).full
    assert means.known_t[0] - means.drop[0] - means.known_r[0] == pytest.approx(
        [(own - attacked)[:PEOPLE].mean(), (own - attacked)[PEOPLE:].mean()]
    )
