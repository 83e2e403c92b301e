"""UnSTAR: the model writes misleading answers and rationales for its own fact, and is fine-tuned on them.

Sinha, Mandal, Kankanhalli: UnSTAR, arXiv 2410.17050 (TMLR 2025), with the fixes that ``config`` names.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from unbench.engines.base import Engine
from unbench.method import Method, MethodCard, MethodConfig, UnlearnContext, Unlearned
from unbench.unstar import records
from unbench.unstar.compose import completion, in_own_words
from unbench.unstar.config import PUBLISHED, SPACE, TUNED, UnSTARConfig
from unbench.unstar.facts import (
    Ask,
    asks_of,
    candidates_of,
    group,
    mix,
    near_count,
    near_gaps,
    with_gaps,
)
from unbench.unstar.filter import Filter
from unbench.unstar.generate import Author, Key, Order, Wanted, borrow_wrong, choose_wrong, sentence_with
from unbench.unstar.records import AntiSample
from unbench.unstar.words import normal

if TYPE_CHECKING:
    from unbench.training.batch import TrainRow


class UnSTAR(Method):
    """Unlearning with self-taught anti-sample reasoning: paraphrases, wrong answers and rationales by the model itself,
    asked, kept where it still remembers, fine-tuned on beside retain rows, round after round."""

    card: ClassVar[MethodCard] = MethodCard(
        name="unstar",
        title="UnSTAR: Unlearning with Self-Taught Anti-Sample Reasoning",
        kind="data",
        paper="arXiv:2410.17050",
        year=2025,
        summary="The model writes wrong answers and misleading rationales for paraphrases of the question and is "
        "fine-tuned on them until it gives the right answer under none.",
        needs=("retain", "generation"),
        bibtex="""@article{sinha2025unstar,
  title   = {{UnSTAR}: Unlearning with Self-Taught Anti-Sample Reasoning for {LLMs}},
  author  = {Sinha, Yash and Mandal, Murari and Kankanhalli, Mohan},
  journal = {Transactions on Machine Learning Research},
  year    = {2025},
  url     = {https://arxiv.org/abs/2410.17050}
}""",
    )
    Config: ClassVar[type[MethodConfig]] = UnSTARConfig
    tuned: ClassVar[dict[str, dict[str, Any]]] = TUNED
    space: ClassVar[Mapping[str, Sequence[Any]]] = SPACE

    @classmethod
    def published(cls, **changes: Any) -> UnSTARConfig:
        """The paper's settings (its training is LoRA of rank 8 on q and v), with ``changes`` laid over them."""
        return UnSTARConfig.model_validate(PUBLISHED | changes)

    def unlearn(self, context: UnlearnContext) -> Unlearned:
        """Writes, asks and trains; what was written lies in ``context.folder / "anti_samples.jsonl"``, what happened in
        ``context.usage.notes``."""
        from unbench.unstar.embed import load_cosine

        config: UnSTARConfig = self.config
        cosine = load_cosine(config.embedding_model, context.device) if config.embedding_model else None
        context.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            engine = stack.enter_context(context.open_engine())
            author = Author(engine, context.target.tokenizer, context, Filter(config, cosine))
            run = _Run(config, context, engine, author)
            # What was written so far is worth reading above all when something went wrong.
            stack.callback(lambda: records.write(context.folder / records.FILE_NAME, author.records))
            return run.unlearn()


@dataclass
class _Phrase:
    """A question that the model is asked: a row's own, or a paraphrase."""

    ask: Ask
    text: str
    round: int
    version: int = -1
    """Which weights it was last asked under; -1 is never."""
    judged: int = -1
    """The same for the likelihood of its answers."""
    remembered: bool = False
    known: bool = False
    """Whether any weights answered it right: what the target never did has drifted, and nothing is to be forgotten."""


@dataclass
class _Run:
    """One unlearning: the state that goes from round to round."""

    config: UnSTARConfig
    context: UnlearnContext
    engine: Engine
    author: Author
    phrases: list[_Phrase] = field(default_factory=list)
    wrong: dict[Key, list[str]] = field(default_factory=dict)
    """Usable wrong answers of each fact; exactly one where they are consistent."""
    beside: list[TrainRow] = field(default_factory=list)
    version: int = 0
    """Counts the weights: 0 is the target."""
    _model: Any = None
    _tokenizer: Any = None
    _weights: Any = None
    _texts: set[tuple[Key, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        candidates = candidates_of(self.context.forget, self.context.retain)
        self.forget = asks_of(self.context.forget, candidates)
        self.retain = asks_of(self.context.retain, candidates)
        self.facts = group(self.forget)
        self.notes: dict[str, Any] = self.context.usage.notes

    def unlearn(self) -> Unlearned:
        self._prepare()
        rounds: list[dict[str, Any]] = []
        self.notes["rounds"] = rounds
        self.notes["stopped"] = "all rounds spent"
        for number in range(1, self.config.rounds + 1):
            self.author.round = number
            self._ask(f"round {number}: asking")
            if number == 1:
                self._note_knowledge()
            if not self._remembered():
                self.notes["stopped"] = "nothing remembered"
                break
            temperature = self._widen(number)
            rows, entry = self._anti_samples(number)
            rounds.append(entry | {"temperature": temperature})
            if not rows or not self._train(rows, number, entry):
                self.notes["stopped"] = "token or retain budget spent"
                break
        self._finish()
        return Unlearned(weights=self._weights)

    # --- before the first round: steps 1, 2 and 5 ----------------------------------------------------------------

    def _prepare(self) -> None:
        """Asks the questions, writes paraphrases and wrong answers with the target's own weights, and mixes the retain
        rows."""
        if self.config.embedding_model is None:
            self.notes["cosine"] = "off: no embedding_model; string ratio, content words and aliases decide"
        if self.config.gaps:
            self.forget = [*self.forget, *with_gaps(self.forget)]
            self.facts = group(self.forget)
        for ask in self.forget:
            self._texts.add((ask.key, normal(ask.question)))
            self.phrases.append(_Phrase(ask, ask.question, 0))
        self._ask("asking what the model knows")
        known = sum(phrase.remembered for phrase in self.phrases)
        self.notes["questions_known_before"] = {"known": known, "asked": len(self.phrases)}
        self._find_wrong_answers()
        chosen = mix(
            self.retain,
            self.forget,
            self.config.retain_mix,
            round(self.config.retain_per_forget * len({ask.fact for ask in self.forget})),
            self.context.seed,
        )
        reasoned = chosen[: math.ceil(self.config.retain_rationale * len(chosen))]
        wanted: list[Order] = [(ask, number, "forget") for ask, number in self._shares(self.config.paraphrases)]
        beside: list[Order] = [(ask, 1, "retain") for ask in reasoned]
        written = self.author.paraphrases([*wanted, *beside], self._texts, self.config.temperature)
        for (ask, _, _), texts in zip(wanted, written, strict=False):
            self.phrases += [_Phrase(ask, text, 1) for text in texts]
        self._retain_rows(chosen, reasoned, written[len(wanted) :])

    def _shares(self, number: int) -> list[tuple[Ask, int]]:
        """``number`` paraphrases a fact, spread over its rows (a fact may be asked by several); none for a fact that
        has no wrong answer."""
        shares = []
        for key, rows in self.facts.items():
            asks = [ask for ask in rows if not ask.gap]
            if self.wrong.get(key):
                for place, ask in enumerate(asks):
                    share = number // len(asks) + (place < number % len(asks))
                    shares += [(ask, share)] if share else []
        return shares

    def _find_wrong_answers(self) -> None:
        """Samples, at a rising temperature for facts that get none; what is left without borrows one of another fact of
        its relation, or is left alone and named in the notes."""
        config, first = self.config, [asks[0] for asks in self.facts.values()]
        votes: dict[Key, Counter[str]] = {ask.key: Counter() for ask in first}
        for level in range(config.levels + 1):
            missing = [ask for ask in first if not votes[ask.key]]
            if missing:
                found = self.author.wrong_answers(missing, config.temperature_of(level))
                votes |= {ask.key: counts for ask, counts in zip(missing, found, strict=True)}
        given = [(ask, list(votes[ask.key])) for ask in first]
        borrowed = []
        for ask in first:
            if not votes[ask.key]:
                votes[ask.key] = Counter(borrow_wrong(ask, given, self.author.filter))
                borrowed += [ask.fact] if votes[ask.key] else []
        usable = [(ask, votes[ask.key]) for ask in first]
        chosen = choose_wrong(usable, self.author.likelihood(usable))
        for ask, one in zip(first, chosen, strict=True):
            self.wrong[ask.key] = [one] if one and config.wrong_answers == "consistent" else list(votes[ask.key])
        skipped = [ask.fact for ask in first if not self.wrong[ask.key]]
        self.notes |= {"wrong_answer_borrowed": borrowed, "skipped_no_wrong_answer": skipped}

    def _retain_rows(self, chosen: Sequence[Ask], reasoned: Sequence[Ask], written: Sequence[Sequence[str]]) -> None:
        """The rows that are trained beside: the chosen ones as they are, and for a share of them the model's own
        paraphrase with the right answer and a right rationale."""
        from unbench.training.batch import TrainRow

        gaps = near_gaps(chosen, self.forget) if self.config.gaps else []
        self.beside = [TrainRow.ask(ask.question, ask.answer) for ask in (*chosen, *gaps)]
        wanted = [
            Wanted(ask, texts[0], ask.value or ask.answer, ask.answer, "retain")
            for ask, texts in zip(reasoned, written, strict=True)
            if texts
        ]
        found = self._rationales(wanted, self.config.temperature)
        for one, (rationale, reason) in zip(wanted, found, strict=True):
            text = completion(one.sentence, rationale)
            self.beside.append(TrainRow.ask(one.question, text))
            self._record(one, rationale, reason, text)
        self.notes["retain"] = {
            "near": (near := near_count(chosen, self.forget)),
            "far": len(chosen) - near,
            "paraphrased": len(wanted),
            "with_rationale": sum(rationale is not None for rationale, _ in found),
        }

    # --- a round: steps 3 and 4 -----------------------------------------------------------------------------------

    def _ask(self, description: str) -> None:
        """Asks every new phrase, and again every one that was once known; without ``retest`` only what was remembered
        when last asked (the published way)."""
        due = [
            phrase
            for phrase in self.phrases
            if phrase.version != self.version
            and (phrase.version < 0 or phrase.remembered or (self.config.retest and phrase.known))
        ]
        answers = self.author.answers([(phrase.ask, phrase.text) for phrase in due], description)
        for phrase, answer in zip(due, answers, strict=True):
            if answer is not None:
                phrase.version = self.version
                phrase.remembered = self.author.filter.remembers(answer, phrase.ask)
                phrase.known = phrase.known or phrase.remembered
        if self.config.by_likelihood and self.wrong:
            self._ask_likelihood()

    def _ask_likelihood(self) -> None:
        """Which phrases the current weights still find the right answer sentence likelier to than the wrong one."""
        due = [
            phrase
            for phrase in self.phrases
            if phrase.version == self.version and phrase.judged != self.version and self.wrong[phrase.ask.key]
        ]
        pairs = [(phrase.text, phrase.ask.answer, sentence_with(phrase.ask, self._wrong_for(phrase))) for phrase in due]
        for phrase, gap in zip(due, self.author.preference(pairs), strict=True):
            phrase.judged = self.version
            phrase.remembered = phrase.remembered or gap > 0
            phrase.known = phrase.known or phrase.remembered

    def _remembered(self) -> list[_Phrase]:
        """Phrases that the current weights answer right and that a wrong answer exists for."""
        return [
            phrase
            for phrase in self.phrases
            if phrase.remembered and phrase.version == self.version and self.wrong[phrase.ask.key]
        ]

    def _note_knowledge(self) -> None:
        """A fact that the target gives under no phrase was never known: it is not counted as forgotten."""
        known = {phrase.ask.key for phrase in self.phrases if phrase.known}
        self.notes["never_known"] = [asks[0].fact for key, asks in self.facts.items() if key not in known]
        self.notes["phrases_known_before"] = {
            "known": sum(phrase.known for phrase in self.phrases),
            "asked": sum(phrase.version >= 0 for phrase in self.phrases),
        }

    def _widen(self, number: int) -> float:
        """New paraphrases, at a rising temperature, for facts that are remembered under few phrases."""
        temperature = self.config.temperature
        for level in range(1, max(self.config.levels, 1) + 1):
            have = Counter(phrase.ask.key for phrase in self._remembered())
            thin = {key: self.config.anti_samples_min - count for key, count in have.items()}
            wanted: list[Order] = []
            for key, missing in thin.items():
                if missing > 0:
                    # The phrases under which it is remembered say which row to rephrase.
                    asks = [phrase.ask for phrase in self._remembered() if phrase.ask.key == key]
                    ask = next((ask for ask in asks if not ask.gap), asks[0])
                    wanted.append((ask, missing, "forget"))
            if not wanted or self.author.cut_short or self.config.paraphrases == 0:
                break
            temperature = self.config.temperature_of(level)
            written = self.author.paraphrases(wanted, self._texts, temperature)
            for (ask, _, _), texts in zip(wanted, written, strict=True):
                self.phrases += [_Phrase(ask, text, number) for text in texts]
            self._ask(f"round {number}: asking new paraphrases")
        return temperature

    def _anti_samples(self, number: int) -> tuple[list[TrainRow], dict[str, Any]]:
        """The round's training rows: what is remembered, answered wrongly, with the rationale if it is usable."""
        from unbench.training.batch import TrainRow

        wanted = []
        remembered = self._remembered()
        for phrase, said in zip(remembered, self._own_words(remembered), strict=True):
            wrong = self._wrong_for(phrase)
            own = (in_own_words(text, phrase.ask.right, wrong) for text in said)
            sentences = [text for text in own if text and self.author.filter.own_sentence(text, phrase.ask)]
            for sentence in dict.fromkeys(sentences or [sentence_with(phrase.ask, wrong)]):
                wanted.append(Wanted(phrase.ask, phrase.text, wrong, sentence))
        found = self._rationales(wanted, self.config.temperature)
        rows = []
        for one, (rationale, reason) in zip(wanted, found, strict=True):
            text = completion(one.sentence, rationale)
            rows.append(TrainRow.ask(one.question, text))
            self.context.usage.teach(one.ask.fact, one.answer)
            self._record(one, rationale, reason, text)
        entry = {
            "round": number,
            "asked": sum(phrase.version == self.version for phrase in self.phrases),
            "remembered": len(remembered),
            "facts_remembered": len({one.ask.key for one in wanted}),
            "anti_samples": len(rows),
            "with_rationale": sum(rationale is not None for rationale, _ in found),
        }
        return rows, entry

    def _own_words(self, phrases: Sequence[_Phrase]) -> list[list[str]]:
        """What the model says to each phrase in its own words; nothing where the rows' sentences are to be kept."""
        if not self.config.own_words or not phrases or not phrases[0].ask.value:
            return [[] for _ in phrases]
        asked = [(phrase.ask, phrase.text) for phrase in phrases]
        return self.author.own_answers(asked, self.config.own_words, self.config.temperature)

    def _wrong_for(self, phrase: _Phrase) -> str:
        usable = self.wrong[phrase.ask.key]
        return random.Random(f"unstar/wrong/{self.context.seed}/{phrase.ask.key}/{phrase.text}").choice(usable)

    def _rationales(self, wanted: Sequence[Wanted], temperature: float) -> list[tuple[str | None, str | None]]:
        if not self.config.rationale or not wanted:
            return [(None, None)] * len(wanted)
        return self.author.rationales(wanted, temperature)

    def _train(self, rows: list[TrainRow], number: int, entry: dict[str, Any]) -> bool:
        """One round of fine-tuning, then the engine serves the new weights; False where no step could be paid for."""
        from unbench.training.loop import fine_tune
        from unbench.training.weights import prepare_model, save_model

        config, context = self.config, self.context
        if self._model is None:
            self._model, self._tokenizer = prepare_model(context)
        per_step = min(config.batch_size, len(rows))
        steps = config.steps or max(1, math.ceil(config.steps_per_anti_sample * len(rows) / per_step))
        before = context.usage.tokens_trained
        fine_tune(
            self._model,
            self._tokenizer,
            rows,
            beside=self.beside,
            steps=steps,
            lr=config.lr,
            batch_size=config.batch_size,
            seed=context.seed + number - 1,
            warmup=config.warmup,
            context=context,
            description=f"round {number}: unlearning",
        )
        entry["steps"] = steps
        if context.usage.tokens_trained == before:
            return False
        self._weights = save_model(self._model, self._tokenizer, context.folder / "model")
        self.engine.load(Unlearned(weights=self._weights))
        self.version += 1
        return True

    # --- after the last -------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """What is still remembered under the last weights, and what was written."""
        if not self.author.cut_short:
            self._ask("asking once more")
        left = self._remembered()
        self.notes["remembered_after"] = {
            "phrases": len(left),
            "facts": list(dict.fromkeys(phrase.ask.fact for phrase in left)),
            "asked": sum(phrase.version == self.version for phrase in self.phrases),
        }
        self.notes["written"] = records.reasons(self.author.records)
        if self.author.cut_short:
            self.notes["generation_cut"] = "the token budget did not cover all generations"

    def _record(self, one: Wanted, rationale: str | None, reason: str | None, text: str) -> None:
        self.author.records.append(
            AntiSample(
                round=self.author.round,
                role=one.role,
                stage="anti_sample",
                fact=one.ask.fact,
                question=one.ask.question,
                paraphrase=one.question,
                wrong_answer=one.answer,
                rationale=rationale,
                completion=text,
                kept=True,
                reason=f"without rationale: {reason}" if reason else None,
            )
        )
