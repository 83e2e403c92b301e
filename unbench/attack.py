"""All that an attack's author imports: ``Attack``, ``AttackContext``, ``AttackCard``.

An attack asks whether what a method hid can be had back. It changes a copy of the unlearned model, the prompts or the
decoding, and has the forget probes asked again:

    class Shouting(Attack):
        card = AttackCard(name="shouting", title="Shouting", kind="prompt", summary="Asks in capitals.")

        def attack(self, context):
            context.ask(1, probes=[context.reworded(p, question=context.question(p).upper()) for p in context.probes])

The harness runs it on the unlearned model of every seed AND on a model that never knew (the reference): what counts is
how much more the first gives away. An attack never trains on, nor optimises towards, an answer that it then asks for.

Importing this module, or an attack's module, must not import torch: import it inside ``attack``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from unbench.method import Progress, TrainSettings

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from unbench.engines.base import Sampling
    from unbench.task import Knowledge, Message, Probe, Row

AttackKind = Literal["weights", "prompt", "decoding", "internal"]
"""What is changed or read: the weights, the prompt, how text is drawn, hidden states."""
ATTACK_API = 1
"""Version of this module's promises to plugins."""


@dataclass(frozen=True)
class AttackCard:
    """What a reader wants to know of an attack; shown by ``unbench attacks`` and ``unbench cite``."""

    name: str
    title: str
    kind: AttackKind
    summary: str
    bibtex: str = ""
    paper: str | None = None
    year: int | None = None


class AttackConfig(BaseModel):
    """Base of every attack's settings. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NotPossible(Exception):
    """Raised by an attack that can't be carried out here (no rows to train on, CUDA only): null with this reason."""


