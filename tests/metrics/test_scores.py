"""Every score against values worked out by hand, the rules of what counts, and the null cases."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from unbench.metrics.scores import measure

from .tables import frame, model, probe, ranked, spread

FULL = {
    "forget/direct": 1.0, "forget/cloze": 1.0, "near/same_subject": 0.8, "near/same_answer": 1.0,
    "near/same_subject/given": 1.0, "far/other": 0.9, "far/other/given": 1.0, "world/capital": 0.5,
}  # fmt: skip
STRANGER = FULL | {"forget/direct": 0.2, "forget/cloze": 0.0}


def run(unlearned, target=None, references=None, facts=8, **over):
    """measure() over models given as group -> κ; one seed where a dict is given, else one a seed."""
    seeds = unlearned if isinstance(unlearned, list) else [unlearned]
    return measure(
        {i + 1: model(FULL | own, facts) for i, own in enumerate(seeds)},
        model(target or FULL, facts),
        [model(STRANGER | own, facts) for own in ([{}] if references is None else references)],
        **over,
    )


def test_forget_by_hand():
    # direct: (0.4 - 0.2) / (1 - 0.2) = 1/4 left; cloze: (0.5 - 0) / 1 = 1/2 left; mean of 3/4 and 1/2
    got = run({"forget/direct": 0.4, "forget/cloze": 0.5})
    assert got.scores.forget.value == pytest.approx(0.625)
    assert got.metrics["forget_direct"].value == pytest.approx(0.75)
    assert got.metrics["forget_cloze"].value == pytest.approx(0.5)
    assert got.scores.forget.n == 16


def test_forget_without_reference_takes_zero():
    got = run({"forget/direct": 0.4, "forget/cloze": 0.5}, references=[])
    assert got.scores.forget.value == pytest.approx((0.6 + 0.5) / 2)
    assert {g.known_reference for g in got.groups} == {None}


def test_references_are_averaged():
    got = run({"forget/direct": 0.6, "forget/cloze": 0.0}, references=[{"forget/direct": 0.1}, {"forget/direct": 0.3}])
    assert got.metrics["forget_direct"].value == pytest.approx(0.5)


def test_seeds_are_averaged_before_the_clip():
    # Seed 1 is 0.2 under the reference, seed 2 is 0.2 above it: together they know what the reference knows.
    got = run([{"forget/direct": 0.0, "forget/cloze": 0.0}, {"forget/direct": 0.4, "forget/cloze": 0.0}])
    assert got.scores.forget.value == pytest.approx(1.0)
    assert [s.forget for s in got.per_seed] == pytest.approx([1.0, 0.875])
    assert [s.seed for s in got.per_seed] == [1, 2]


def test_residual_is_clipped_on_both_sides():
    assert run({"forget/direct": -0.05, "forget/cloze": -0.05}).scores.forget.value == 1.0
    higher = run({"forget/direct": 1.0, "forget/cloze": 1.0}, target=FULL | {"forget/direct": 0.9})
    assert higher.scores.forget.value == 0.0


def ranks(direct: int, choice: int = 0, n: int = 11) -> pd.DataFrame:
    """Forget probes of ten facts with so many wrong candidates above the right one; choice has four candidates."""
    rows = []
    for i in range(10):
        rows.append(probe(f"d{i}", "forget", "direct", ranked(direct, n)))
        rows.append(probe(f"c{i}", "forget", "choice", ranked(choice, 4)))
    return frame(*rows)


@pytest.mark.parametrize(
    ("unlearned", "trace"),
    [(0, 0.0), (4, 1.0), (2, 0.5), (5, 0.75), (6, 0.5), (9, 0.0), (1, 0.25)],
)
def test_trace_by_hand_on_either_side(unlearned, trace):
    # Target 0, reference 4 of 10 above: R 0 and 0.4; choice has too few candidates and is left out.
    got = measure({1: ranks(unlearned)}, ranks(0), [ranks(4, 2)])
    assert got.scores.trace.value == pytest.approx(trace)
    assert "choice left out: 4 candidates" in got.scores.trace.reason


def test_trace_without_reference_takes_a_half():
    got = measure({1: ranks(3)}, ranks(0), [])
    assert got.scores.trace.value == pytest.approx(0.6)


def test_retain_by_hand():
    # far (withheld): 0.45 / 0.9 = 1/2; world: 0.5 / 0.5 = 1; given far probes don't matter; every answer fluent.
    got = run({"far/other": 0.45, "far/other/given": 0.0})
    assert got.scores.retain.value == pytest.approx(0.75)
    assert got.metrics["far"].value == pytest.approx(0.5)
    assert got.metrics["world"].value == pytest.approx(1.0)
    assert got.metrics["retain_given"].value == pytest.approx(0.5)


def test_retain_is_clipped_by_ring():
    got = run({"far/other": 0.45, "world/capital": 0.9})
    assert got.scores.retain.value == pytest.approx(0.75)


def mute(table: pd.DataFrame, every: int) -> pd.DataFrame:
    """The same model with every n-th far or world answer empty."""
    table = table.copy()
    keep = table["ring"].isin(["far", "world"]) & ~table["given"]
    silent = table.loc[keep, "probe"].drop_duplicates().iloc[::every]
    table.loc[table["probe"].isin(silent), "text"] = ""
    return table


def test_fluency_is_a_factor_relative_to_the_target_and_at_most_one():
    whole, reference = model(FULL, 8), [model(STRANGER, 8)]
    got = measure({1: mute(whole, 4)}, whole, reference)
    assert got.metrics["fluency"].value == pytest.approx(0.75)
    assert got.scores.retain.value == pytest.approx(0.75)
    assert measure({1: mute(whole, 2)}, mute(whole, 4), reference).scores.retain.value == pytest.approx(0.5 / 0.75)
    assert measure({1: whole}, mute(whole, 4), reference).scores.retain.value == 1.0
    silent = measure({1: whole}, mute(whole, 1), reference).scores.retain
    assert silent.value == 1.0
    assert "fluency left out" in silent.reason


def test_specificity_is_the_harmonic_mean_over_withheld_rings():
    # same_subject 0.4 / 0.8 = 1/2, same_answer 0.25: harmonic mean 2 / (2 + 4) = 1/3
    got = run({"near/same_subject": 0.4, "near/same_answer": 0.25, "near/same_subject/given": 0.9})
    assert got.scores.specificity.value == pytest.approx(1 / 3)
    assert got.metrics["near_same_subject"].value == pytest.approx(0.5)
    assert got.metrics["specificity_given"].value == pytest.approx(0.9)
    assert run({"near/same_answer": -0.02}).scores.specificity.value == 0.0


def test_overall_is_the_harmonic_mean_of_three():
    got = run({"forget/direct": 0.6, "forget/cloze": 0.5, "far/other": 0.45, "near/same_subject": 0.4})
    forget, retain, specificity = 0.5, 0.75, 2 / 3
    assert got.scores.specificity.value == pytest.approx(specificity)
    assert got.scores.overall.value == pytest.approx(3 / (1 / forget + 1 / retain + 1 / specificity))
    assert got.per_seed[0].overall == pytest.approx(got.scores.overall.value)
    assert run({}).scores.overall.value == 0.0


@pytest.mark.parametrize("seeds", [1, 3, 7])
def test_a_method_that_does_nothing_scores_exactly_zero_and_one(seeds):
    rng = np.random.default_rng(seeds)
    known = {key: rng.uniform(0.7, 1, 12) for key in FULL}
    target = model(known, 12)
    stranger = model(STRANGER | {"forget/direct": -0.02, "forget/cloze": -0.01}, 12)
    got = measure(dict.fromkeys(range(seeds), target), target, [stranger])
    for name, value in {"forget": 0.0, "trace": 0.0, "retain": 1.0, "specificity": 1.0, "overall": 0.0}.items():
        score = getattr(got.scores, name)
        assert (score.value, score.low, score.high) == (value, value, value)
        assert {getattr(s, name) for s in got.per_seed} == {value}
    assert got.metrics["selectivity"].value == 0.5


def test_selectivity_by_hand():
    # Drops of the direct probes: 8 × log 2 of the right share; near drops nothing but for one probe that drops more.
    near = [0.0] + [0.8] * 7
    got = run({"forget/direct": 0.5, "forget/cloze": 1.0, "near/same_subject": near, "near/same_subject/given": -0.05})
    assert got.metrics["selectivity"].value == pytest.approx(15 / 16)
    assert got.metrics["selectivity"].n == 24


def test_recall_and_suppressed():
    target = model(FULL, 8)
    unlearned = model(FULL | {"forget/cloze": 0.1}, 8)
    unlearned["recalled"] = ~unlearned["probe"].isin([f"forget/direct/{i}" for i in range(4)] + ["forget/cloze/0"])
    got = measure({1: unlearned}, target, [model(STRANGER, 8)])
    assert got.metrics["recall_forget"].value == pytest.approx(11 / 16)
    assert got.metrics["suppressed"].value == pytest.approx(4 / 16)


def test_kinds_without_contrast_or_with_few_facts_are_left_out():
    got = run({"forget/direct": 0.4}, references=[{"forget/cloze": 0.8}])
    assert got.scores.forget.value == pytest.approx(0.75)
    assert "cloze left out: the target knows too little more than the reference, 0.20 < 0.3" in got.scores.forget.reason
    assert got.metrics["forget_cloze"].value is None
    group = next(g for g in got.groups if g.kind == "cloze")
    assert not group.counted
    assert group.reason.startswith("the target knows too little")
    few = run({}, facts=4)
    assert few.scores.forget.value is None
    assert "4 facts, fewer than 5" in few.scores.forget.reason
    assert few.scores.overall.value is None
    assert few.scores.retain.value == 1.0


def test_a_near_ring_of_two_probes_is_left_out():
    extra = frame(*(probe(f"x{i}", "near", "connected", spread(0.9), cluster=f"s{i}") for i in range(2)))
    target = pd.concat([model(FULL, 8), extra])
    got = measure({1: target}, target, [target])
    assert "connected left out: 2 probes, fewer than 3" in got.scores.specificity.reason


def test_a_task_that_withholds_nothing_is_scored_on_given_facts():
    def all_given(known):
        table = model({k: v for k, v in known.items() if not k.endswith("given")}, 8)
        table["given"] = table["ring"].isin(["near", "far"])
        return table

    got = measure({1: all_given(FULL | {"near/same_answer": 0.5, "far/other": 0.45})}, all_given(FULL), [])
    assert got.scores.specificity.value == pytest.approx(2 / 3)
    assert got.scores.retain.value == pytest.approx(0.75)
    assert "near: nothing is withheld, given probes scored" in got.scores.specificity.reason
    assert "far: nothing is withheld, given probes scored" in got.scores.retain.reason
    assert got.metrics["retain_given"].value == pytest.approx(0.75)
    assert all(g.counted for g in got.groups)


def hogwarts(forget: dict[str, list[float]]) -> pd.DataFrame:
    """One fact asked in many ways, with neighbours and the rest of the world."""
    rows = [
        probe(f"{kind}{i}", "forget", kind, spread(kappa, 10), fact="studied_at", cluster="Harry")
        for kind, values in forget.items()
        for i, kappa in enumerate(values)
    ]
    rows += [probe(f"n{i}", "near", "same_relation", spread(0.9, 10), cluster="Harry") for i in range(6)]
    return frame(*rows, *(probe(f"w{i}", "world", "capital", spread(0.9, 10)) for i in range(9)))


def test_one_fact_counts_phrasings_and_leaves_out_what_the_target_does_not_know():
    target = hogwarts({"direct": [0.9, 0.8], "reverse": [0.8], "paraphrase": [0.1]})
    unlearned = hogwarts({"direct": [0.0, 0.0], "reverse": [0.4], "paraphrase": [0.1]})
    got = measure({1: unlearned}, target, [], known_only=True)
    assert got.scores.forget.value == pytest.approx((1 + 0.5) / 2)
    assert got.scores.forget.n == 3
    assert (got.scores.forget.low, got.scores.forget.high) == (None, None)
    assert got.scores.forget.reason == (
        "one fact; paraphrase left out: the target knows none of its probes; interval: one subject"
    )
    group = next(g for g in got.groups if g.kind == "paraphrase")
    assert (group.n, group.n_unknown, group.known_target, group.counted) == (0, 1, None, False)
    assert got.scores.retain.low == 1.0
    assert got.scores.overall.reason == "interval: one subject"


def test_known_only_judges_a_pair_by_its_average():
    def table(true, false, asked):
        pair = frame(
            *(
                probe(f"{form}{i}", "forget", "yes_no", spread(kappa, 2), pair=f"y{i}", fact="f", cluster="s")
                for i, (t, f) in enumerate([(true, false), (1.0, 1.0)])
                for form, kappa in (("true", t), ("false", f))
            )
        )
        assert asked == len(pair)
        return pair

    target = table(0.95, -0.05, 8)  # 0.45 on average: unknown, though the true form is known
    got = measure({1: target}, target, [], known_only=True)
    assert (got.groups[0].n, got.groups[0].n_unknown) == (1, 1)


def test_probability_has_no_trace_and_the_same_other_scores():
    def table(direct, far):
        rows = [probe(f"d{i}", "forget", "direct", [-9.0], tokens=[np.log(direct)] * 3) for i in range(8)]
        rows += [probe(f"f{i}", "far", "other", [-9.0], tokens=[np.log(far)], fact=f"far{i}") for i in range(8)]
        return frame(*rows)

    got = measure({1: table(0.4, 0.6)}, table(0.9, 0.8), [table(0.1, 0.8)], knowledge="probability")
    assert got.scores.forget.value == pytest.approx(1 - 0.3 / 0.8)
    assert got.scores.retain.value == pytest.approx(0.75)
    assert got.scores.trace.value is None
    assert "knowledge is a probability" in got.scores.trace.reason
    assert {g.rank_target for g in got.groups} == {None}
    assert got.scores.specificity.reason == "no near ring counts"


def test_every_null_has_a_reason_and_nothing_is_nan():
    cases = [run({}), run({}, facts=4), run({}, facts=1), run({}, references=[]), run({}, known_only=True)]
    cases.append(measure({1: model({"world/x": 0.9})}, model({"world/x": 0.9}), []))
    for got in cases:
        json.loads(got.model_dump_json())  # allow_inf_nan=False refused NaN when it was built
        scores = [getattr(got.scores, name) for name in type(got.scores).model_fields] + list(got.metrics.values())
        for score in scores:
            assert (score.value is not None and score.low is not None) or score.reason
            assert score.value is None or 0 <= score.value <= 1
            assert score.low is None or 0 <= score.low <= score.value <= score.high <= 1


def test_a_model_that_lacks_probes_is_refused_and_one_with_more_is_welcome():
    whole = model(FULL, 8)
    less = whole[whole["probe"] != "forget/direct/0"]
    with pytest.raises(ValueError, match="The target lacks 1 of 64 probes, forget/direct/0"):
        measure({1: whole}, less, [])
    with pytest.raises(ValueError, match="Seed 2 lacks"):
        measure({1: whole, 2: less}, whole, [])
    assert measure({1: less}, whole, [model(STRANGER, 8)]).scores.forget.n == 15
