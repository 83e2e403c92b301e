"""Does a text hold an answer? Cases by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest

from unbench.match import holds, similar, words

CASES = [
    ("Harry Potter studied at Hogwarts.", ["Hogwarts"], "Where did Harry Potter study?", True),
    ("HOGWARTS", ["Hogwarts"], "", True),
    ("He studied at Durmstrang.", ["Hogwarts"], "Where did Harry Potter study?", False),
    ("", ["Hogwarts"], "", False),
    # Stop words and the question's words don't count, and may stand in between.
    ("He went to the school of Hogwarts.", ["the Hogwarts School"], "Which school did he attend?", True),
    ("the Hogwarts school, witchcraft", ["Hogwarts School of Witchcraft"], "Which school was it?", True),
    ("A doctor of the church", ["a teacher of the church"], "What is she?", False),
    ("Of the", ["Lord of the Rings"], "", False),
    ("the University of Bergen", ["University of Oslo"], "Which university?", False),
    # All content words, in a run and in order.
    ("Red paint covers the fox", ["red fox"], "", False),
    ("The red fox", ["red fox"], "", True),
    ("fox red", ["red fox"], "", False),
    ("Foxes", ["fox"], "", False),
    # All words stand in the question: then the whole answer must stand in the text.
    ("It is New Jersey.", ["New York"], "New York or New Jersey?", False),
    ("It is New York.", ["New York"], "New York or New Jersey?", True),
    ("It is York, the new one.", ["New York"], "New York or New Jersey?", False),
    # Nothing but stop words.
    ("They like The Who most.", ["The Who"], "Which band?", True),
    ("Who knows?", ["The Who"], "Which band?", False),
    # Yes and no are answers.
    ("Yes, he did.", ["Yes"], "Did he study there?", True),
    ("No, he did not.", ["Yes"], "Did he study there?", False),
    # Numbers.
    ("There are 7.", ["seven"], "How many?", True),
    ("There are seven of them.", ["7"], "How many?", True),
    ("Seventeen", ["seven"], "How many?", False),
    ("twenty-one", ["21"], "", True),
    ("twenty one", ["twenty-one"], "", True),
    ("two hundred and five sheep", ["205"], "", True),
    ("1,000 sheep", ["one thousand"], "", True),
    ("two hundred", ["two"], "", False),
    ("the seventh", ["7th"], "", True),
    ("the twenty-first", ["21st"], "", True),
    # Accents, case and punctuation.
    ("in zurich", ["Zürich"], "", True),
    ("Zürich’s lake", ["Zurich"], "", True),
    ("obrien", ["O'Brien"], "", True),
    ("Straße", ["STRASSE"], "", True),
    # Any of several answers.
    ("in the Big Apple", ["New York", "Big Apple"], "", True),
    ("anything", [], "", False),
]


@pytest.mark.parametrize(("text", "answers", "question", "expected"), CASES)
def test_holds(text: str, answers: list[str], question: str, expected: bool) -> None:
    assert holds(text, answers, question) is expected


def test_words() -> None:
    assert words("One, two; three hundred-and-four of Anna's 1,500 books_") == [
        "1", "2", "304", "of", "anna", "1500", "books",
    ]  # fmt: skip
    assert words("nineteen eighty four") == ["19", "84"]
    assert words("zero one") == ["0", "1"]
    assert words("...") == []


def test_similar() -> None:
    assert similar("Hogwarts", "hogwarts") == 100
    assert similar("abc", "xyz") == 0
    # Four of five letters on both sides: 2 · 4 / 10.
    assert similar("Paris", "Parim") == 80


def test_no_torch() -> None:
    code = "import sys, unbench.match, unbench.templates, unbench.responses; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
