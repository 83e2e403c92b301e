"""Every metric of one model against independent arithmetic, and all of them the right way round."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu

from unbench.metaeval.asked import COLUMNS, Answers
from unbench.metaeval.measures import KINDS, MEASURES, PUBLISHED, Anchors

FACTS = 6
CANDIDATES = {"direct": 20, "paraphrase": 20, "cloze": 20, "choice": 4, "multi_hop": 16}


def table(knows: float, seed: int) -> pd.DataFrame:
    """Answers of a made-up model that knows this share (0 to 1) of everything."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    blank: dict[str, Any] = {name: [] for name in ("wrong", "logprobs", "argmax", "mean", "variance", "lens")}
    for kind in KINDS:
        for i in range(FACTS):
            known = float(np.clip(knows + rng.uniform(-0.05, 0.05), -0.03, 1))
            lens = [0.02 * rng.uniform(), known / 2, known]
            rows.append(blank | {
                "part": "probe", "probe": f"{kind}/{i}", "kind": kind, "cluster": f"s{i}", "fact": f"f{i}",
                "known": known, "rank": float(np.clip(0.5 - known / 2, 0, 1)), "recall": float(rng.uniform() < knows),
                "candidates": CANDIDATES[kind], "answer": "", "text": "", "lens": lens,
            })  # fmt: skip
    for part, count in (("sentence", FACTS), ("holdout", 9)):
        for i in range(count):
            share = knows if part == "sentence" else 0.0
            sure = [-0.05, -3.0 + 2.9 * share + 0.02 * rng.uniform(), -0.2 - 0.1 * rng.uniform()]
            rows.append(blank | {
                "part": part, "probe": f"{part}/{i}", "kind": "direct", "cluster": f"s{i}", "fact": f"f{i}",
                "known": 0.0, "rank": float("nan"), "recall": 0.0, "candidates": 4, "answer": f"Ada{i} lives in Rome.",
                "text": f"Ada{i} lives in Rome." if rng.uniform() < share else f"Ada{i} lives in Bern.",
                "wrong": list(rng.uniform(0.4, 0.8, 3) + share), "logprobs": sure,
                "argmax": [True, bool(share > 0.5), True], "mean": [-4.0, -5.0, -6.0], "variance": [2.0, 3.0, 4.0],
            })  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


TARGET, OWN, STRANGER = (Answers(table(knows, seed)) for knows, seed in ((1.0, 1), (0.6, 2), (0.0, 3)))
ANCHORS = Anchors(TARGET, [Answers(table(0.0, seed)).probes for seed in (4, 5)])


def value(name: str, answers: Answers = OWN) -> float:
    return MEASURES[name].value(answers, ANCHORS)


def means(answers: Answers, column: str, kinds: tuple[str, ...] = KINDS) -> list[float]:
    rows = answers.table.to_dict("records")
    return [
        sum(row[column] for row in rows if row["part"] == "probe" and row["kind"] == kind) / FACTS for kind in kinds
    ]


def sentences(part: str = "sentence", answers: Answers = OWN) -> list[dict[Any, Any]]:
    return [row for row in answers.table.to_dict("records") if row["part"] == part]


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_larger_means_knows_more(name: str) -> None:
    assert value(name, TARGET) >= value(name, OWN) >= value(name, STRANGER)
    assert value(name, TARGET) > value(name, STRANGER)


def test_kappa_and_its_lowest() -> None:
    known = means(OWN, "known")
    assert value("kappa") == pytest.approx(sum(known) / 5)
    for kind, own in zip(KINDS, known, strict=True):
        assert value(f"kappa_{kind}") == pytest.approx(own)
        assert MEASURES[f"kappa_{kind}"].lowest(OWN, ANCHORS) == pytest.approx(-1 / (CANDIDATES[kind] - 1))
    expected = -sum(1 / (n - 1) for n in CANDIDATES.values()) / 5
    assert MEASURES["kappa"].lowest(OWN, ANCHORS) == pytest.approx(expected)


