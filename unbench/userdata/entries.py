"""Records as entries: the columns found, every cell of the right type, and what the right and wrong answers are."""

from __future__ import annotations

import difflib
import hashlib
import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

from unbench.taskfile import Document, Place
from unbench.userdata.read import Record, Table, Where, kind_of
from unbench.userdata.spec import Source

MAX_CHARS = 100_000
"""Longest question or answer; a model's context ends long before."""
MAX_ID = 200

_NOT_COLUMNS = frozenset({"data", "format", "delimiter", "separator", "hub", "config", "split", "revision"})
_TEXTS = ("question", "answer", "value", "paraphrased_answer")
_IDS = ("fact", "subject", "relation", "id", "kind", "cluster", "pair", "ring")
_LISTS = ("aliases", "candidates", "perturbed", "paraphrases")
_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_MARKS = string.punctuation + "。？！…¿¡"


@dataclass(frozen=True)
class Entry:
    """One row or probe as its author wrote it; what is not there is empty."""

    where: Where
    question: str
    answer: str
    fact: str
    subject: str = ""
    relation: str = ""
    value: str = ""
    paraphrased_answer: str = ""
    aliases: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    """All possible answers, the right one (the value, or the whole answer) among them."""
    perturbed: tuple[str, ...] = ()
    """Wrong answers, whole sentences."""
    paraphrases: tuple[str, ...] = ()
    id: str = ""
    ring: str = ""
    kind: str = ""
    cluster: str = ""
    pair: str = ""
    given: bool | None = None
    own_fact: bool = False
    """Whether the file gave the fact's id; else it is made from the question."""

    @property
    def right(self) -> str:
        """The right one of the candidates."""
        return self.answer if self.answer in self.candidates else self.value

    def around(self) -> tuple[str, str]:
        """The answer before and behind the right candidate. A value that stands there more than once ("Paris Hilton
        lives in Paris") is the last one, and a word of its own where there is one."""
        if self.right == self.answer:
            return "", ""
        found = [match.start() for match in re.finditer(_own_word(self.value), self.answer)]
        at = found[-1] if found else self.answer.rfind(self.value)
        return self.answer[:at], self.answer[at + len(self.value) :]

    def sentence(self, candidate: str) -> str:
        """A whole answer with ``candidate`` in the place of the right one."""
        before, behind = self.around()
        return f"{before}{candidate}{behind}"

    @property
    def wrong(self) -> tuple[str, ...]:
        """Wrong answers as whole sentences: the perturbed ones, else the wrong candidates put into the answer."""
        return self.perturbed or tuple(self.sentence(c) for c in self.candidates if c != self.right)


def read_entries(table: Table, source: Source, document: Document, place: Place) -> list[Entry]:
    """Every record of a table as an entry.

    Raises ``UsageError`` for a missing column (with those that there are) and, with its line, for a cell of the wrong
    type, an empty question or answer, text that no tokenizer takes, a value that the answer doesn't hold and candidates
    that don't fit the answer.
    """
    columns = _columns(table, source, document, place)
    return [_entry(record, columns, source.separator) for record in table.records]


def unread_columns(table: Table, source: Source) -> list[str]:
    """Columns that the task has no use for."""
    wanted = {getattr(source, name) or name for name in type(source).model_fields if name not in _NOT_COLUMNS}
    return [column for column in table.columns if column and column not in wanted]


def same_text(text: str) -> str:
    """What two spellings of one question share: case, spaces and the marks at its ends left out.

    Accents stay, for many scripts tell words apart by them.
    """
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(_MARKS + " ") or folded


def mark(text: str) -> str:
    """SHA-256 of a text: the only source of order here."""
    return hashlib.sha256(text.encode()).hexdigest()


