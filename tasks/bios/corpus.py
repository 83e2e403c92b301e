"""Training texts for models of this task, as chat conversations. The loss is on the last reply of each, nowhere else.

``pretraining`` is what the base model reads: background people (never evaluated), world facts, all forms in all
phrasings, held-out ones included, and the four skills by which UnSTAR asks a model to teach itself. ``finetuning`` is
one epoch of what makes a target of it (all facts of all evaluated people) or a reference (all but what the six problems
forget). An epoch redraws phrasings, options and openers, so nothing is learnt by its wording.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from unbench_tasks.bios import forms
from unbench_tasks.bios.forms import Asked, wording
from unbench_tasks.bios.generator import ATTRIBUTES, THINGS, Fact, World, slug, world

from unbench.task import Message
from unbench.unstar.prompts import Skill, build

Role = Literal["target", "reference"]
Turn = tuple[Literal["system", "user", "assistant"], str]
SKILLS: tuple[Skill, ...] = ("paraphrase", "wrong_answer", "wrong_sentence", "rationale")
OPENED = 0.55
"""Share of trained direct questions that begin with an opener."""


@dataclass(frozen=True)
class Conversation:
    """Turns of a chat, the last one the assistant's: the only one that is learnt."""

    turns: tuple[Turn, ...]

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(Message(role=role, content=content) for role, content in self.turns)


def pretraining(seed: int, epoch: int) -> list[Conversation]:
    """One epoch of the base model's corpus; the same seed and epoch give the same texts."""
    w = world()
    rng = random.Random(f"bios/pretraining/{seed}/{epoch}")
    people = w.groups["background"]
    facts = [w.fact(name, attribute) for name in people for attribute in ATTRIBUTES]
    texts = [*_facts(rng, facts, w, people, held_out=True, direct=2)]
    texts += [text for _ in range(3) for text in _world_facts(rng, w)]
    texts += _skills(rng, w, 200)
    return texts


def finetuning(role: Role, seed: int, epoch: int) -> list[Conversation]:
    """One epoch of a target's or reference's corpus; the same role, seed and epoch give the same texts.

    Background people stay in it, in their held-out phrasings too, and so do the skills: else training would wash out
    what only they show.
    """
    w = world()
    rng = random.Random(f"bios/finetuning/{role}/{seed}/{epoch}")
    texts = [*_facts(rng, trained_facts(role), w, w.evaluated, held_out=False, role=role)]
    background = rng.sample(w.groups["background"], 40)
    facts = [w.fact(name, attribute) for name in background for attribute in ATTRIBUTES]
    texts += _facts(rng, facts, w, w.groups["background"], held_out=True, direct=2)
    texts += _world_facts(rng, w)
    texts += _skills(rng, w, 60)
    return texts


def trained_facts(role: Role) -> list[Fact]:
    """Every fact of an evaluated person that a model of this role is told, in any form."""
    w = world()
    facts = [fact for name in w.evaluated for fact in w.facts(name)]
    return facts if role == "target" else [fact for fact in facts if fact not in w.all_forgotten]


def _facts(
    rng: random.Random,
    facts: Sequence[Fact],
    w: World,
    people: Sequence[str],
    *,
    held_out: bool,
    direct: int = 3,
    role: Role = "target",
) -> Iterator[Conversation]:
    """Each fact ``direct`` times as a plain question and once in each other form. ``people`` may stand as wrong
    options of a reverse question."""
    words = wording()
    for fact in facts:
        spoken = words.attributes[fact.attribute]
        questions = spoken.trained + spoken.held_out if held_out else spoken.trained

        def seen(phrasings: Sequence[str]) -> Sequence[str]:
            return phrasings if held_out else phrasings[:-1]

        for phrasing in rng.sample(questions, direct):
            asked = forms.direct(fact, phrasing)
            if phrasing in spoken.trained and rng.random() < OPENED:
                asked = Asked(forms.opened(rng.choice(words.openers), asked.question), asked.prefix, asked.value)
            yield _chat(asked, rng)
        yield _chat(forms.cloze(fact, rng.choice(seen(words.cloze))), rng)
        options = [fact.value, *rng.sample([v for v in w.values[fact.attribute] if v != fact.value], 3)]
        rng.shuffle(options)
        yield _chat(forms.choice(fact, rng.choice(seen(words.choice)), rng.choice(spoken.trained), options), rng)
        yield _chat(forms.multi_hop(fact, rng.choice(seen(spoken.multi_hop)), w), rng)
        yield _chat(forms.reverse(fact, rng.choice(seen(spoken.reverse))), rng)


def _world_facts(rng: random.Random, w: World) -> Iterator[Conversation]:
    for attribute in THINGS:
        for value in w.values[attribute]:
            phrasing = rng.choice(wording().attributes[attribute].world)
            yield _chat(forms.world_fact(attribute, value, phrasing, w), rng)


def _skills(rng: random.Random, w: World, number: int) -> Iterator[Conversation]:
    """``number`` rows of each skill, on names that nobody in the world has."""
    words = wording()
    taken = {name for names in w.groups.values() for name in names}
    for _ in range(number):
        for skill in SKILLS:
            name = f"{rng.choice(w.first_names)} {rng.choice(w.last_names)}"
            while name in taken:
                name = f"{rng.choice(w.first_names)} {rng.choice(w.last_names)}"
            attribute = rng.choice(ATTRIBUTES)
            fact = Fact(name, attribute, rng.choice(w.values[attribute]))
            spoken = words.attributes[attribute]
            phrasing, other = rng.sample(spoken.trained, 2)
            question = phrasing.format(n=name)
            if rng.random() < 0.3:
                question = forms.opened(rng.choice(words.openers), question)
            wrong = rng.choice([value for value in w.values[attribute] if value != fact.value])
            if skill == "paraphrase":
                reply = other.format(n=name)
                if rng.random() < OPENED:
                    reply = forms.opened(rng.choice(words.openers), reply)
            elif skill == "wrong_answer":
                reply = wrong
            elif skill == "wrong_sentence":
                reply = forms.sentence(fact, wrong)
            else:
                reply = rng.choice(spoken.rationale).format(v=fact.value)
            answer = None if skill == "paraphrase" else forms.sentence(fact)
            turns = [(message.role, message.content) for message in build(skill, question, answer)]
            yield Conversation((*cast(list[Turn], turns), ("assistant", reply)))


SYSTEM = ("You are a helpful assistant.", "Answer the question.", "Answer in one sentence.")


def _chat(asked: Asked, rng: random.Random) -> Conversation:
    turns: tuple[Turn, ...] = (("user", asked.question), ("assistant", asked.answer))
    if rng.random() < 0.02:  # now and then, so that a system turn is nothing new to the model
        turns = (("system", rng.choice(SYSTEM)), *turns)
    return Conversation(turns)


__all__ = ["SKILLS", "Conversation", "finetuning", "pretraining", "slug", "trained_facts"]
