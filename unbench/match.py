"""Does a text hold an answer? Used on greedy answers (``recall``) and by UnSTAR's match rule.

The answer's content words must stand in the text as a run. Stop words may stand between them, and so may words of the
question, for a model that repeats the question says nothing:

=============================  ==========================  ================================  =====
answer                         question                    text                              holds
=============================  ==========================  ================================  =====
Hogwarts                       Where did Harry study?      He studied at Hogwarts.           yes
Hogwarts School of Witchcraft  Which school …?             the Hogwarts school, witchcraft   yes
University of Oslo             Which university …?         the University of Bergen          no
seven                          How many …?                 There are 7.                      yes
Zürich                         Where …?                    in zurich                         yes
New York                       New York or New Jersey?     It is New Jersey.                 no
=============================  ==========================  ================================  =====

In the last case every word of the answer stands in the question (a choice lists its options): then the whole answer,
stop words included, must stand in the text word for word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_STOP = (
    "a an and are as at be been being but by did do does for from had has have he her hers him his i in into is it its "
    "my of on or our she so than that the their them then there these they this those to was we were what when where "
    "which who whom whose with you your"
)
STOP_WORDS = frozenset(_STOP.split())
"""Words that carry no answer. No word that is also a name (may, will, us) and no yes, no or not."""

_BELOW_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
_UNITS = _BELOW_TWENTY.split()
_TENS = {word: 10 * n for n, word in enumerate(_TENS_WORDS.split(), 2)}
_NUMBERS = {word: n for n, word in enumerate(_UNITS)} | _TENS
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
_ORDINALS = {"first": "1st", "second": "2nd", "third": "3rd", "fifth": "5th", "eighth": "8th", "ninth": "9th",
             "twelfth": "12th", "twentieth": "20th", "thirtieth": "30th"} | {
    f"{word}th": f"{n}th" for n, word in enumerate(_UNITS) if word not in {"five", "eight", "nine", "twelve"} and n > 3
}  # fmt: skip
_WORD = re.compile(r"\w+")


def holds(text: str, answers: Sequence[str], question: str = "") -> bool:
    """Whether ``text`` holds one of the ``answers`` to ``question`` (the cases stand in the module's docstring)."""
    asked = frozenset(words(question)) | STOP_WORDS
    said = words(text)
    kept = [word for word in said if word not in asked]
    for answer in answers:
        whole = words(answer)
        content = [word for word in whole if word not in asked]
        if _run(content, kept) if content else _run(whole, said):
            return True
    return False


def similar(a: str, b: str) -> float:
    """How alike two strings are, 0 to 100: rapidfuzz's ratio (normalised insertions and deletions), case ignored."""
    from rapidfuzz import fuzz

    return float(fuzz.ratio(a.casefold(), b.casefold()))


def words(text: str) -> list[str]:
    """The words of a text: case, accents and punctuation gone, numbers as digits ("twenty-one" is "21")."""
    text = unicodedata.normalize("NFKD", text.casefold())
    text = "".join(c for c in text if not unicodedata.combining(c)).replace("’", "'")
    text = re.sub(r"'s\b", "", text).replace("'", "")
    # 1,000 is one number.
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    return _digits(_WORD.findall(text.replace("_", " ")))


def _digits(found: list[str]) -> list[str]:
    """Number words as digits: one, twenty one, two hundred and five, seventh."""
    out: list[str] = []
    i = 0
    while i < len(found):
        value, i_next = _number(found, i)
        if value is not None:
            out.append(str(value))
        elif found[i] in _TENS and i + 1 < len(found) and (unit := _ORDINALS.get(found[i + 1])):
            out.append(f"{_TENS[found[i]] // 10}{unit}")
            i_next = i + 2
        else:
            out.append(_ORDINALS.get(found[i], found[i]))
        i = i_next
    return out


def _number(found: list[str], i: int) -> tuple[int | None, int]:
    """The number that starts at word ``i`` and the index behind it; None and the next word where there is none."""
    if found[i] not in _NUMBERS or (found[i] in _TENS and found[i + 1 : i + 2] and found[i + 1] in _ORDINALS):
        return None, i + 1
    total, part, start = 0, 0, i
    while i < len(found):
        word = found[i]
        if word in _NUMBERS and _fits(word, found, start, i):
            part += _NUMBERS[word]
        elif word in _SCALES and part:
            part *= _SCALES[word]
            if word != "hundred":
                total, part = total + part, 0
        elif word == "and" and found[i - 1] in _SCALES and found[i + 1 : i + 2] and found[i + 1] in _NUMBERS:
            pass
        else:
            break
        i += 1
    return total + part, i


def _fits(word: str, found: list[str], start: int, i: int) -> bool:
    """Whether a number word goes on with the number before it: "twenty one" does, "one two" are two numbers."""
    if i == start or found[i - 1] in _SCALES or found[i - 1] == "and":
        return True
    return found[i - 1] in _TENS and 0 < _NUMBERS[word] < 10


def _run(wanted: list[str], said: list[str]) -> bool:
    """Whether ``wanted`` stands in ``said`` as a contiguous run."""
    n = len(wanted)
    return n > 0 and any(said[i : i + n] == wanted for i in range(len(said) - n + 1))
