"""The small text tools that filters and composition share: words, names, sentences."""

from __future__ import annotations

import re
from functools import lru_cache

from unbench import match

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]*(?=\s|$)")
_ABBREVIATION = re.compile(r"(?:\b(?:mr|mrs|ms|dr|st|prof|jr|sr|vs|etc|no)|(?:^|\W)[^\W\d_])\.$", re.IGNORECASE)
_LABEL = re.compile(r"^(?:question|answer|reply|a|q)\s*:\s*", re.IGNORECASE)
_QUOTES = "\"'“”‘’`*"
ARTICLES = frozenset({"a", "an", "the"})


@lru_cache(maxsize=65536)
def words(text: str) -> tuple[str, ...]:
    """Words as the match rule sees them: case, accents and possessives off, number words as digits."""
    return tuple(match.words(text))


@lru_cache(maxsize=65536)
def content(text: str) -> frozenset[str]:
    """Words that carry meaning, no stop words."""
    return frozenset(words(text)) - match.STOP_WORDS


def normal(text: str) -> str:
    """Words joined by single spaces, a leading article off: equal for texts that differ in case or punctuation."""
    found = list(words(text))
    while found and found[0] in ARTICLES:
        found.pop(0)
    return " ".join(found)


def names(text: str) -> frozenset[str]:
    """Capitalised words (as ``words`` has them) behind the first of a sentence or clause: English proper names."""
    found: set[str] = set()
    for word in _WORD.finditer(text):
        before = text[: word.start()].rstrip(_QUOTES + "( ")
        if before and before[-1] not in ".!?:" and word[0][0].isupper() and word[0] != "I":
            found |= set(words(word[0]))
    return frozenset(found)


def split_sentences(text: str) -> list[str]:
    """The sentences of a text; ``Dr.`` and initials end none."""
    found, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        if not _ABBREVIATION.search(text[: end.start() + 1]):
            found.append(text[start : end.end()].strip())
            start = end.end()
    return [*found, tail] if (tail := text[start:].strip()) else found


def sentences(text: str) -> int:
    """How many sentences the text has."""
    return len(split_sentences(text))


def clean(text: str) -> str:
    """A generation without surrounding space, quotes and a repeated label (``Question:``)."""
    text = _LABEL.sub("", text.strip())
    while len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES:
        text = text[1:-1].strip()
    return text
