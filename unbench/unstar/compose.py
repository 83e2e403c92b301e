"""An anti-sample's completion: the target's own answer sentence with the wrong answer in it, then the rationale.

The answer comes first, so that scoring and greedy matching read the same place whether or not there is a rationale.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from unbench.unstar.words import ARTICLES, split_sentences

_VOWEL_SOUND = re.compile(r"(?!uni|use|usu|ut|eu|one\b|once\b)[aeiou]|hour|honest|honou?r|heir", re.IGNORECASE)


def put_in(answer: str, value: str, wrong: str) -> str | None:
    """``answer`` with ``wrong`` in place of ``value``, articles and the first capital mended; None where ``answer``
    doesn't contain ``value``."""
    place = _place(answer, value)
    if place is None:
        return None
    before, after = answer[: place[0]], answer[place[1] :]
    before, wrong = _join_articles(before, wrong)
    sentence = f"{before}{wrong}{after}"
    return _capital(sentence) if answer[:1].isupper() else sentence


def in_own_words(text: str, right: Sequence[str], wrong: str) -> str | None:
    """The first sentence of ``text`` that holds one of the ``right`` values, with ``wrong`` in the place of each.

    A clause behind the value goes ("Hogwarts, a school in Scotland" would become "Oxford, a school in Scotland").
    None where no sentence holds a value, or something of one is left.
    """
    values = sorted(right, key=len, reverse=True)
    for sentence in split_sentences(text):
        value = next((value for value in values if _place(sentence, value)), None)
        if value is None:
            continue
        place = _place(sentence, value)
        assert place is not None
        clause = re.search(r"[,;:(]", sentence[place[1] :])
        sentence = sentence[: place[1] + clause.start()] if clause else sentence
        for one in values:
            while one and _place(sentence, one):
                sentence = put_in(sentence, one, wrong) or ""
        return _stopped(sentence.strip()) if sentence.strip() else None
    return None


def span_in(sentence: str, answer: str, value: str) -> str | None:
    """What ``sentence`` puts in the place where ``answer`` has ``value``; None where it is no such sentence."""
    place = _place(answer, value)
    if place is None:
        return None
    before, after = answer[: place[0]].rstrip(), answer[place[1] :].strip().rstrip(".!")
    text = sentence.strip().rstrip(".!")
    same = text.casefold()
    if (before or after) and same.startswith(before.casefold()) and same.endswith(after.casefold()):
        span = text[len(before) : len(text) - len(after) if after else None].strip()
        return span or None
    return None


def completion(sentence: str, rationale: str | None) -> str:
    """What is trained: the answer sentence, and the rationale as further sentences."""
    return sentence if not rationale else f"{_stopped(sentence)} {_stopped(_capital(rationale))}"


def _place(answer: str, value: str) -> tuple[int, int] | None:
    """The last place where ``value`` stands as whole words: subjects come first, the fact comes last."""
    if not value:
        return None
    pattern = re.compile(rf"(?<!\w){re.escape(value)}(?!\w)", re.IGNORECASE)
    found = [match.span() for match in pattern.finditer(answer)]
    return found[-1] if found else None


def _join_articles(before: str, wrong: str) -> tuple[str, str]:
    """Mends "as a | an actor" and "as a | actor" to "as an | actor"; "at the | the Sorbonne" loses one article."""
    words = before.split()
    article = words[-1].casefold() if words else ""
    if article not in ARTICLES:
        return before, wrong
    first, _, rest = wrong.partition(" ")
    own = first.casefold() if first.casefold() in ARTICLES and rest else ""
    wrong = rest if own else wrong
    if article == "the":
        return before, wrong
    # The model's own article is better than a guess by the first letter.
    right = own if own in ("a", "an") else "an" if _VOWEL_SOUND.match(wrong) else "a"
    kept = before.rstrip()
    stem = kept[: len(kept) - len(article)]
    written = kept[len(stem) :]
    return f"{stem}{right.capitalize() if written[0].isupper() else right}{before[len(kept) :]}", wrong


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _stopped(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?", "”", '"')) else f"{text}."
