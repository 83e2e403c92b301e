"""What the model writes: answers, paraphrases, wrong answers, rationales; one engine call a kind, for all facts."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from unbench.engines.base import Engine, Generation, Sampling, ScoreRequest
from unbench.method import UnlearnContext
from unbench.task import Message
from unbench.templates import answer_ids, prompt_ids
from unbench.unstar.compose import completion, put_in
from unbench.unstar.facts import Ask
from unbench.unstar.filter import Filter, tidy_wrong
from unbench.unstar.prompts import Skill, build
from unbench.unstar.records import AntiSample, Role, Stage
from unbench.unstar.words import clean, content, normal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Key = tuple[str, str]
Chat = Sequence[Message]
Order = tuple[Ask, int, Role]
"""So many paraphrases of a row's question, to forget or to keep."""
LIKELIHOOD_MARGIN = 1.0
"""Nats a token that a wrong answer may lie below the likeliest of its fact."""
RATIONALE_TOKENS = 56
"""A sentence of ``rationale_max_words`` in most tokenizers; a longer one is cut off and dropped."""


@dataclass(frozen=True)
class Wanted:
    """A rationale to be written: why ``answer``, said whole in ``sentence``, answers ``question``."""

    ask: Ask
    question: str
    answer: str
    sentence: str
    role: Role = "forget"