@dataclass
class AttackContext:
    """One model under attack: the unlearned one of a seed, the reference or the target."""

    role: Literal["unlearned", "reference", "target"]
    load_model: Callable[[], PreTrainedModel]
    """A fresh copy in memory of the model under attack, on ``device``; changing it harms nothing."""
    tokenizer: PreTrainedTokenizerBase
    system_prompt: str | None
    """Put before every prompt, where the method hands one back; ``ask`` sees to it."""
    probes: tuple[Probe, ...]
    """The forget probes to ask again: one phrasing a fact and kind."""
    forget: tuple[Row, ...]
    retain: tuple[Row, ...]
    """The given half of what must stay."""
    unrelated: tuple[Row, ...]
    """Rows that have nothing to do with what was forgotten."""
    seed: int
    device: str
    model_name: str
    """As the plan names it: nano, smollm2, a hub id."""
    train: TrainSettings
    knowledge: Knowledge
    folder: Path
    """For files of the attack's own while it lasts; emptied afterwards."""
    progress: Progress
    load_target: Callable[[], PreTrainedModel] | None = None
    """A fresh copy of the target, whose weights an attacker may hold too (an earlier release); None where it can't be
    had."""
    batch_size: int | None = None
    max_new_tokens: int = 32
    tables: list[pd.DataFrame] = field(default_factory=list)
    """What was asked so far: one row a probe and point of a curve (``unbench.attacks.ask``)."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Anything a reader of the result should know (JSON values)."""
    _model: Any = None

    @property
    def model(self) -> PreTrainedModel:
        """One copy for all attacks that don't change it."""
        if self._model is None:
            self._model = self.load_model()
        model: PreTrainedModel = self._model
        return model

    def ask(
        self,
        strength: float,
        *,
        series: str = "",
        model: PreTrainedModel | None = None,
        probes: Sequence[Probe] | None = None,
        counted: bool = True,
        generate: bool = False,
        template: bool = True,
    ) -> pd.DataFrame:
        """Ask the forget probes as they now are, and keep what comes as a point of the attack's curve.

        Args:
            strength: place on the curve (steps, samples, shots …), larger is stronger.
            series: name of the curve where the attack has several (a learning rate, a prompt).
            model: the changed model in memory, left as it is; None is the model under attack.
            probes: changed probes, with the ids of those they stand for; None is all of ``probes``. Parts of one point
                asked in several calls are put together.
            counted: whether the point may enter ``forget_worst``; False for what is told beside it.
            generate: whether a greedy answer is written too (column recall; else 0).
            template: whether the turns stand in the model's chat template; else in plain lines (``unbench.templates``).

        Returns:
            One row a probe: probe, kind, cluster, fact, known (κ or p(a|q)), rank, recall.
        """
        from unbench.attacks.ask import ask

        return ask(self, strength, series, model or self.model, self.probes if probes is None else probes,
                   counted=counted, generate=generate, template=template)  # fmt: skip

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        sampling: Sampling | None = None,
        model: PreTrainedModel | None = None,
    ) -> list[str]:
        """What the model writes behind each conversation, outer blanks taken off: greedily and up to
        ``max_new_tokens`` unless ``sampling`` says otherwise. Where texts are drawn, equal prompts get texts of their
        own."""
        from unbench.attacks.ask import generate

        return generate(self, prompts, sampling, model or self.model)

    def record(
        self, strength: float, values: Mapping[str, float], *, series: str = "", counted: bool = True
    ) -> pd.DataFrame:
        """Keep a point that the attack measured itself: probe id -> how much the model gives away, on a scale of its
        own (a share of samples, a distance); the attack must then be ``on_target`` too, for the scale. The forms of a
        pair count with their mean. Raises ``ValueError`` for a value that isn't finite."""
        from unbench.attacks.ask import record

        return record(self, strength, series, values, counted=counted)

    def of_kinds(self, kinds: Sequence[str]) -> tuple[Probe, ...]:
        """The probes of these kinds, for attacks that ask only some; all of them where the task has no such kind or
        forgets a single fact."""
        found = tuple(probe for probe in self.probes if probe.kind in kinds)
        return found if found and len({probe.fact for probe in self.probes}) > 1 else self.probes

    def examples(self, probe: Probe, number: int, alike: Sequence[Literal["subject", "relation"]] = ()) -> list[Row]:
        """Up to ``number`` given rows of what must stay, to be shown or asked beside the probe: those first that share
        ``alike`` with its fact, in this order. No row that holds the probe's right answer is among them. The same for
        every model and seed."""
        from unbench.attacks.ask import examples

        return examples(self, probe, number, alike)

    def after_examples(
        self, probes: Sequence[Probe], numbers: Sequence[int], alike: Sequence[Literal["subject", "relation"]] = ()
    ) -> Iterator[tuple[int, list[Probe]]]:
        """For each of ``numbers``: the probes after so many ``examples`` as turns of the chat. Where there are fewer
        rows several numbers become one; nothing where the task has no retain rows."""
        shown = [self.examples(probe, max(numbers, default=0), alike) for probe in probes]
        for number in dict.fromkeys(min(n, max(map(len, shown), default=0)) for n in numbers):
            if number:
                yield number, [self.reworded(probe, before=self.turns(rows[:number]))
                               for probe, rows in zip(probes, shown, strict=True)]  # fmt: skip

    @staticmethod
    def turns(rows: Sequence[Row]) -> tuple[Message, ...]:
        """Rows as turns of a chat: question, answer, question …"""
        from unbench.task import Message

        return tuple(
            turn for row in rows
            for turn in (Message(role="user", content=row.question), Message(role="assistant", content=row.answer))
        )  # fmt: skip

    @staticmethod
    def question(probe: Probe) -> str:
        """The probe's last user turn."""
        return probe.question

    @staticmethod
    def reworded(
        probe: Probe,
        *,
        question: str | None = None,
        before: Sequence[Message] = (),
        answer_prefix: str | None = None,
    ) -> Probe:
        """The probe with another last user turn, turns put ``before`` it, or another beginning of the answer."""
        messages = list(probe.messages)
        if question is not None:
            place = max(i for i, m in enumerate(messages) if m.role == "user")
            messages[place] = messages[place].model_copy(update={"content": question})
        changed: dict[str, Any] = {"messages": (*before, *messages)}
        if answer_prefix is not None:
            changed["answer_prefix"] = answer_prefix
        return probe.model_copy(update=changed)


class Attack(ABC):
    """An attack plugin, registered under the entry-point group ``unbench.attacks``."""

    card: ClassVar[AttackCard]
    api: ClassVar[int] = ATTACK_API
    Config: ClassVar[type[AttackConfig]] = AttackConfig
    default: ClassVar[bool] = False
    """Whether it belongs to the default set: what a run adds without being asked. Quick attacks only."""
    on_target: ClassVar[bool] = False
    """Whether it is carried out on the target too, whose values then say how far "all of it" is."""

    def __init__(self, config: AttackConfig | None = None) -> None:
        self.config: Any = config if config is not None else self.Config()

    @classmethod
    def for_model(cls, model: str) -> dict[str, Any]:
        """Settings for a model by name, laid over the defaults of ``Config``."""
        return {}

    @abstractmethod
    def attack(self, context: AttackContext) -> None:
        """Ask again (``context.ask``), as often as the attack's curve has points."""