def test_residual_and_trace_are_the_scores_turned_round() -> None:
    references = [Answers(own.assign(part="probe")) for own in ANCHORS.references]
    parts = []
    for u, t, *r in zip(means(OWN, "known"), means(TARGET, "known"), *(means(x, "known") for x in references),
                        strict=True):  # fmt: skip
        base = sum(r) / 2
        parts.append(min(max((u - base) / (t - base), 0), 1))
    assert value("residual") == pytest.approx(sum(parts) / 5)
    ranked = tuple(kind for kind in KINDS if CANDIDATES[kind] >= 8)
    assert value("rank") == pytest.approx(1 - sum(means(OWN, "rank", ranked)) / 4)
    parts = []
    for u, t, *r in zip(means(OWN, "rank", ranked), means(TARGET, "rank", ranked),
                        *(means(x, "rank", ranked) for x in references), strict=True):  # fmt: skip
        base = sum(r) / 2
        parts.append(min(abs(u - base) / (base - t), 1))
    assert value("trace_residual") == pytest.approx(sum(parts) / 4)


def test_recall_is_a_mean_over_kinds() -> None:
    assert value("recall") == pytest.approx(sum(means(OWN, "recall")) / 5)


def test_published_means_over_sentences() -> None:
    rows = sentences()
    losses = [-sum(row["logprobs"]) / 3 for row in rows]
    assert value("probability") == pytest.approx(np.mean([math.exp(-loss) for loss in losses]))
    ratios = [math.exp(loss - sum(row["wrong"]) / 3) for row, loss in zip(rows, losses, strict=True)]
    assert value("truth_ratio") == pytest.approx(np.mean([1 / (1 + ratio) for ratio in ratios]))
    assert value("truth_ratio_tofu") == pytest.approx(np.mean([1 - min(ratio, 1 / ratio) for ratio in ratios]))
    # Four words, of which the wrong greedy answers hold three.
    said = [1.0 if row["text"] == row["answer"] else 0.75 for row in rows]
    assert value("rouge") == pytest.approx(np.mean(said))
    # The second of three tokens is no first choice in a model that knows less than half.
    half = Answers(table(0.4, 2))
    assert value("exact_memorization", half) == pytest.approx(2 / 3)
    assert value("extraction_strength", half) == pytest.approx(1 / 3)
    assert value("extraction_strength") == 1.0


def test_membership_is_the_area_of_forget_against_holdout() -> None:
    def loss(row: dict[Any, Any]) -> float:
        return float(np.mean(row["logprobs"]))

    def low(values: list[float]) -> float:
        return float(np.sort(values)[:1].mean())  # ⌊0.4 · 3⌋ = 1

    scores = {
        "mia_loss": loss,
        "mia_zlib": lambda row: loss(row) / len(zlib.compress(row["answer"].encode())),
        "mia_min_k": lambda row: low(row["logprobs"]),
        "mia_min_k_plus_plus": lambda row: low(
            [(p - m) / math.sqrt(v) for p, m, v in zip(row["logprobs"], row["mean"], row["variance"], strict=True)]
        ),
    }
    weak = Answers(table(0.003, 7))  # close to the holdout's, so that the pairs are mixed
    for name, score in scores.items():
        a, b = ([score(row) for row in sentences(part, weak)] for part in ("sentence", "holdout"))
        expected = mannwhitneyu(a, b).statistic / (len(a) * len(b))
        assert value(name, weak) == pytest.approx(expected)
        assert 0 < expected < 1


def test_lens_weights_layers_by_what_the_target_holds() -> None:
    def layer(answers: Answers, i: int) -> float:
        rows = [row for row in answers.table.to_dict("records") if row["part"] == "probe"]
        return float(np.mean([np.mean([r["lens"][i] for r in rows if r["kind"] == kind]) for kind in KINDS]))

    # The first layer holds next to nothing in the target: it doesn't count.
    assert layer(TARGET, 0) < 0.1 < layer(TARGET, 1)
    held = layer(TARGET, 1) + layer(TARGET, 2)
    assert value("logit_lens") == pytest.approx((layer(OWN, 1) + layer(OWN, 2)) / held)
    assert value("logit_lens", TARGET) == pytest.approx(1.0)
    lowest = MEASURES["kappa"].lowest(OWN, ANCHORS)
    assert MEASURES["logit_lens"].lowest(OWN, ANCHORS) == pytest.approx(2 * lowest / held)


def test_every_published_metric_is_there() -> None:
    assert set(PUBLISHED) <= set(MEASURES)