@dataclass
class Author:
    """The model as a writer. Filters what it wrote and puts all of it on record, kept or not."""

    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    context: UnlearnContext
    filter: Filter
    records: list[AntiSample] = field(default_factory=list)
    round: int = 0
    cut_short: bool = False
    """The token budget did not allow all that was asked for."""
    _calls: int = 0

    # --- asking ------------------------------------------------------------------------------------------------

    def answers(self, questions: Sequence[tuple[Ask, str]], description: str) -> list[str | None]:
        """Greedy answers; None where the budget is spent."""
        chats = [(Message(role="user", content=question),) for _, question in questions]
        longest = max((self._length(ask.answer) for ask, _ in questions), default=0)
        # A chat model may come to the point late ("Harry Potter, the hero of …, studied at").
        written = self._generate(description, chats, 2 * longest + 24, temperature=0.0)
        return [None if one is None else one.text for one in written]

    # --- paraphrases -------------------------------------------------------------------------------------------

    def paraphrases(self, wanted: Sequence[Order], known: set[tuple[Key, str]], temperature: float) -> list[list[str]]:
        """For each (row, number, role) up to ``number`` usable paraphrases that are not in ``known``, which grows."""
        config = self.filter.config
        asked = [math.ceil(number * config.oversample) for _, number, _ in wanted]
        chats = [build("paraphrase", ask.question) for ask, _, _ in wanted]
        longest = max((self._length(ask.question) for ask, _, _ in wanted), default=0)
        texts = self._sample("writing paraphrases", chats, asked, 2 * longest + 8, temperature)
        found: list[list[str]] = []
        for (ask, number, role), written in zip(wanted, texts, strict=True):
            usable: list[str] = []
            drops: Counter[tuple[str, str]] = Counter()
            for one in written:
                text = clean(one.text)
                reason = self.filter.paraphrase(text, ask)
                if reason is None and (ask.key, normal(text)) in known:
                    reason = "written before"
                if reason is None and len(usable) == number:
                    reason = "more than wanted"
                if reason is None:
                    known.add((ask.key, normal(text)))
                    usable.append(text)
                    self._record(ask, role, "paraphrase", True, paraphrase=text, temperature=temperature)
                else:
                    drops[text, reason] += 1
            self._dropped(ask, role, "paraphrase", drops, temperature)
            found.append(usable)
        return found

    def own_answers(self, questions: Sequence[tuple[Ask, str]], number: int, temperature: float) -> list[list[str]]:
        """``number`` sampled answers to each question, in the model's own words."""
        chats = [(Message(role="user", content=question),) for _, question in questions]
        longest = max((self._length(ask.answer) for ask, _ in questions), default=0)
        limit = 2 * longest + 24
        texts = self._sample("answering in other words", chats, [number] * len(chats), limit, temperature)
        return [[one.text for one in written] for written in texts]

    # --- wrong answers -----------------------------------------------------------------------------------------

    def wrong_answers(self, asks: Sequence[Ask], temperature: float) -> list[Counter[str]]:
        """For each row its usable wrong answers and how often each was written, in the order of first writing."""
        number = self.filter.config.wrong_samples
        chats = [build(_skill(ask), ask.question, ask.answer) for ask in asks]
        longest = max((self._length(ask.value or ask.answer) for ask in asks), default=0)
        texts = self._sample("writing wrong answers", chats, [number] * len(asks), 2 * longest + 8, temperature)
        found = []
        for ask, written in zip(asks, texts, strict=True):
            seen: dict[str, str] = {}
            votes: Counter[str] = Counter()
            drops: Counter[tuple[str, str]] = Counter()
            for one in written:
                text = familiar(tidy_wrong(one.text, ask), ask)
                reason = self.filter.wrong_answer(text, ask) or (None if one.finished else "cut off")
                if reason:
                    drops[text, reason] += 1
                else:
                    votes[seen.setdefault(normal(text), text)] += 1
            for text, times in votes.items():
                kept = {"wrong_answer": text, "times": times, "temperature": temperature}
                self._record(ask, "forget", "wrong_answer", True, **kept)
            self._dropped(ask, "forget", "wrong_answer", drops, temperature)
            found.append(votes)
        return found

    def likelihood(self, votes: Sequence[tuple[Ask, Counter[str]]]) -> list[dict[str, float]]:
        """Mean log-probability a token (nats) of each wrong answer as a reply to the prompt that asked for it."""
        requests = []
        for ask, counts in votes:
            chat = build(_skill(ask), ask.question, ask.answer)
            pairs = [answer_ids(self.tokenizer, list(chat), text) for text in counts]
            requests += [ScoreRequest(prompt, [continuation]) for prompt, continuation in pairs]
        scores = iter(self.engine.score(requests) if requests else [])
        found = []
        for _, counts in votes:
            means = (statistics.fmean(next(scores)[0].logprob) for _ in counts)
            found.append(dict(zip(counts, means, strict=True)))
        return found

    def preference(self, asked: Sequence[tuple[str, str, str]]) -> list[float]:
        """For each (question, one answer, another): by how many nats, in total, the first is likelier."""
        requests = []
        for question, one, other in asked:
            for text in (one, other):
                prompt, continuation = answer_ids(self.tokenizer, [Message(role="user", content=question)], text)
                requests.append(ScoreRequest(prompt, [continuation]))
        totals = [sum(scores[0].logprob) for scores in self.engine.score(requests)] if requests else []
        return [one - other for one, other in zip(totals[::2], totals[1::2], strict=True)]

    # --- rationales --------------------------------------------------------------------------------------------

    def rationales(self, wanted: Sequence[Wanted], temperature: float) -> list[tuple[str | None, str | None]]:
        """For each (rationale, None), or (None, why the last one was dropped)."""
        chats = [build("rationale", one.question, one.sentence) for one in wanted]
        samples = [self.filter.config.rationale_samples] * len(wanted)
        texts = self._sample("writing rationales", chats, samples, RATIONALE_TOKENS, temperature)
        found: list[tuple[str | None, str | None]] = []
        for one, written in zip(wanted, texts, strict=True):
            kept: str | None = None
            reason: str | None = "not written"
            for generation in written:
                text = clean(generation.text)
                reason = self.filter.rationale(
                    text, generation.finished, one.ask, one.question, one.answer, one.sentence
                )
                self._record(
                    one.ask, one.role, "rationale", reason is None, paraphrase=one.question, wrong_answer=one.answer,
                    rationale=text, reason=reason, temperature=temperature,
                )  # fmt: skip
                if reason is None:
                    kept = text
                    break
            found.append((kept, reason))
        return found

    # --- the engine --------------------------------------------------------------------------------------------

    def _sample(
        self,
        description: str,
        chats: Sequence[Chat],
        numbers: Sequence[int],
        limit: int,
        temperature: float,
    ) -> list[list[Generation]]:
        """``numbers[i]`` samples of ``chats[i]``. First samples of all come first, so that a budget that cuts the call
        short takes from every fact alike."""
        order = [(take, index) for index, number in enumerate(numbers) for take in range(number)]
        order.sort()
        prompts = [chats[index] for _, index in order]
        written = self._generate(description, prompts, limit, temperature)
        texts: list[list[Generation]] = [[] for _ in chats]
        for (_, index), one in zip(order, written, strict=True):
            if one is not None:
                texts[index].append(one)
        return texts

    def _generate(
        self, description: str, chats: Sequence[Chat], limit: int, temperature: float
    ) -> list[Generation | None]:
        """One engine call; None for requests that the token budget might not cover."""
        usage, budget = self.context.usage, self.context.budget_tokens
        allowed = len(chats)
        if budget is not None:
            left = budget - usage.tokens_trained - usage.tokens_generated
            allowed = min(allowed, max(0, left // limit))
            self.cut_short = self.cut_short or allowed < len(chats)
        if not allowed:
            return [None] * len(chats)
        prompts = [prompt_ids(self.tokenizer, list(chat)) for chat in chats[:allowed]]
        self._calls += 1
        sampling = Sampling(
            max_new_tokens=limit,
            temperature=temperature,
            top_p=self.filter.config.top_p if temperature else 1.0,
            # Every skill is one line; greedy answers stay whole, as a user would see them.
            stop=("\n",) if temperature else (),
            seed=random.Random(f"unstar/{self.context.seed}/{self._calls}").getrandbits(31),
        )
        self.context.progress(description, 0, len(prompts))
        before = self.engine.stats.tokens_generated
        written = self.engine.generate(prompts, sampling)
        usage.tokens_generated += self.engine.stats.tokens_generated - before
        self.context.progress(description, len(prompts), len(prompts))
        # A lone surrogate, from a damaged tokenizer, is no text that could be written to a file.
        texts = (one.text.encode("utf-8", "replace").decode() for one in written)
        sane = [replace(one, text=text) for one, text in zip(written, texts, strict=True)]
        return [*sane, *[None] * (len(chats) - allowed)]

    def _length(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def _dropped(self, ask: Ask, role: Role, stage: Stage, drops: Counter[tuple[str, str]], temperature: float) -> None:
        for (text, reason), times in drops.items():
            values = {stage: text, "reason": reason, "times": times, "temperature": temperature}
            self._record(ask, role, stage, False, **values)

    def _record(self, ask: Ask, role: Role, stage: Stage, kept: bool, **values: object) -> None:
        about = {"round": self.round, "role": role, "stage": stage, "fact": ask.fact, "question": ask.question}
        self.records.append(AntiSample.model_validate(about | {"kept": kept} | values))


def _skill(ask: Ask) -> Skill:
    return "wrong_answer" if ask.value else "wrong_sentence"


def choose_wrong(
    votes: Sequence[tuple[Ask, Counter[str]]], likelihood: Sequence[Mapping[str, float]]
) -> list[str | None]:
    """The consistent wrong answer of each fact: among those that have a quarter of the most votes and are nearly as
    likely as the likeliest, the one that fewest earlier facts of the relation took, then the one written most, then
    the likeliest.

    Among them those that the rows hold for a neighbour come before all others: they are surely of the right type.
    Votes alone would give a small model's favourite ("Oxford") to every fact of a relation, and what is taught that
    often becomes the answer for its neighbours too. Where all are written once, likelihood tells a name from a slip.
    """
    taken: Counter[tuple[str, str]] = Counter()
    chosen: list[str | None] = []
    for (ask, counts), likely in zip(votes, likelihood, strict=True):
        enough, nearly = max(counts.values(), default=0) / 4, max(likely.values(), default=0) - LIKELIHOOD_MARGIN
        usable = [text for text, number in counts.items() if number >= enough and likely[text] >= nearly]
        usable = [text for text in counts if normal(text) in ask.others] or usable
        rank = {text: (taken[ask.relation, normal(text)], -counts[text], -likely[text]) for text in usable}
        best = min(usable, key=rank.__getitem__, default=None)
        if best is not None:
            taken[ask.relation, normal(best)] += 1
        chosen.append(best)
    return chosen


def familiar(text: str, ask: Ask) -> str:
    """A wrong answer in the spelling that the rows have for it ("the University of Oxford" where a neighbour studied at
    "Oxford"); the text itself where they hold no such value, or several."""
    said = content(text) - content(ask.question)
    held = [spelling for name, spelling in ask.others.items() if content(name) and content(name) <= said]
    return held[0] if len(held) == 1 else text


def borrow_wrong(ask: Ask, others: Sequence[tuple[Ask, Sequence[str]]], filter: Filter) -> list[str]:
    """Wrong answers that the model gave for other facts of the same relation and that are wrong here too, for a fact to
    which it gave none: still self-taught, never a value taken from the rows."""
    if not (ask.relation and ask.value):
        return []
    texts = [text for other, given in others if other.relation == ask.relation for text in given]
    return [text for text in dict.fromkeys(texts) if filter.wrong_answer(text, ask) is None]


def sentence_with(ask: Ask, wrong: str) -> str:
    """The target's answer sentence with the wrong answer in it; the wrong answer itself where it is a sentence, or the
    value does not stand in the answer word for word."""
    sentence = put_in(ask.answer, ask.value, wrong) if ask.value else None
    return sentence or completion(wrong, None)
