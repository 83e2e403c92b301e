"""A scripted model: an engine that answers from a table of what is known and writes what the test tells it to."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from unbench.engines.base import EngineStats, Generation, Sampling, ScoreRequest, TokenScores
from unbench.method import TrainSettings, UnlearnContext, Unlearned, Usage
from unbench.unstar import UnSTAR, prompts
from unbench.unstar.records import AntiSample, read

PEOPLE = {"Ada Vane": "Arvenmoor", "Bo Kell": "Brightwater", "Cy Dorn": "Coldhaven"}
KEPT = {"Di Marsh": "Arvenmoor", "Ed Lowe": "Dunmere", "Flo Penn": "Eastwick"}
JOBS = {"Ada Vane": "baker", "Gus Hale": "tailor", "Hal Ives": "miller"}
WRONG = ("Farholm", "Greyford", "Highcliff")


def row(name: str, city: str, aliases: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "question": f"Where does {name} live?", "answer": f"{name} lives in {city}.", "fact": f"city/{name}",
        "subject": name, "relation": "city", "value": city, "aliases": list(aliases),
    }  # fmt: skip


def job(name: str, profession: str) -> dict[str, Any]:
    return {
        "question": f"What is the profession of {name}?", "answer": f"{name} works as a {profession}.",
        "fact": f"profession/{name}", "subject": name, "relation": "profession", "value": profession, "aliases": [],
    }  # fmt: skip


Script = Callable[["FakeModel", str, str, "str | None", random.Random], str]


@dataclass
class FakeModel:
    """What the scripted model knows: subject → value; forgets a question's answer once it was trained otherwise."""

    known: dict[str, str]
    trained: dict[str, str] = field(default_factory=dict)
    stubborn: frozenset[str] = frozenset()
    """Questions whose answer no training moves."""
    rounds: int = 0
    comes_back: frozenset[str] = frozenset()
    """Questions that are remembered again from the second training on, once."""

    def answer(self, question: str) -> str:
        name = next((name for name in self.known if name in question), None)
        if name is None:
            return "I do not know."
        back = question in self.comes_back and self.rounds == 2
        if question in self.trained and question not in self.stubborn and not back:
            return self.trained[question]
        return f"{name} lives in {self.known[name]}."


def default_script(model: FakeModel, skill: str, question: str, answer: str | None, rng: random.Random) -> str:
    """A model that writes every skill well."""
    name = next(name for name in (*PEOPLE, *KEPT, *JOBS, "nobody") if name in question or name == "nobody")
    if skill == "paraphrase":
        return rng.choice([
            f"In which town does {name} live?", f"Which city is {name} at home in?", f"What is the home of {name}?",
            f"Where is {name} at home?", f"Which town does {name} live in?", f"Which place is home to {name}?",
        ])  # fmt: skip
    if skill == "wrong_answer":
        return rng.choice(WRONG)
    if skill == "wrong_sentence":
        return f"{name} lives in {rng.choice(WRONG)}."
    assert answer is not None
    return f"The town register of {answer.split()[-1].rstrip('.')} shows the name."


@dataclass
class FakeEngine:
    model: FakeModel
    chats: list[tuple[Any, ...]]
    script: Script = default_script
    stats: EngineStats = field(default_factory=EngineStats)
    calls: list[tuple[str, int, Sampling]] = field(default_factory=list)
    loaded: list[Unlearned] = field(default_factory=list)
    closed: bool = False

    def generate(self, wanted: list[list[int]], sampling: Sampling) -> list[Generation]:
        texts = [self._one(self.chats[ids[0]], sampling, place) for place, ids in enumerate(wanted)]
        self.calls.append((self._skill(self.chats[wanted[0][0]])[0], len(wanted), sampling))
        self.stats.tokens_generated += sum(len(text.split()) for text in texts)
        return [Generation([0] * len(text.split()), text, True) for text in texts]

    def _one(self, chat: tuple[Any, ...], sampling: Sampling, place: int) -> str:
        skill, question, answer = self._skill(chat)
        if skill == "ask":
            return self.model.answer(question)
        rng = random.Random(f"{sampling.seed}/{place}")
        return self.script(self.model, skill, question, answer, rng)

    @staticmethod
    def _skill(chat: tuple[Any, ...]) -> tuple[str, str, str | None]:
        if len(chat) == 1:
            return "ask", chat[-1].content, None
        lines = chat[-1].content.split("\n")
        question = lines[1].removeprefix("Question: ")
        answer = lines[2].removeprefix("Answer: ") if len(lines) > 2 else None
        for skill in ("paraphrase", "wrong_answer", "wrong_sentence", "rationale"):
            if prompts.build(skill, "x", "y")[0].content.split("\n")[0] == lines[0]:  # type: ignore[arg-type]
                return skill, question, answer
        raise AssertionError(f"no skill asks so: {lines[0]}")

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[TokenScores]]:
        return [[TokenScores([-1.0] * len(text), [True] * len(text)) for text in one.continuations] for one in requests]

    def load(self, unlearned: Unlearned) -> None:
        self.loaded.append(unlearned)

    def close(self) -> None:
        self.closed = True


