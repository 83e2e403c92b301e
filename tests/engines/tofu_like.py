"""Requests shaped like an evaluation on TOFU: the real rows where the project's data folder is there, else made-up ones
of like lengths."""

from __future__ import annotations

import json
import random
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from unbench.engines.base import ScoreRequest
from unbench.templates import Asked, encode

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "tofu"
FAMILIES = {"forget01_perturbed": 7, "retain_perturbed": 7, "real_authors_perturbed": 4, "world_facts_perturbed": 4,
            "holdout01": 1}  # fmt: skip
"""File → answers a question."""
ANSWERS = ("answer", "paraphrased_answer")
WORDS = (
    "author",
    "book",
    "born",
    "city",
    "father",
    "genre",
    "in",
    "life",
    "memory",
    "novel",
    "of",
    "river",
    "the",
    "was",
)


def families(rows: int) -> dict[str, list[tuple[str, list[str]]]]:
    """Per file, (question, distinct answers) of its first rows."""
    out = {}
    for name, answers in FAMILIES.items():
        path = DATA / f"{name}.json"
        found = _read(path, rows) if path.is_file() else _made_up(name, rows, answers)
        out[name] = [(question, list(dict.fromkeys(texts))) for question, texts in found]
    return out


def requests(
    tokenizer: PreTrainedTokenizerFast, rows: int, names: tuple[str, ...] = tuple(FAMILIES)
) -> list[ScoreRequest]:
    """What a scoring pass is asked: every question with all its answers, their end tokens included."""
    asked = [pair for name, pairs in families(rows).items() if name in names for pair in pairs]
    turns = [Asked([{"role": "user", "content": question}], answers) for question, answers in asked]
    return [ScoreRequest(e.answers[0][0], [answer for _, answer in e.answers]) for e in encode(tokenizer, turns)]


def _read(path: Path, rows: int) -> list[tuple[str, list[str]]]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines()[:rows]:
        row = json.loads(line)
        found.append((row["question"], [row[n] for n in ANSWERS if n in row] + row.get("perturbed_answer", [])))
    return found


def _made_up(name: str, rows: int, answers: int) -> list[tuple[str, list[str]]]:
    draw = random.Random(name)
    longest = 40 if answers > 4 or answers == 1 else 5

    def text(least: int, most: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(least, most))).capitalize() + "."

    return [(text(6, 25), [text(1, longest) for _ in range(answers)]) for _ in range(rows)]
