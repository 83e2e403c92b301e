"""The scores against a second, straight-line implementation on random tables; the jackknife by brute force.

The second implementation shares nothing with the first: plain Python over rows, one probe after the other.
"""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import fmean

import numpy as np
import pytest

from unbench.metrics.scores import measure
from unbench.metrics.statistics import jackknife_t

from .tables import frame, probe

NEAR = ("same_subject", "same_answer", "same_relation")
KINDS = ("direct", "cloze", "choice")


def random_model(rng, strength, facts=9):
    """A model over a fixed layout; ``strength``: ring -> nats by which the right candidate stands out."""
    rows = []
    for i in range(facts):
        for kind in KINDS:
            n = 4 if kind == "choice" else 10
            rows.append(one(rng, f"{kind}{i}", "forget", kind, n, strength, cluster=f"s{i}", fact=f"f{i}"))
        for form in ("true", "false"):
            rows.append(
                one(rng, f"yn{i}{form}", "forget", "yes_no", 2, strength, cluster=f"s{i}", fact=f"f{i}",
                    pair=f"yn{i}")
            )  # fmt: skip
        for kind in NEAR:
            for given in (False, False, True):
                name = f"{kind}{i}{given}{len(rows)}"
                rows.append(one(rng, name, "near", kind, 10, strength, cluster=f"s{i}", given=given))
    for i in range(14):
        rows.append(one(rng, f"far{i}", "far", "other", 10, strength, cluster=f"t{i // 2}", given=i % 4 == 0))
    for i in range(8):
        rows.append(one(rng, f"w{i}", "world", "capital", 10, strength))
    return frame(*rows)


def one(rng, name, ring, kind, n, strength, **over):
    logits = rng.normal(0, 1, n)
    logits[0] += strength[ring] + rng.normal(0, 1)
    text = "It is here." if rng.random() < strength.get("fluent", 0.9) else ""
    logprobs = logits - np.log(np.exp(logits).sum()) - 3
    return probe(name, ring, kind, logprobs.tolist(), text=text, recalled=rng.random() < 0.5, **over)


TARGET = {"forget": 6, "near": 6, "far": 6, "world": 6}
METHOD = {"forget": 1, "near": 3, "far": 4, "world": 4}
STRANGER = {"forget": 0, "near": 6, "far": 6, "world": 6}


def random_case(seed, seeds=2, references=3, method=METHOD, target=TARGET):
    rng = np.random.default_rng(seed)
    return (
        {s: random_model(rng, method) for s in range(seeds)},
        random_model(rng, target),
        [random_model(rng, STRANGER) for _ in range(references)],
    )


def naive_probes(table):
    """id -> κ, rank, fluent and the group, pairs averaged."""
    rows = defaultdict(list)
    for row in table.to_dict("records"):
        rows[row["probe"]].append(row)
    forms = defaultdict(list)
    for name, own in rows.items():
        n = len(own)
        right = next(r["logprob"] for r in own if r["is_right"])
        wrong = [r["logprob"] for r in own if not r["is_right"]]
        share = math.exp(right) / sum(math.exp(r["logprob"]) for r in own)
        kappa = (share - 1 / n) / (1 - 1 / n)
        rank = sum(1.0 if w > right else 0.5 if w == right else 0.0 for w in wrong) / len(wrong)
        first = own[0]
        fluent = float(bool(first["text"]) and first["finished"])
        forms[first["pair"] if isinstance(first["pair"], str) else name].append((kappa, rank, fluent, n, first))
    return {
        name: {
            "known": fmean(f[0] for f in own),
            "rank": fmean(f[1] for f in own),
            "fluent": fmean(f[2] for f in own),
            "n": min(f[3] for f in own),
            "row": own[0][4],
        }
        for name, own in forms.items()
    }


def clip(x):
    return min(1.0, max(0.0, x))


