"""The small text tools that filters and composition share: words, number words, names, sentences."""

from __future__ import annotations

import re
from functools import lru_cache

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]*(?=\s|$)")
_ABBREVIATION = re.compile(r"(?:\b(?:mr|mrs|ms|dr|st|prof|jr|sr|vs|etc|no)|(?:^|\W)[^\W\d_])\.$", re.IGNORECASE)
_LABEL = re.compile(r"^(?:question|answer|reply|a|q)\s*:\s*", re.IGNORECASE)
_QUOTES = "\"'“”‘’`*"
_UNITS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty"""
_TENS = "thirty forty fifty sixty seventy eighty ninety hundred"
NUMBER_WORDS = {word: str(number) for number, word in enumerate(_UNITS.split())} | {
    word: str(10 * tens) for tens, word in enumerate(_TENS.split(), start=3)
}
ARTICLES = frozenset({"a", "an", "the"})
_STOP = """and or but of in on at to for from by with as is are was were be been being am do does did done has have had
    it its he she they his her their him them this that these those there here who whom whose which what where when why
    how i you we me my your our us not no so than then also into over under about after before during between"""
STOP_WORDS = ARTICLES | frozenset(_STOP.split())


@lru_cache(maxsize=65536)
def words(text: str) -> tuple[str, ...]:
    """Words in lower case, number words as digits, possessive endings off."""
    found = (word.replace("’", "'").removesuffix("'s") for word in _WORD.findall(text.casefold()))
    return tuple(NUMBER_WORDS.get(word, word) for word in found)


@lru_cache(maxsize=65536)
def content(text: str) -> frozenset[str]:
    """Words that carry meaning: no articles, prepositions, pronouns, auxiliaries."""
    return frozenset(words(text)) - STOP_WORDS


def normal(text: str) -> str:
    """Words joined by single spaces, a leading article off: equal for texts that differ in case or punctuation."""
    found = list(words(text))
    while found and found[0] in ARTICLES:
        found.pop(0)
    return " ".join(found)


def digits_as_words_too(text: str) -> str:
    """The text with number words as digits, everything else as it stands."""
    return _WORD.sub(lambda match: NUMBER_WORDS.get(match[0].casefold(), match[0]), text)


def names(text: str) -> frozenset[str]:
    """Capitalised words (lower-cased) behind the first of their sentence or clause: proper names, in English."""
    found = set()
    for match in _WORD.finditer(text):
        before = text[: match.start()].rstrip(_QUOTES + "( ")
        if before and before[-1] not in ".!?:" and match[0][0].isupper() and match[0] != "I":
            found.add(match[0].casefold().replace("’", "'").removesuffix("'s"))
    return frozenset(found)


def sentences(text: str) -> int:
    """How many sentences the text has; ``Dr.`` and initials end none."""
    ends = [match for match in _SENTENCE_END.finditer(text) if not _ABBREVIATION.search(text[: match.start() + 1])]
    tail = text[ends[-1].end() :] if ends else text
    return len(ends) + bool(tail.strip())


def clean(text: str) -> str:
    """A generation without surrounding space, quotes and a repeated label (``Question:``)."""
    text = _LABEL.sub("", text.strip())
    while len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES:
        text = text[1:-1].strip()
    return text
