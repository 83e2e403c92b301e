"""The metrics under judgement: each turns what one model answered into one number, larger = knows more.

A further metric is one line of ``MEASURES``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from unbench.metaeval.asked import Answers
from unbench.metrics import membership, memorisation, tofu
from unbench.metrics.counting import TRACE_CANDIDATES
from unbench.metrics.items import Items
from unbench.metrics.knowledge import Floats

KINDS = ("direct", "paraphrase", "cloze", "choice", "multi_hop")
"""Forget probe kinds of ``bios``."""
LENS_LEAST = 0.1
"""A layer counts where the target's mean κ behind it reaches this (as the attack logit_lens has it)."""


@dataclass(frozen=True)
class Anchors:
    """Models that some metrics compare with; none of them is in a pool but the target."""

    target: Answers
    references: Sequence[pd.DataFrame]
    """``per_probe`` tables of references that aren't in the pools."""


Value = Callable[[Answers, Anchors], float]


@dataclass(frozen=True)
class Measure:
    """One metric of one model."""

    name: str
    title: str
    value: Value
    """NaN where the model has none."""
    source: str
    """Paper, or UnBench."""
    lowest: Value = lambda answers, anchors: 0.0
    """The least value it can take: ratios of values are taken from there."""
    score: str = ""
    """UnBench's score that it enters; empty for a metric that only stands beside the scores."""


def by_kind(table: pd.DataFrame, column: str) -> pd.Series[Any]:
    """Mean of a column over each kind's probes."""
    return table.groupby("kind", sort=True)[column].mean()


def kappa(*kinds: str) -> Value:
    """Mean over kinds (all: none named) of the mean κ (``unbench.metrics.knowledge``)."""

    def value(answers: Answers, anchors: Anchors) -> float:
        means = by_kind(answers.probes, "known")
        return float(means[list(kinds)].mean() if kinds else means.mean())

    return value


def lowest_kappa(*kinds: str) -> Value:
    """κ of a model that gives the right candidates probability 0: -1/(n - 1), n the candidates."""

    def lowest(answers: Answers, anchors: Anchors) -> float:
        means = by_kind(answers.probes.assign(lowest=-1 / (answers.probes["candidates"] - 1)), "lowest")
        return float(means[list(kinds)].mean() if kinds else means.mean())

    return lowest


def residual(answers: Answers, anchors: Anchors) -> float:
    """1 - forget, as scored: mean over kinds of clip((Ku - Kr) / (Kt - Kr), 0, 1)."""
    own, target = by_kind(answers.probes, "known"), by_kind(anchors.target.probes, "known")
    reference = _reference(anchors, "known")[own.index]
    return float(((own - reference) / (target - reference)).clip(0, 1).mean())


def _reference(anchors: Anchors, column: str) -> pd.Series[Any]:
    return pd.concat([by_kind(table, column) for table in anchors.references], axis=1).mean(axis=1)


def _ranked(answers: Answers) -> pd.DataFrame:
    probes = answers.probes
    fewest = probes.groupby("kind")["candidates"].transform("min")
    return probes[fewest >= TRACE_CANDIDATES]


def rank(answers: Answers, anchors: Anchors) -> float:
    """1 - the mean rank over the kinds with at least 8 candidates."""
    return 1 - float(by_kind(_ranked(answers), "rank").mean())


def trace_residual(answers: Answers, anchors: Anchors) -> float:
    """1 - trace, as scored: mean over those kinds of clip(|Ru - Rr| / (Rr - Rt), 0, 1)."""
    own = by_kind(_ranked(answers), "rank")
    target = by_kind(anchors.target.probes, "rank")[own.index]
    reference = _reference(anchors, "rank")[own.index]
    return float(((own - reference).abs() / (reference - target)).clip(0, 1).mean())


def recall(answers: Answers, anchors: Anchors) -> float:
    """Share of greedy answers that hold the right one, mean over kinds."""
    return float(by_kind(answers.probes, "recall").mean())


def mean_of(value: Callable[[Items], Floats]) -> Value:
    """Mean over the forget rows of a published per-item metric."""
    return lambda answers, anchors: float(np.mean(value(answers.forget)))


def _log_truth_ratio(items: Items) -> Floats:
    return tofu.log_truth_ratio(items.truth_loss, items.wrong_loss)


def preference(items: Items) -> Floats:
    """1 / (1 + TR) of each item: how far it prefers the right answer, 1/2 where indifferent. It rises with knowledge
    everywhere, as the aggregate over min(TR, 1/TR) does not."""
    return np.asarray(1 / (1 + np.exp(_log_truth_ratio(items))))


