"""The prompts of the self-teaching skills, as chat turns (data in ``prompts.yaml``)."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Literal

import yaml

from unbench.task import Message

Skill = Literal["paraphrase", "wrong_answer", "wrong_sentence", "rationale"]


@cache
def _skills() -> dict[str, dict[str, object]]:
    text = files("unbench.unstar").joinpath("prompts.yaml").read_text(encoding="utf-8")
    loaded: dict[str, dict[str, object]] = yaml.safe_load(text)
    return loaded


def build(skill: Skill, question: str, answer: str | None = None) -> tuple[Message, ...]:
    """Chat turns that ask for ``skill`` on one question.

    ``answer`` is the answer sentence; all skills but ``paraphrase`` need it.
    """
    spec = _skills()[skill]
    instruction = str(spec["instruction"])
    turns: list[Message] = []
    shots = spec["shots"]
    assert isinstance(shots, list)
    for shot in shots:
        turns.append(Message(role="user", content=_ask(instruction, shot["question"], shot.get("answer"))))
        turns.append(Message(role="assistant", content=shot["reply"]))
    turns.append(Message(role="user", content=_ask(instruction, question, answer)))
    return tuple(turns)


def _ask(instruction: str, question: str, answer: str | None) -> str:
    lines = [instruction, f"Question: {question}"]
    if answer is not None:
        lines.append(f"Answer: {answer}")
    return "\n".join(lines)
