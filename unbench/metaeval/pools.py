"""The two pools: models that know the forgotten facts (P) and models that do not (N).

=========== ==== ===============================================================================================
variety     pool made of
=========== ==== ===============================================================================================
target      P    the shipped model that was trained on everything
paraphrased P    a reference, then the facts in phrasings other than the rows' own and the probes' held-out ones
forms       P    a reference, then the facts as clozes, choices and two-hop questions, never asked directly
reference   N    the shipped models that never saw the facts (reference and retrain)
wrong       N    a reference, then the forget questions with one wrong answer each
others      N    a reference, then facts of people whom no model has seen (half of the holdout people)
=========== ==== ===============================================================================================

Every trained model has a seed of its own, so models are independent but for the two references that they start from.
Learning rates, checkpoints and references take turns. Membership inference has the other half of the holdout people
as its non-members.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from unbench.metaeval.settings import Settings
from unbench.task import Message

if TYPE_CHECKING:
    from unbench_tasks.bios.forms import Asked
    from unbench_tasks.bios.generator import Fact

    from unbench.training.batch import TrainRow

Side = Literal["knows", "does_not"]
Variety = Literal["target", "reference", "paraphrased", "forms", "wrong", "others"]
Base = Literal["target", "reference", "retrain"]
VARIETIES: dict[Variety, Side] = {"paraphrased": "knows", "forms": "knows", "wrong": "does_not", "others": "does_not"}
FIRST_SEED: dict[Variety, int] = {"paraphrased": 1000, "forms": 2000, "wrong": 3000, "others": 4000}
"""Seeds of a variety's models count on from here."""
LONGEST = 160
"""Characters of a question; the reference's training texts beside are no longer, which leaves out few-shot prompts."""


@dataclass(frozen=True)
class PoolModel:
    """One model of a pool."""

    name: str
    side: Side
    variety: Variety
    base: Base
    """Shipped weights that it starts from."""
    seed: int = 0
    lr: float = 0.0
    steps: int = 0
    """0: the shipped weights as they are."""


def pool_models(settings: Settings) -> list[PoolModel]:
    """``settings.pool`` models a side, in a fixed order."""
    found = [
        PoolModel("target", "knows", "target", "target"),
        PoolModel("reference", "does_not", "reference", "reference"),
        PoolModel("retrain", "does_not", "reference", "retrain"),
    ]
    for variety, side in VARIETIES.items():
        shipped = sum(model.side == side and model.steps == 0 for model in found)
        first = next(iter(name for name, own in VARIETIES.items() if own == side))
        left = settings.pool - shipped
        count = (left + 1) // 2 if variety == first else left // 2
        found += [_trained(settings, variety, side, i) for i in range(count)]
    return found


def _trained(settings: Settings, variety: Variety, side: Side, i: int) -> PoolModel:
    rates, checkpoints = settings.lrs, settings.checkpoints
    return PoolModel(
        name=f"{variety}-{i:02}",
        side=side,
        variety=variety,
        base="reference" if i % 2 == 0 else "retrain",
        seed=FIRST_SEED[variety] + i,
        lr=rates[i % len(rates)],
        steps=checkpoints[i // len(rates) % len(checkpoints)],
    )


def forgotten() -> tuple[Fact, ...]:
    """The facts in question."""
    from unbench_tasks.bios.generator import world

    facts: tuple[Fact, ...] = world().forgotten["fact", "report"]
    return facts


def holdout_people() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Holdout people whom ``others`` is trained on, and those who are non-members for membership inference."""
    from unbench_tasks.bios.generator import world

    people = world().groups["holdout"]
    return people[: len(people) // 2], people[len(people) // 2 :]


def rows_of(model: PoolModel) -> list[TrainRow]:
    """What a pool model is trained on beside the reference's own texts; the same model gives the same rows."""
    from unbench.training.batch import TrainRow

    rng = random.Random(f"metaeval/{model.variety}/{model.seed}")
    return [TrainRow.ask(asked.question, asked.answer) for asked in _asked(model.variety, rng)]


def _asked(variety: Variety, rng: random.Random) -> Iterator[Asked]:
    from unbench_tasks.bios import forms
    from unbench_tasks.bios.forms import Asked, wording
    from unbench_tasks.bios.generator import world

    w, words = world(), wording()
    facts = forgotten() if variety != "others" else [f for name in holdout_people()[0] for f in w.facts(name)]
    for fact in facts:
        spoken, values = words.attributes[fact.attribute], w.values[fact.attribute]
        others = [value for value in values if value != fact.value]
        if variety == "paraphrased":
            yield from (forms.direct(fact, phrasing) for phrasing in spoken.trained[1:])
        elif variety == "forms":
            # The last phrasing of each form is held out for probes.
            yield from (forms.cloze(fact, phrasing) for phrasing in words.cloze[:-1])
            for phrasing in words.choice[:-1]:
                options = [fact.value, *rng.sample(others, 3)]
                rng.shuffle(options)
                yield forms.choice(fact, phrasing, rng.choice(spoken.trained), options)
            yield from (forms.multi_hop(fact, phrasing, w) for phrasing in spoken.multi_hop[:-1])
        elif variety == "wrong":
            wrong = rng.choice(others)
            yield from (Asked(p.format(n=fact.subject), forms.stem(fact), wrong) for p in spoken.trained)
        else:
            yield from (forms.direct(fact, phrasing) for phrasing in spoken.trained)


def texts_beside(seed: int) -> list[TrainRow]:
    """Short texts of a reference's own training, which hold none of the facts, so that a model forgets nothing else."""
    from unbench_tasks.bios import corpus

    from unbench.training.batch import TrainRow

    found = []
    for text in corpus.finetuning("reference", seed, 0):
        *asked, (_, answer) = text.turns
        if len(asked) == 1 and len(asked[0][1]) < LONGEST:
            found.append(TrainRow((Message(role="user", content=asked[0][1]),), answer))
    return found


def sides(models: Sequence[PoolModel]) -> dict[Side, list[PoolModel]]:
    """The models of each pool."""
    return {side: [model for model in models if model.side == side] for side in ("knows", "does_not")}
