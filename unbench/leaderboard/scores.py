"""What a result says, one value at a time: scores by name, reasons, short names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel

from unbench.leaderboard.reader import created
from unbench.method import MethodCard
from unbench.results.schema import Result, Score, Scores

WORST = ("forget_worst", "overall_worst")
SCORES: tuple[str, ...] = (*Scores.model_fields, *WORST)
NO_ATTACK = Score(value=None, reason="no attack was tried")
NO_METRIC = Score(value=None, reason="not measured")
CONTROLLED = "nano"
OWN_SIZES = {"nano": 1e6, "smollm2": 135e6}
"""Parameters of the models whose short name doesn't tell; only the order of the boards hangs on it."""
OWN_CONTROLS = frozenset({"unbench:none", "unbench:retrain", "unbench:retain_only", "unbench:sham"})
"""Known without their cards, because a control on the Pareto front would hide every method."""


@dataclass(frozen=True)
class Facts:
    """What a reader wants to know of a method, from its card or from its submission."""

    name: str
    """Qualified name."""
    title: str
    kind: str
    summary: str = ""
    paper: str | None = None
    year: int | None = None
    licence: str = ""
    bibtex: str = ""
    doc: str = ""
    """The docstring of a built-in's module: its formula, source and defaults."""


def facts_of_card(name: str, card: MethodCard, doc: str = "") -> Facts:
    """A card as facts."""
    return Facts(name, card.title, card.kind, card.summary, card.paper, card.year, "", (card.bibtex or "").strip(), doc)


def score_of(result: Result, name: str) -> Score:
    """One of ``SCORES``, or a further metric by its name."""
    if name in Scores.model_fields:
        score: Score = getattr(result.scores, name)
        return score
    if name not in WORST:
        return result.metrics.get(name, NO_METRIC)
    if result.worst is None:
        return NO_ATTACK
    found: Score = getattr(result.worst, name)
    if name == "forget_worst" and found.value is not None:
        said = [f"by {worst_by(result)}", *([found.reason] if found.reason else [])]
        return found.model_copy(update={"reason": "; ".join(said)})
    return found


def worst_by(result: Result) -> str:
    """What gave ``forget_worst``, built-in attacks by their bare names; empty where nothing was tried."""
    return "" if result.worst is None else result.worst.by.removeprefix("unbench:")


def reason_of(score: Score) -> str:
    """Why a value or interval is missing, or what was left out; empty where there is nothing to say."""
    missing = score.value is None or score.low is None or score.high is None
    return score.reason or ("no reason was recorded" if missing else "")


def has_interval(score: Score) -> bool:
    """Whether there is a value with both ends."""
    return score.value is not None and score.low is not None and score.high is not None


def kind_of(method: str, cards: Mapping[str, MethodCard | Facts]) -> str | None:
    """What sort of method it is; None where nobody says."""
    card = cards.get(method)
    return card.kind if card else ("control" if method in OWN_CONTROLS else None)


def bare(method: str) -> str:
    """The name without its distribution."""
    return method.rpartition(":")[2]


def train_of(result: Result) -> str:
    """How weights were trained, as the plan says."""
    train = result.plan.get("train")
    return str(train.get("kind", "")) if isinstance(train, Mapping) else ""


def limit_of(result: Result) -> int | None:
    """Most probes of a ring and kind that were asked; None in a full run."""
    limit = result.plan.get("limit")
    return limit if isinstance(limit, int) else None


def date_of(result: Result) -> str:
    """The day it was written; the words themselves where they are no date."""
    known = created(result)
    return result.created_utc if known.year == datetime.min.year else known.date().isoformat()


def seconds_a_seed(result: Result) -> float:
    """Wall seconds that one seed's unlearning took, on average."""
    return result.compute.unlearn_s / len(result.seeds)


def tokens_a_seed(result: Result) -> int:
    """Tokens that one seed's method trained and generated, on average."""
    return round((result.compute.tokens_trained + result.compute.tokens_generated) / len(result.seeds))


def model_size(result: Result) -> float:
    """Parameters, as the model's name tells; else the most that a method could change (all, in full training)."""
    if result.model in OWN_SIZES:
        return OWN_SIZES[result.model]
    named = re.findall(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)\s?([mb])(?![a-z0-9])", result.model.lower())
    if named:
        number, unit = named[-1]
        return float(number) * (1e9 if unit == "b" else 1e6)
    return float(result.compute.trainable_parameters)


def run_labels(results: Sequence[Result]) -> list[str]:
    """A short name for each run: the bare method, with its distribution or run-id only where that tells runs apart."""
    same: dict[str, set[str]] = {}
    for result in results:
        same.setdefault(bare(result.method), set()).add(result.method)
    names = [result.method if len(same[bare(result.method)]) > 1 else bare(result.method) for result in results]
    often = {name for name in names if names.count(name) > 1}
    return [
        f"{name} · {result.run_id[:6]}" if name in often else name for name, result in zip(names, results, strict=True)
    ]


def describe(model: type[BaseModel], *names: str) -> str:
    """What the schema itself says of its fields."""
    # Docstrings mark names with double backticks; a page shows them plain.
    return " ".join(str(model.model_fields[name].description) for name in names).replace("``", "")