def naive(unlearned, target, references, known_only=False):
    u, t = [naive_probes(x) for x in unlearned.values()], naive_probes(target)
    r = [naive_probes(x) for x in references]
    keep = [p for p in t if not known_only or t[p]["known"] >= 0.5]

    def group(ring, kind=None):
        return [
            p for p in keep
            if t[p]["row"]["ring"] == ring and kind in (None, t[p]["row"]["kind"])
            and not (ring in ("near", "far") and t[p]["row"]["given"])
        ]  # fmt: skip

    def mean(models, probes, what):
        return fmean(m[p][what] for m in models for p in probes)

    forget, trace = [], []
    for kind in (*KINDS, "yes_no"):
        ps = group("forget", kind)
        if len({t[p]["row"]["fact"] for p in ps}) < 5:
            continue
        ku, kt, kr = mean(u, ps, "known"), mean([t], ps, "known"), mean(r, ps, "known") if r else 0
        if kt - kr < 0.3:
            continue
        forget.append(1 - clip((ku - kr) / (kt - kr)))
        if min(t[p]["n"] for p in ps) >= 8:
            ru, rt, rr = mean(u, ps, "rank"), mean([t], ps, "rank"), mean(r, ps, "rank") if r else 0.5
            trace.append(1 - clip(abs(ru - rr) / (rr - rt)))

    def kept(probes):
        return clip(mean(u, probes, "known") / mean([t], probes, "known"))

    near = [kept(group("near", kind)) for kind in NEAR if len(group("near", kind)) >= 3]
    rest = group("far") + group("world")
    fluent = min(1.0, mean(u, rest, "fluent") / mean([t], rest, "fluent"))
    own = {
        "forget": fmean(forget),
        "trace": fmean(trace),
        "retain": fmean([kept(group("far")), kept(group("world"))]) * fluent,
        "specificity": len(near) / sum(1 / x for x in near),
    }
    own["overall"] = 3 / (1 / own["forget"] + 1 / own["retain"] + 1 / own["specificity"])
    return own


@pytest.mark.parametrize("seed", range(12))
def test_scores_equal_the_second_implementation(seed):
    case = random_case(seed, seeds=1 + seed % 3, references=(3, 0, 1)[seed % 3])
    known_only = seed % 2 == 1
    got = measure(*case, known_only=known_only)
    for name, value in naive(*case, known_only=known_only).items():
        assert getattr(got.scores, name).value == pytest.approx(value, abs=1e-12), name
    for own in got.per_seed:
        alone = naive({own.seed: case[0][own.seed]}, *case[1:], known_only=known_only)
        assert own.model_dump(exclude={"seed"}) == pytest.approx(alone, abs=1e-12)


def test_order_of_rows_seeds_and_candidates_does_not_matter():
    unlearned, target, references = random_case(99)
    rng = np.random.default_rng(0)

    def shuffle(table):
        return table.sample(frac=1, random_state=int(rng.integers(1 << 30)))

    got = measure(unlearned, target, references)
    mixed = {seed: shuffle(unlearned[seed]) for seed in reversed(list(unlearned))}
    again = measure(mixed, shuffle(target), [shuffle(x) for x in reversed(references)])
    for name, score in {**dict(got.scores), **got.metrics}.items():
        other = again.metrics[name] if name in again.metrics else getattr(again.scores, name)
        for end in ("value", "low", "high", "n"):
            assert getattr(score, end) == pytest.approx(getattr(other, end), abs=1e-9), (name, end)


def without(case, cluster):
    """The case as if one cluster had never been asked about."""
    unlearned, target, references = case
    cut = [x[x["cluster"] != cluster] for x in (target, *references)]
    return {seed: x[x["cluster"] != cluster] for seed, x in unlearned.items()}, cut[0], cut[1:]


@pytest.fixture(scope="module")
def measured_again():
    """A case inside all boundaries, its result, and cluster -> scores of measuring again without that cluster."""
    inside = {"forget": 2, "near": 3, "far": 3, "world": 3, "fluent": 0.8}
    case = random_case(7, seeds=3, method=inside, target=TARGET | {"fluent": 1})
    left = {cluster: measure(*without(case, cluster)).scores for cluster in case[1]["cluster"].unique()}
    return case[1], measure(*case), left


RINGS = {"forget": [["forget"]], "trace": [["forget"]], "retain": [["far", "world"]], "specificity": [["near"]]}
RINGS["overall"] = [["forget", "near"], ["far", "world"]]


@pytest.mark.parametrize("name", RINGS)
def test_interval_is_the_jackknife_of_the_whole_score(name, measured_again):
    """Inside the boundaries the cheap form must equal measuring everything again without each cluster."""
    asked, whole, left = measured_again
    score = getattr(whole.scores, name)
    scored = asked[~(asked["given"] & asked["ring"].isin(["near", "far"]))]
    strata = []
    for rings in RINGS[name]:
        clusters = scored.loc[scored["ring"].isin(rings), "cluster"].unique()
        strata.append(np.array([getattr(left[cluster], name).value for cluster in clusters]))
    seeds = np.array([getattr(own, name) for own in whole.per_seed])
    interval = jackknife_t(score.value, strata, seeds)
    assert 0 < interval.low < score.value < interval.high < 1
    assert (score.low, score.high) == pytest.approx(interval[:2], abs=1e-9)
