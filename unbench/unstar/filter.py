"""Which generated texts are usable, and whether an answer still says the forgotten thing.

Every check returns None for a usable text, else a few words that say why it is dropped: they are counted in the result
and stand in ``anti_samples.jsonl``. None of them raises, whatever the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from unbench.match import holds, similar
from unbench.unstar.compose import span_in
from unbench.unstar.config import UnSTARConfig
from unbench.unstar.facts import Ask
from unbench.unstar.words import clean, content, names, normal, sentences, words

Cosine = Callable[[str, str], float]

_REFUSAL = re.compile(
    r"\b(sorry|i (?:can ?not|can['’]?t|don['’]?t|do not|am unable|won['’]?t)|as an ai|unknown|not (?:known|true|sure)|"
    r"no (?:answer|idea|information)|none of|n/a|incorrect|false statement)\b",
    re.IGNORECASE,
)
_CONTRAST = re.compile(r",? (?:not|instead of|rather than) ", re.IGNORECASE)
_ASKS = re.compile(r"^(?:please |kindly )?(?:tell|name|say|give|state|identify|describe|explain|list)\b", re.IGNORECASE)
_ECHO = re.compile(r"\b(?:Question|Answer|User|Assistant):|same question in other words|<\|")
"""Labels in capitals, as the prompt writes them: "One question: …" and "Please answer: …" are good openers."""


@dataclass(frozen=True)
class Filter:
    """The checks under one configuration; ``cosine`` compares meanings where a sentence encoder was given."""

    config: UnSTARConfig
    cosine: Cosine | None = None

    # --- what counts as remembered -----------------------------------------------------------------------------

    def remembers(self, text: str, ask: Ask) -> bool:
        """Whether ``text`` gives the right answer to ``ask``: its content words (a shared "of" is none), an alias,
        number words for numbers, or a span with a string ratio above ``match_ratio``."""
        if holds(text, ask.right, ask.question):
            return True
        if not ask.value:
            return False  # whole sentences share their frame: a string ratio would match any answer of the kind
        if any(self._spelt_alike(text, right, ask) for right in ask.right):
            return True
        span = span_in(text, ask.answer, ask.value) if self.cosine else None
        return bool(span and self.cosine and self._means(span, ask))

    def _spelt_alike(self, text: str, right: str, ask: Ask) -> bool:
        """A run of as many words as ``right`` has is spelt like it, and is no other value of the relation ("Ada Vale"
        is no misspelt "Ada Vane" if both exist) nor part of the question."""
        gold = normal(right)
        size = len(gold.split())
        if not size or content(right) <= content(ask.question):
            return False
        asked = set(words(ask.question))
        said = words(text)
        for start in range(len(said) - size + 1):
            run = said[start : start + size]
            spelt = " ".join(run)
            if asked.issuperset(run) or spelt in ask.others:
                continue
            if similar(spelt, gold) > self.config.match_ratio:
                return True
        return False

    def _means(self, text: str, ask: Ask) -> bool:
        return self.cosine is not None and any(self.cosine(text, right) > self.config.min_cosine for right in ask.right)

    # --- step 2: paraphrases -----------------------------------------------------------------------------------

    def paraphrase(self, text: str, ask: Ask) -> str | None:
        """Why ``text`` is no paraphrase of the question, or None."""
        reason = _line(text) or self._question_like(text, ask)
        if reason:
            return reason
        if normal(text) == normal(ask.question):
            return "the question itself"
        if self._gives_away(text, ask):
            return "names the answer"
        if not (content(ask.subject) & content(ask.question)) <= content(text):
            return "lost the subject"
        if names(text) - set(words(ask.question)) - content(ask.subject):
            return "brings in another name"
        ratio = similar(text, ask.question)
        if ratio < self.config.min_edit_similarity:
            return "drifted from the question"
        if ratio > self.config.max_edit_similarity:
            return "nearly the question itself"
        if self.cosine and self.cosine(text, ask.question) < self.config.min_cosine:
            return "means something else"
        return None

    def _question_like(self, text: str, ask: Ask) -> str | None:
        asked_so = ask.question.rstrip().endswith("?")
        if text.endswith("?") or _ASKS.match(text) or (not asked_so and text[-1:] == ask.question.rstrip()[-1:]):
            return None if sentences(text) <= max(1, sentences(ask.question)) else "more than one sentence"
        return "not a question"

    def _gives_away(self, text: str, ask: Ask) -> bool:
        if ask.value:
            return holds(text, ask.right, ask.question)
        told = content(ask.answer) - content(ask.question)
        return bool(told) and told <= content(text)

    # --- step 2: wrong answers ---------------------------------------------------------------------------------

    def wrong_answer(self, text: str, ask: Ask) -> str | None:
        """Why ``text`` is no usable wrong answer (a span where the value is known, else a sentence), or None."""
        reason = _line(text)
        if reason:
            return reason
        if "?" in text:
            return "a question"
        if _REFUSAL.search(text):
            return "a refusal"
        if not content(text):
            return "no content"
        return self._wrong_span(text, ask) if ask.value else self._wrong_sentence(text, ask)

    def _wrong_span(self, text: str, ask: Ask) -> str | None:
        if len(words(text)) > self.config.wrong_answer_max_words or sentences(text) > 1:
            return "too long"
        if content(text) <= content(ask.question):
            return "from the question"
        if content(ask.subject) and content(ask.subject) <= content(text):
            return "names the subject"
        if self._is_right(text, ask):
            return "the right answer"
        if _kind(text) != _kind(ask.value):
            return "of another kind"
        return None

    def _is_right(self, text: str, ask: Ask) -> bool:
        """The right answer in other words, or one inside the other; another known value of the relation is not."""
        if normal(text) in ask.others:
            return False
        asked = content(ask.question)
        for right in ask.right:
            mine, its = content(text) - asked, content(right) - asked
            if mine and its and (mine <= its or its <= mine):
                return True
            if similar(normal(text), normal(right)) > self.config.match_ratio:
                return True
        return self._means(text, ask)

    def _wrong_sentence(self, text: str, ask: Ask) -> str | None:
        told, said = content(ask.answer) - content(ask.question), content(text) - content(ask.question)
        if not said - told:
            return "the right answer"
        if len(words(text)) > 2 * len(words(ask.answer)) + self.config.wrong_answer_max_words:
            return "too long"
        if holds(text, ask.right, ask.question) or (told and told <= said):
            return "the right answer"
        if not (content(ask.subject) & content(ask.answer)) <= content(text):
            return "lost the subject"
        if similar(text, ask.answer) < self.config.min_edit_similarity:
            return "drifted from the answer"
        return None

    def own_sentence(self, text: str, ask: Ask) -> bool:
        """Whether the model's own sentence, the wrong answer put in, still is about the subject and free of the right
        answer."""
        return content(ask.subject) <= content(text) and not self.remembers(text, ask)

    # --- step 3: rationales ------------------------------------------------------------------------------------

    def rationale(self, text: str, finished: bool, ask: Ask, question: str, answer: str, sentence: str) -> str | None:
        """Why ``text`` is no rationale for ``answer`` (right or wrong; ``sentence`` says it whole), or None."""
        reason = _line(text)
        if reason:
            return reason
        if not finished:
            return "cut off"
        if "?" in text:
            return "a question"
        if _REFUSAL.search(text):
            return "a refusal"
        if sentences(text) > 2 or len(words(text)) > self.config.rationale_max_words:
            return "too long"
        if normal(text) == normal(sentence) or similar(text, sentence) > self.config.max_edit_similarity:
            return "only repeats the answer"
        asked = content(question) | content(ask.question)
        if not _names(text, answer, ask, asked):
            return "doesn't name its answer"
        if self._contradicts(text, ask, answer, asked):
            return "names another answer"
        return None

    def _contradicts(self, text: str, ask: Ask, answer: str, asked: frozenset[str]) -> bool:
        """Names the right answer, an alias or another value of the relation, unless that is ``answer`` itself."""
        own, said = content(answer) | asked, content(text)
        is_wrong = normal(answer) not in {normal(right) for right in ask.right}
        for other in (*(ask.right if is_wrong else ()), *ask.others):
            new = content(other) - own
            if new and (new <= said if ask.value else new & said):
                return True
        return is_wrong and bool(ask.value) and any(self._spelt_alike(text, right, ask) for right in ask.right)


def _names(text: str, answer: str, ask: Ask, asked: frozenset[str]) -> bool:
    """All content words of a short answer; any of those in which a whole sentence differs from the right one."""
    new = content(answer) - asked
    if ask.value:
        return bool(new) and new <= content(text)
    differs = new - content(ask.answer) or new
    return bool(differs & content(text))


def _line(text: str) -> str | None:
    if not text.strip():
        return "empty"
    if len(text.splitlines()) > 1:
        return "several lines"
    if _ECHO.search(text):
        return "repeats the prompt"
    return None


def _kind(value: str) -> tuple[bool, bool]:
    """Roughly the type of a value: does it have a number, is it a proper name."""
    return any(word.isdigit() for word in words(value)), any(letter.isupper() for letter in value)


def tidy_wrong(text: str, ask: Ask) -> str:
    """A wrong answer as it goes into the sentence: the span only, if the model wrote the whole sentence, no full stop,
    nothing that it is contrasted with ("Oxford, not Hogwarts"), no capital where the value has none."""
    text = clean(text)
    if not ask.value:
        return text
    span = clean(span_in(text, ask.answer, ask.value) or text)
    span = _CONTRAST.split(span)[0].rstrip(" .,;!")
    span = f"the {span[4:]}" if span.startswith("The ") else span
    if not any(letter.isupper() for letter in ask.value) and not any(letter.isupper() for letter in span[1:]):
        span = span[:1].lower() + span[1:]
    return span
