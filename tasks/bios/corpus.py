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
from unbench_tasks.bios.generator import ATTRIBUTES, THINGS, Fact, World, world

from unbench.task import Message
from unbench.unstar.prompts import Skill, build

Role = Literal["target", "reference"]
Turn = tuple[Literal["system", "user", "assistant"], str]
SKILLS: tuple[Skill, ...] = ("paraphrase", "wrong_answer", "wrong_sentence", "rationale")
# How often an epoch shows each skill: with the whole few-shot prompt, and with its last turn alone, which is a quarter
# as long and teaches the same. Paraphrases need most: only here does the model learn to write questions.
Shown = dict[Skill, tuple[int, int]]
SHOWN_PRETRAINING: Shown = {
    "paraphrase": (80, 1200),
    "wrong_answer": (50, 300),
    "wrong_sentence": (50, 300),
    "rationale": (50, 500),
}
SHOWN_FINETUNING: Shown = {
    "paraphrase": (30, 240),
    "wrong_answer": (24, 80),
    "wrong_sentence": (24, 80),
    "rationale": (24, 100),
}
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
    texts = [*_facts(rng, facts, w, held_out=True, direct=2)]
    texts += [text for _ in range(3) for text in _world_facts(rng, w)]
    texts += _skills(rng, w, SHOWN_PRETRAINING)
    return texts


def finetuning(role: Role, seed: int, epoch: int) -> list[Conversation]:
    """One epoch of a target's or reference's corpus; the same role, seed and epoch give the same texts.

    Background people stay in it, in their held-out phrasings too, and so do the skills: else training would wash out
    what only they show.
    """
    w = world()
    rng = random.Random(f"bios/finetuning/{role}/{seed}/{epoch}")
    texts = [*_facts(rng, trained_facts(role), w, held_out=False, direct=3)]
    background = rng.sample(w.groups["background"], 24)
    facts = [w.fact(name, attribute) for name in background for attribute in ATTRIBUTES]
    texts += _facts(rng, facts, w, held_out=True, direct=2)
    texts += _world_facts(rng, w)
    texts += _skills(rng, w, SHOWN_FINETUNING)
    return texts


def trained_facts(role: Role) -> list[Fact]:
    """Every fact of an evaluated person that a model of this role is told, in any form."""
    w = world()
    facts = [fact for name in w.evaluated for fact in w.facts(name)]
    return facts if role == "target" else [fact for fact in facts if fact not in w.all_forgotten]


def _facts(
    rng: random.Random, facts: Sequence[Fact], w: World, *, held_out: bool, direct: int
) -> Iterator[Conversation]:
    """Each fact ``direct`` times as a plain question, twice as two-hop, once as cloze and as choice.

    ``held_out`` admits the phrasings that evaluated people are never shown in.
    """
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
        hops = seen(spoken.multi_hop)
        for phrasing in rng.sample(hops, 2):
            yield _chat(forms.multi_hop(fact, phrasing, w), rng)


def _world_facts(rng: random.Random, w: World) -> Iterator[Conversation]:
    for attribute in THINGS:
        for value in w.values[attribute]:
            phrasing = rng.choice(wording().attributes[attribute].world)
            yield _chat(forms.world_fact(attribute, value, phrasing, w), rng)


def _skills(rng: random.Random, w: World, shown: Shown) -> Iterator[Conversation]:
    """Rows of the skills, on names that nobody in the world has."""
    taken = {name for names in w.groups.values() for name in names}
    for skill, (few_shot, bare) in shown.items():
        for i in range(few_shot + bare):
            name = f"{rng.choice(w.first_names)} {rng.choice(w.last_names)}"
            while name in taken:
                name = f"{rng.choice(w.first_names)} {rng.choice(w.last_names)}"
            attribute = rng.choice(ATTRIBUTES)
            fact = Fact(name, attribute, rng.choice(w.values[attribute]))
            question, reply = _skill(rng, w, skill, fact)
            prompt = build(skill, question, None if skill == "paraphrase" else forms.sentence(fact))
            turns = [(message.role, message.content) for message in (prompt if i < few_shot else prompt[-1:])]
            yield Conversation((*cast(list[Turn], turns), ("assistant", reply)))


def _skill(rng: random.Random, w: World, skill: Skill, fact: Fact) -> tuple[str, str]:
    """A question about ``fact`` and what the skill replies to it."""
    words = wording()
    spoken = words.attributes[fact.attribute]
    question, other = (phrasing.format(n=fact.subject) for phrasing in rng.sample(spoken.trained, 2))
    if rng.random() < 0.3:
        question = forms.opened(rng.choice(words.openers), question)
    wrong = rng.choice([value for value in w.values[fact.attribute] if value != fact.value])
    if skill == "paraphrase":
        return question, forms.opened(rng.choice(words.openers), other) if rng.random() < OPENED else other
    if skill == "wrong_answer":
        return question, wrong
    if skill == "wrong_sentence":
        return question, forms.sentence(fact, wrong)
    return question, rng.choice(spoken.rationale).format(v=fact.value)


SYSTEM = ("You are a helpful assistant.", "Answer the question.", "Answer in one sentence.")


def _chat(asked: Asked, rng: random.Random) -> Conversation:
    turns: tuple[Turn, ...] = (("user", asked.question), ("assistant", asked.answer))
    if rng.random() < 0.02:  # now and then, so that a system turn is nothing new to the model
        turns = (("system", rng.choice(SYSTEM)), *turns)
    return Conversation(turns)
