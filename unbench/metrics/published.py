"""The published metrics of a task whose knowledge is a probability: TOFU's and open-unlearning's, by name.

Each is computed for every seed's unlearned model by the formulas of ``tofu``, ``memorisation``, ``membership`` and
``fluency_text``; the value is the mean over seeds. Where several references exist the FIRST is compared with, as
published: one model retrained once. A pool of references, or a mean of p-values, would be another statistic. They are
read over all probes of a family (``items``), known to the target or not; the target itself enters none of them.

Means, areas and the utility have the jackknife-t interval over clusters; a p-value and its statistic have none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from unbench.metrics import fluency_text, membership, memorisation, tofu
from unbench.metrics.estimates import Area, Mean, area_of, joint, mean_of
from unbench.metrics.items import WORDS, Items, Models
from unbench.metrics.knowledge import Floats
from unbench.metrics.statistics import finish
from unbench.metrics.tofu import TruthRatio
from unbench.results.schema import Score

UTILITY = ("retain", "real_authors", "world_facts")
"""Families of the model utility."""

WRONG = "a wrong answer"
ROUGE_READS = "an answer in letters a to z or digits (ROUGE reads no others)"
"""What an item needs to have a value."""

PerItem = Callable[[Items], Floats]
"""One value an item, (n,), NaN where an item has none."""
Bounds = tuple[float, float]
UNIT: Bounds = (0.0, 1.0)
BITS: Bounds = (0.0, np.inf)
PRIVLEAK: Bounds = (-100.0, np.inf)


def published(unlearned: Mapping[int, pd.DataFrame], references: Sequence[pd.DataFrame] = ()) -> dict[str, Score]:
    """All published metrics of one run; ``mia_gradnorm`` only where the responses have gradient norms.

    Args:
        unlearned: seed -> responses of that seed's unlearned model (columns: ``unbench.responses``).
        references: responses of the reference models; only the first is read.

    Returns:
        name -> score. What the task has no rows for is null with its reason.

    Raises:
        ValueError: no seed, a seed that lacks probes of the first, or a log-probability that is NaN or above 0.
    """
    models = Models.read(unlearned, references)
    means = {
        name: _mean(models, family, value, ROUGE_READS if value is _rouge else WRONG)
        for name, (family, value, _) in PER_ITEM.items()
    }
    out = {name: _mean_score(mean, PER_ITEM[name][2]) for name, mean in means.items()}
    out["model_utility"] = _utility(means, "truth_ratio")
    out["model_utility_arithmetic"] = _utility(means, "truth_ratio_arithmetic")
    return out | _quality(models) | _memberships(models)


def _options(own: Items) -> Floats:
    return np.where(own.has_wrong, tofu.option_probability(own.loss, own.wrong_loss), np.nan)


def _log_ratio(own: Items, how: TruthRatio = "geometric") -> Floats:
    out = np.full(len(own.loss), np.nan)
    there = own.has_wrong
    out[there] = tofu.log_truth_ratio(own.truth_loss[there], own.wrong_loss[there], how)
    return out


def _rouge(own: Items) -> Floats:
    # rouge_score reads letters a to z and digits alone: in another script every answer would score 0, as if forgotten.
    read = [re.search("[a-z0-9]", answer.lower()) is not None for answer in own.answers]
    return np.where(read, tofu.rouge_recall(own.answers, own.texts), np.nan)


def _per_item() -> dict[str, tuple[str, PerItem, Bounds]]:
    """Name -> family, per-item value and bounds of every metric that is a plain mean over items."""

    def texts(value: Callable[[str], float]) -> PerItem:
        return lambda own: np.array([value(text) for text in own.texts])

    def flags(value: Callable[[Any], float]) -> PerItem:
        return lambda own: np.array([value(row) for row in own.argmax])

    def ratio(family: str, how: TruthRatio) -> PerItem:
        aggregate = tofu.indifference if family == "forget" else tofu.truthfulness
        return lambda own: aggregate(_log_ratio(own, how))

    out: dict[str, tuple[str, PerItem, Bounds]] = {}
    for family in ("forget", *UTILITY):
        options = family in ("real_authors", "world_facts")
        out[f"{family}_probability"] = family, _options if options else lambda own: tofu.probability(own.loss), UNIT
        out[f"{family}_rouge"] = family, _rouge, UNIT
        out[f"{family}_truth_ratio"] = family, ratio(family, "geometric"), UNIT
        out[f"{family}_truth_ratio_arithmetic"] = family, ratio(family, "arithmetic"), UNIT
    out["exact_memorization"] = "forget", flags(memorisation.exact_memorization), UNIT
    out["extraction_strength"] = "forget", flags(memorisation.extraction_strength), UNIT
    for family in ("forget", "retain"):
        out[f"{family}_entropy"] = family, texts(fluency_text.entropy), BITS
        out[f"{family}_repetition"] = family, texts(fluency_text.repetition), UNIT
    return out


PER_ITEM = MappingProxyType(_per_item())


def _mean(models: Models, family: str, value: PerItem, wanted: str) -> Mean | str:
    """The mean of a per-item value over the items that have one, or why there is none: an item needs ``wanted``."""
    if why := models.why_not(family):
        return why
    own = models.each(family)
    values = [value(items) for items in own]
    there = np.isfinite(values[0])
    if not there.any():
        return f"no {WORDS[family]} probe has {wanted}"
    notes = ["given probes: methods train on these rows"] if family == "retain" and models.retain_given else []
    if not there.all():
        notes.append(f"{int((~there).sum())} probes without {wanted} left out")
    return mean_of([x[there] for x in values], own[0].clusters[there], notes)


def _mean_score(mean: Mean | str, bounds: Bounds) -> Score:
    if isinstance(mean, str):
        return Score(value=None, reason=mean)
    strata = [mean.left_out.mean(axis=1)]
    return finish(float(mean.by_seed.mean()), strata, mean.by_seed, mean.n, mean.notes, bounds)


def _utility(means: Mapping[str, Mean | str], ratio: str) -> Score:
    """Harmonic mean of the nine, each seed by itself."""
    names = [[f"{family}_{what}" for what in ("probability", "rouge", ratio)] for family in UTILITY]
    missing = [f"{name}: {mean}" for own in names for name in own if isinstance(mean := means[name], str)]
    if missing:
        return Score(value=None, reason=f"one of the nine can't be had: {'; '.join(missing)}")
    found = [[mean for name in own if isinstance(mean := means[name], Mean)] for own in names]
    parts, left_out = joint(found)
    by_seed = tofu.model_utility(parts)
    strata = [tofu.model_utility(left.reshape(-1, 9)).reshape(left.shape[:2]).mean(axis=1) for left in left_out]
    notes = dict.fromkeys(note for own in found for mean in own for note in mean.notes)
    n = sum(max(mean.n for mean in own) for own in found)
    return finish(float(by_seed.mean()), strata, by_seed, n, list(notes))


def _quality(models: Models) -> dict[str, Score]:
    """Forget quality and its test statistic."""

    def null(why: str) -> dict[str, Score]:
        return {name: Score(value=None, reason=why) for name in ("forget_quality", "forget_ks")}

    if why := models.why_not("forget"):
        return null(why)
    other = models.compared("forget")
    if isinstance(other, str):
        return null(other)
    retrained = _log_ratio(other["forget"])
    tests = []
    for own in models.each("forget"):
        ratios = _log_ratio(own)
        there = np.isfinite(ratios) & np.isfinite(retrained)
        if not there.any():
            return null(f"no {WORDS['forget']} probe has {WRONG}")
        tests.append(tofu.forget_quality(ratios[there], retrained[there]))
    n = int(there.sum())
    notes = models.first_reference
    if n < len(retrained):
        notes.append(f"{len(retrained) - n} probes without {WRONG} left out")

    def score(value: float, why: str) -> Score:
        return Score(value=value, n=n, reason="; ".join([*notes, f"interval: {why}"]))

    return {
        "forget_quality": score(float(np.mean([t.p for t in tests])), "a p-value has none"),
        "forget_ks": score(float(np.mean([t.statistic for t in tests])), "a test statistic has none"),
    }


def _memberships(models: Models) -> dict[str, Score]:
    """The membership attacks and privleak."""
    asked = any(own.gradnorm is not None for seed in models.seeds for own in seed.values())
    names = [*ATTACKS, "mia_reference", "privleak", *(["mia_gradnorm"] if asked else [])]
    if why := models.why_not("forget", "holdout"):
        return {name: Score(value=None, reason=why) for name in names}
    out = {name: _area_score(_area(models, attack), WHY_NOT.get(name, "")) for name, attack in ATTACKS.items()}
    if asked:
        out["mia_gradnorm"] = _area_score(_area(models, membership.gradnorm_score), WHY_NOT["mia_gradnorm"])
    other = models.compared("forget", "holdout")
    if isinstance(other, str):
        return out | {name: Score(value=None, reason=other) for name in ("mia_reference", "privleak")}
    against = {family: partial(membership.reference_score, reference=other[family]) for family in other}
    area = _area(models, against["forget"], against["holdout"])
    out["mia_reference"] = _area_score(area, "", models.first_reference)
    out["privleak"] = _privleak(models, other)
    return out


ATTACKS: Mapping[str, Callable[[Items], Floats | None]] = MappingProxyType(
    {
        "mia_loss": membership.loss_score,
        "mia_zlib": membership.zlib_score,
        "mia_min_k": membership.min_k_score,
        "mia_min_k_plus_plus": membership.min_k_plus_plus_score,
    }
)
WHY_NOT = MappingProxyType(
    {
        "mia_min_k_plus_plus": "the engine gave no moments of the log-probability over the vocabulary",
        "mia_gradnorm": "the engine gave no gradient norms",
    }
)


def _area(
    models: Models, attack: Callable[[Items], Floats | None], on_holdout: Callable[[Items], Floats | None] | None = None
) -> Area | None:
    """Area of an attack, forget against holdout; None where an answer has no score."""
    members, others = models.each("forget"), models.each("holdout")
    a = [attack(items) for items in members]
    b = [(on_holdout or attack)(items) for items in others]
    found_a, found_b = [x for x in a if x is not None], [x for x in b if x is not None]
    if len(found_a) < len(a) or len(found_b) < len(b):
        return None
    return area_of(found_a, found_b, members[0].clusters, others[0].clusters)


def _area_score(area: Area | None, why: str, notes: Sequence[str] = ()) -> Score:
    if area is None:
        return Score(value=None, reason=why)
    return finish(float(area.by_seed.mean()), area.strata(area.left_out), area.by_seed, area.n, notes)


def _privleak(models: Models, other: Mapping[str, Items]) -> Score:
    """privleak of min-k, the reference's area left out with the unlearned model's."""
    own = _area(models, membership.min_k_score)
    scores = [membership.min_k_score(other[family]) for family in ("forget", "holdout")]
    first = models.seeds[0]
    told = area_of([scores[0]], [scores[1]], first["forget"].clusters, first["holdout"].clusters)
    assert own is not None  # token log-probabilities are always there
    if told.by_seed[0] >= 1:
        return Score(value=None, n=own.n, reason="the reference's area is 1: nothing to divide by")
    by_seed = membership.privleak(own.by_seed, told.by_seed)
    left_out = membership.privleak(own.left_out, told.left_out)
    strata = own.strata(left_out)
    return finish(float(by_seed.mean()), strata, by_seed, own.n, models.first_reference, PRIVLEAK)