def _columns(table: Table, source: Source, document: Document, place: Place) -> dict[str, str]:
    """Field -> column, for the columns that are there."""
    found = {}
    there = ", ".join(column for column in table.columns if column)
    for field in type(source).model_fields:
        if field in _NOT_COLUMNS:
            continue
        named = getattr(source, field)
        if (named or field) in table.columns:
            found[field] = named or field
        elif named is not None:
            close = difflib.get_close_matches(named, table.columns, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise document.error((*place, field), f"{table.name} has no column {named!r}{hint}; it has: {there}.")
        elif field in ("question", "answer"):
            raise table.header.error(
                f"there is no column {field!r}. There are: {there}.",
                f"Name yours in {document.path.name}, in the section {'.'.join(map(str, place))!r}: {field}: COLUMN.",
            )
    return found


def _entry(record: Record, columns: dict[str, str], separator: str) -> Entry:
    where = record.where

    def cell(field: str) -> object:
        return record.values.get(columns[field]) if field in columns else None

    texts = {field: _text(cell(field), where, columns.get(field, field)) for field in _TEXTS}
    texts |= {field: _text(_counted(cell(field)), where, columns.get(field, field)) for field in _IDS}
    for field in ("question", "answer"):
        if not texts[field]:
            raise where.error(f"the {field} is empty.")
    for field in _IDS:
        _check_id(texts[field], where, columns.get(field, field))
    lists = {field: _texts(cell(field), where, columns.get(field, field), separator) for field in _LISTS}
    given = _truth(cell("given"), where, columns.get("given", "given"))
    own_fact = bool(texts["fact"])
    texts["fact"] = texts["fact"] or mark(same_text(texts["question"]))[:12]
    return _answers(Entry(where=where, **texts, **lists, given=given, own_fact=own_fact))  # type: ignore[arg-type]


def _counted(value: object) -> object:
    """Ids are often numbers."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _text(value: object, where: Where, column: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise where.error(f"{column!r} must be text, not {kind_of(value)}.", "Put it in quotes (or cast the column).")
    text = value.strip()
    if "\0" in text:
        raise where.error(f"{column!r} holds a NUL character.", "Take it out.")
    if len(text) > MAX_CHARS:
        raise where.error(f"{column!r} has {len(text):,} characters, more than {MAX_CHARS:,}.", "Shorten it.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise where.error(f"{column!r} holds half of a character (a lone surrogate).", "Take it out.") from None
    return text


def _check_id(text: str, where: Where, column: str) -> None:
    # Joiners (category Cf too) belong to names in some scripts; what turns the writing direction does not.
    if any(unicodedata.category(letter) == "Cc" or letter in _TURNS for letter in text):
        raise where.error(f"{column!r} holds a control character.", "An id is one line of plain text.")
    if len(text) > MAX_ID:
        raise where.error(f"{column!r} has {len(text)} characters, more than {MAX_ID}.", "Shorten it.")


def _texts(value: object, where: Where, column: str, separator: str) -> tuple[str, ...]:
    """A list of texts, or one text cut at the separator; empty entries are left out."""
    if value is None or isinstance(value, str):
        parts: Sequence[object] = (value or "").split(separator)
    elif isinstance(value, list | tuple):
        parts = value
    else:
        raise where.error(
            f"{column!r} must be a list of texts, or text with {separator!r} between them, not {kind_of(value)}."
        )
    for part in parts:
        if not isinstance(part, str):
            raise where.error(f"{column!r} must hold texts, not {kind_of(part)}.", "Put it in quotes.")
    found = tuple(text for part in parts if (text := _text(part, where, column)))
    twice = next((text for text in found if found.count(text) > 1), None)
    if twice is not None:
        raise where.error(f"{column!r} lists {twice!r} twice.")
    return found


def _truth(value: object, where: Where, column: str) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    word = value.strip().casefold() if isinstance(value, str) else None
    if word == "":
        return None
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if word not in known:
        raise where.error(
            f"{column!r} must be true or false, not {word!r}." if word else f"{column!r} is no truth value."
        )
    return known[word]


def _answers(entry: Entry) -> Entry:
    """The entry with its value found among the candidates, right and wrong answers told apart."""
    where = entry.where
    if entry.value and entry.value not in entry.answer:
        raise where.error(f"the value {entry.value!r} doesn't stand in the answer {_short(entry.answer)}.")
    if entry.candidates:
        entry = replace(entry, value=_value(entry))
        if len(entry.candidates) == 1:
            raise where.error(
                f"the only candidate is {_short(entry.candidates[0])}; a wrong one is wanted beside it.",
                "Add wrong answers, or leave the cell empty.",
            )
    right = {same_text(text): text for text in (*entry.aliases, entry.paraphrased_answer, entry.right) if text}
    for other in entry.candidates:
        if other != entry.right and same_text(other) in right:
            raise where.error(f"the wrong candidate {_short(other)} is also a right answer.")
    sentences = {same_text(entry.answer), same_text(entry.paraphrased_answer or entry.answer)}
    for other in entry.perturbed:
        if same_text(other) in sentences:
            raise where.error(f"the wrong answer {_short(other)} is also the right answer.")
    return entry


def _value(entry: Entry) -> str:
    """The words of the answer that its candidates take the place of; as the file says, or the one that stands there."""
    if entry.answer in entry.candidates or (entry.value and entry.value in entry.candidates):
        return entry.value
    if entry.value:
        raise entry.where.error(f"the value {entry.value!r} is not among the candidates {_listed(entry.candidates)}.")
    standing = [c for c in entry.candidates if re.search(_own_word(c), entry.answer)]
    # "New York" and "York": the longer one is meant.
    longest = [c for c in standing if not any(c != other and c in other for other in standing)]
    if len(longest) == 1:
        return longest[0]
    if longest:
        raise entry.where.error(
            f"{len(longest)} candidates stand in the answer {_short(entry.answer)}: {_listed(longest)}.",
            "Say in a column 'value' which one is right.",
        )
    raise entry.where.error(
        f"the answer {_short(entry.answer)} holds none of the candidates {_listed(entry.candidates)}.",
        "The right answer is one of the candidates.",
    )


def _own_word(text: str) -> str:
    return rf"(?<!\w){re.escape(text)}(?!\w)"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")


def _listed(texts: Sequence[str]) -> str:
    shown = ", ".join(_short(text) for text in texts[:5])
    return f"{shown} …" if len(texts) > 5 else shown