def _flags(value: Callable[[Any], float]) -> Callable[[Items], Floats]:
    return lambda items: np.array([value(row) for row in items.argmax])


def membership_of(score: Callable[[Items], Floats | None]) -> Value:
    """Area under the ROC curve of forget answers against answers that no model saw."""

    def value(answers: Answers, anchors: Anchors) -> float:
        member, other = score(answers.forget), score(answers.holdout)
        return float("nan") if member is None or other is None else membership.auc(member, other)

    return value


def lens(answers: Answers, anchors: Anchors) -> float:
    """Σ κ_l / Σ h_l over the layers whose h_l, the target's mean κ behind layer l, reaches 0.1 (2605.24614's weights,
    as the attack ``logit_lens`` has them); means over kinds of means over probes."""
    own, held = _by_layer(answers), _by_layer(anchors.target)
    counted = held >= LENS_LEAST
    return float(own[counted].sum() / held[counted].sum()) if counted.any() and len(own) == len(held) else float("nan")


def lowest_lens(answers: Answers, anchors: Anchors) -> float:
    """The lowest κ at every layer that counts."""
    held = _by_layer(anchors.target)
    counted = held >= LENS_LEAST
    least = lowest_kappa()(answers, anchors) * counted.sum()
    return float(least / held[counted].sum()) if counted.any() else 0.0


def _by_layer(answers: Answers) -> Floats:
    probes = answers.probes
    kinds = probes["kind"].to_numpy()
    layers = np.array(probes["lens"].tolist(), dtype=np.float64)  # (probes, layers)
    return np.asarray(np.mean([layers[kinds == kind].mean(axis=0) for kind in sorted(set(kinds))], axis=0))


OPEN = "arXiv:2506.12618"
TOFU = "arXiv:2401.06121"
OWN = "UnBench"


def _all() -> dict[str, Measure]:
    found = [
        Measure("kappa", "κ, mean over kinds", kappa(), OWN, lowest_kappa(), "forget"),
        *(
            Measure(f"kappa_{kind}", f"κ, {kind.replace('_', ' ')}", kappa(kind), OWN, lowest_kappa(kind), "forget")
            for kind in KINDS
        ),
        Measure("residual", "1 − forget", residual, OWN, score="forget"),
        Measure("rank", "1 − rank", rank, OWN, score="trace"),
        Measure("trace_residual", "1 − trace", trace_residual, OWN, score="trace"),
        Measure("recall", "recall", recall, OWN),
        Measure("probability", "probability p(a|q)", mean_of(lambda items: tofu.probability(items.loss)), TOFU),
        Measure("rouge", "ROUGE-L recall", mean_of(lambda items: tofu.rouge_recall(items.answers, items.texts)), TOFU),
        Measure("truth_ratio", "truth ratio, 1 / (1 + TR)", mean_of(preference), OPEN),
        Measure("truth_ratio_tofu", "truth ratio, 1 − min(TR, 1/TR)",
                mean_of(lambda items: 1 - tofu.indifference(_log_truth_ratio(items))), TOFU),
        Measure("extraction_strength", "extraction strength", mean_of(_flags(memorisation.extraction_strength)), OPEN),
        Measure("exact_memorization", "exact memorisation", mean_of(_flags(memorisation.exact_memorization)), OPEN),
        Measure("mia_loss", "membership, loss", membership_of(membership.loss_score), "arXiv:1709.01604"),
        Measure("mia_zlib", "membership, zlib", membership_of(membership.zlib_score), "arXiv:2012.07805"),
        Measure("mia_min_k", "membership, min-k", membership_of(membership.min_k_score), "arXiv:2310.16789"),
        Measure("mia_min_k_plus_plus", "membership, min-k++", membership_of(membership.min_k_plus_plus_score),
                "arXiv:2404.02936"),
        Measure("logit_lens", "logit lens", lens, "arXiv:2605.24614", lowest_lens),
    ]  # fmt: skip
    return {measure.name: measure for measure in found}


MEASURES: Mapping[str, Measure] = MappingProxyType(_all())
PUBLISHED: Mapping[str, float] = MappingProxyType(
    {"logit_lens": 0.90, "extraction_strength": 0.85, "exact_memorization": 0.80, "truth_ratio": 0.73,
     "probability": 0.72, "rouge": 0.70, "mia_min_k": 0.67}
)  # fmt: skip
"""Overall on TOFU: of the logit lens in the symmetric form (arXiv:2605.24614), of the others arXiv:2506.12618."""