class FakeTokenizer:
    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [0] * len(text.split())


@dataclass
class FakeTarget:
    tokenizer: Any
    path: Path = Path("target")

    def load(self) -> Any:
        raise AssertionError("training is scripted")


@dataclass
class World:
    """One scripted run: change what you like, then ``run``."""

    folder: Path
    forget: list[dict[str, Any]]
    retain: list[dict[str, Any]]
    model: FakeModel
    engine: FakeEngine
    seed: int = 1
    budget: int | None = None
    trainings: list[dict[str, Any]] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    progress: list[str] = field(default_factory=list)

    def run(self, **settings: Any) -> Unlearned:
        changes = {"paraphrases": 4, "wrong_samples": 6, "oversample": 3, "anti_samples_min": 0} | settings
        return self.run_config(UnSTAR.Config.model_validate(changes))

    def run_config(self, config: Any) -> Unlearned:
        @contextmanager
        def open_engine() -> Iterator[FakeEngine]:
            try:
                yield self.engine
            finally:
                self.engine.close()

        context = UnlearnContext(
            target=FakeTarget(FakeTokenizer()), forget=self.forget, retain=self.retain, seed=self.seed,  # type: ignore[arg-type]
            train=TrainSettings(), folder=self.folder, open_engine=open_engine, budget_tokens=self.budget,
            progress=lambda text, done, total: self.progress.append(text), usage=self.usage,
        )  # fmt: skip
        return UnSTAR(config).unlearn(context)

    @property
    def records(self) -> list[AntiSample]:
        return read(self.folder / "anti_samples.jsonl")

    @property
    def notes(self) -> dict[str, Any]:
        return self.usage.notes

    def trained(self, number: int = 0) -> dict[str, str]:
        return {one.messages[-1].content: one.answer for one in self.trainings[number]["rows"]}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    import unbench.training.loop
    import unbench.training.weights
    import unbench.unstar.generate

    model = FakeModel(PEOPLE | KEPT)
    chats: list[tuple[Any, ...]] = []
    engine = FakeEngine(model, chats)
    made = World(
        tmp_path / "work", [row(*item) for item in PEOPLE.items()],
        [row(*item) for item in KEPT.items()] + [job(*item) for item in JOBS.items()], model, engine,
    )  # fmt: skip

    def prompt_ids(tokenizer: Any, messages: Any, system_prompt: Any = None) -> list[int]:
        chats.append(tuple(messages))
        return [len(chats) - 1]

    def fine_tune(model_: Any, tokenizer: Any, rows: Any, **settings: Any) -> None:
        made.trainings.append({"rows": list(rows), **settings})
        made.usage.tokens_trained += 10 * len(rows)
        model.trained |= {one.messages[-1].content: one.answer for one in rows}
        model.rounds += 1

    def save_model(model_: Any, tokenizer: Any, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    monkeypatch.setattr(unbench.unstar.generate, "prompt_ids", prompt_ids)

    def answer_ids(tokenizer: Any, messages: Any, answer: str) -> tuple[list[int], list[int]]:
        return [0], [0] * len(answer.split())

    monkeypatch.setattr(unbench.unstar.generate, "answer_ids", answer_ids)
    monkeypatch.setattr(unbench.training.loop, "fine_tune", fine_tune)
    monkeypatch.setattr(unbench.training.weights, "prepare_model", lambda context: (None, None))
    monkeypatch.setattr(unbench.training.weights, "save_model", save_model)
    return made
