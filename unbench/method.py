"""All that a method author imports: ``Method``, ``LossMethod``, ``UnlearnContext``, ``Loss``, ``Unlearned``.

A method turns the target model into the unlearned model. It sees the target, the forget and retain rows, a seed, an
engine for generation and a budget. It never sees a probe.

Importing this module, or a method's module, must not import torch (``--dry-run`` and ``unbench methods`` stay quick):
import it inside the functions that need it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

from pydantic import BaseModel, ConfigDict, Field

from unbench.training.settings import MachineSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from unbench.engines.base import Engine
    from unbench.training.batch import AnswerBatch
    from unbench.training.checkpoint import Checkpoints

Progress = Callable[[str, int, int], None]
"""``progress(description, done, total)``; cheap to call often."""

MethodKind = Literal["control", "gradient", "preference", "representation", "distillation", "data", "inference"]
MethodNeed = Literal["retain", "target", "generation"]
"""What a method can't do without: the retain rows, the frozen target beside the model, an engine that generates."""
API_VERSION = 1
"""Version of this module's promises to plugins. It is raised when a method written for the old one would break."""


@dataclass(frozen=True)
class Unlearned:
    """What a method hands back. ``weights`` is a folder in transformers' layout (a whole model, or a peft adapter for
    the target), None where the target's weights are untouched; ``system_prompt`` is put before every prompt."""

    weights: Path | None = None
    system_prompt: str | None = None


@dataclass(frozen=True)
class MethodCard:
    """What a reader wants to know; shown by ``unbench methods`` and ``unbench cite``."""

    name: str
    title: str
    kind: MethodKind
    bibtex: str
    paper: str | None = None
    year: int | None = None
    summary: str = ""
    needs: tuple[MethodNeed, ...] = ()
    """What can't be read off a loss method's ``needs`` and its defaults (``needs_of``): what an ``unlearn`` of its own
    uses, or that the model writes text."""


class TrainSettings(BaseModel):
    """How weights are trained: everything, or a LoRA adapter (peft)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["full", "lora"] = Field(default="full", description="train all weights, or a LoRA adapter")
    rank: int = Field(default=8, ge=1, description="LoRA rank")
    lora_alpha: int = Field(default=16, ge=1, description="LoRA alpha; the update is scaled by alpha / rank")
    targets: tuple[str, ...] = Field(default=("q_proj", "v_proj"), description="modules that LoRA adapts")


class TargetModel(Protocol):
    """Handle on the target: a method loads as many fresh copies as it needs; the weights on disk stay untouched."""

    @property
    def path(self) -> Path: ...

    def load(self) -> PreTrainedModel:
        """A fresh copy on the run's device, in the run's dtype."""
        ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...


@dataclass
class Usage:
    """What a method has used; the harness puts it into the result."""

    tokens_trained: int = 0
    """Prompt and answer tokens sent forward and backward, padding not counted."""
    tokens_generated: int = 0
    trainable_parameters: int = 0
    losses: list[dict[str, float]] = field(default_factory=list)
    """One entry a logged step: step, loss, forget, retain …"""
    questions: set[str] = field(default_factory=set)
    """Every question that was trained on; a probe that asks the same is told apart (``probe_overlap``)."""
    taught: dict[str, list[str]] = field(default_factory=dict)
    """Fact -> answers that the method taught in place of its own, where it teaches any (``honesty_taught``)."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Anything a reader of the result should know (JSON values)."""

    def teach(self, fact: str, *answers: str) -> None:
        """Note what is taught in place of the fact's own answer."""
        if answers:
            known = self.taught.setdefault(fact, [])
            known += [answer for answer in dict.fromkeys(answers) if answer not in known]


@dataclass
class UnlearnContext:
    """What a method is given."""

    target: TargetModel
    forget: Dataset
    """Columns question, answer, fact, subject, relation, value, aliases (the fields of ``unbench.task.Row``)."""
    retain: Dataset
    """The same columns; the given half of what must stay."""
    seed: int
    train: TrainSettings
    folder: Path
    """Where the method may write; what lies there is kept with the run."""
    open_engine: Callable[[], AbstractContextManager[Engine]]
    """``with context.open_engine() as engine:`` an engine that serves the target; ``engine.load`` swaps weights."""
    progress: Progress
    device: str = "cpu"
    batch_size: int | None = None
    """Sequences a forward pass may hold at once; None lets the harness choose. Never changes a gradient. Training
    writes the size that fitted here after running out of memory."""
    budget_tokens: int | None = None
    """Most tokens (trained + generated) the method may use; None is no limit. Training stops when it is spent."""
    retrain: Callable[[], Path] | None = None
    """Folder of a reference model of a further seed; only the ``retrain`` control has a use for it."""
    usage: Usage = field(default_factory=Usage)
    max_retain_rise: float | None = None
    """Training stops once the retain rows' NLL has risen by more than so many nats a token; None never stops it."""
    machine: MachineSettings = field(default_factory=MachineSettings)
    """How training is carried out here; it changes no number beyond rounding."""
    while_training: Callable[[], AbstractContextManager[None]] = nullcontext
    """Entered while weights are trained: the harness takes the time and has its engine give back memory."""
    checkpoints: Checkpoints | None = None
    """Where the harness keeps the state of long trainings; a method has no use for it."""


class MethodConfig(BaseModel):
    """Base of every method's settings: what ``--set key=value`` may change. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Method(ABC):
    """A method plugin, registered under the entry-point group ``unbench.methods``."""

    card: ClassVar[MethodCard]
    api: ClassVar[int] = API_VERSION
    """The API version that a plugin was written for; one that says nothing is taken to fit."""
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    trains: ClassVar[bool] = True
    """False where the weights stay as they are (a control, a system prompt)."""
    tuned: ClassVar[dict[str, dict[str, Any]]] = {}
    """Settings found by tuning on ``select``, by model name, laid over the published defaults of ``Config``."""
    space: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """Choices by setting name: what ``unbench tune`` searches. Empty where there is nothing to tune."""
    contract: ClassVar[dict[str, Any]] = {}
    """Settings for the tiny model of the contract test (``unbench.contract``), where its own do not suit the method."""

    def __init__(self, config: MethodConfig | None = None) -> None:
        self.config: Any = config if config is not None else self.Config()

    @abstractmethod
    def unlearn(self, context: UnlearnContext) -> Unlearned:
        """Turn the target into the unlearned model."""


@dataclass(frozen=True)
class Loss:
    """A loss as (sum, count) in its own normaliser, so that a batch split never changes a gradient: the trainer adds
    sums and divides once by the count over the whole (accumulated, all-process) batch."""

    sum: torch.Tensor
    """Scalar, with gradient."""
    count: int
    """Answer tokens (``per_token``) or sequences (``per_sequence``) it was summed over."""

    @staticmethod
    def per_token(values: torch.Tensor, mask: torch.Tensor) -> Loss:
        """``values`` (batch, length) nats, ``mask`` (batch, length) true on the answer's tokens."""
        return Loss(values.masked_fill(~mask, 0.0).sum(), int(mask.sum()))

    @staticmethod
    def per_sequence(values: torch.Tensor) -> Loss:
        """``values`` (batch,)."""
        return Loss(values.sum(), int(values.numel()))


class LossConfig(MethodConfig):
    """Settings shared by methods that are a loss. One optimiser step takes ``batch_size`` forget rows and as many
    retain rows."""

    steps: int = Field(60, ge=1, description="optimiser steps")
    lr: float = Field(1e-5, gt=0, description="peak learning rate (AdamW, linear warm-up then linear decay)")
    batch_size: int = Field(32, ge=1, description="forget rows a step (as many retain rows beside them)")
    warmup: float = Field(0.1, ge=0, le=1, description="share of the steps that warm up")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")
    max_grad_norm: float = Field(1.0, gt=0, description="gradient clipping")
    gamma: float = Field(1.0, ge=0, description="weight of the forget loss")
    alpha: float = Field(1.0, ge=0, description="weight of the retain loss")
    retain_loss: Literal["nll", "kl"] = Field("nll", description="retain term: NLL, or KL(target ‖ model)")
    augment: Literal["none", "paraphrases"] = Field(
        "none", description="paraphrases: each forget question is also asked in words that the model found itself"
    )
    paraphrases: int = Field(5, ge=1, description="paraphrases wanted of each forget question, where augment asks")


class LossMethod(Method):
    """A method that is a loss: L = γ · forget + α · retain, each divided by its own count over the whole optimiser
    step. Subclasses write ``forget_loss``; the shared Trainer does the rest (``unbench.training``)."""

    Config: ClassVar[type[MethodConfig]] = LossConfig
    normaliser: ClassVar[Literal["token", "sequence"]] = "token"
    """What ``forget_loss`` counts; the trainer needs the global count before any forward pass (``forget_count``)."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """``target_logprobs``: the target's token log-probabilities of the forget rows, computed once before training.
    ``target_logits``: ``batch.target_logits()`` may be called on forget rows (one frozen model, or the adapter off).
    ``target_hidden``: ``batch.target_hidden(layer)`` is called, on whatever rows."""

    def prepare(self, context: UnlearnContext, model: Any) -> None:
        """Called once before every training, with the model that will be trained. For a loss that needs more than its
        rows: token ids of its own, a random vector, texts that the model writes, a second model, parameters that stay
        frozen. What belongs to one training is (re)set here. Most need nothing."""

    def weights(self, step: int) -> tuple[float, float]:
        """γ and α of an optimiser step (from 0). Both terms are there as long as ``config.gamma`` and ``config.alpha``
        are above 0, whatever this returns."""
        return self.config.gamma, self.config.alpha

    def observe(self, step: int, losses: Mapping[str, float]) -> None:
        """Called after each optimiser step with the values of its terms (``forget``, ``retain``), each over the whole
        step: the same however the step was split. For a method that adapts its weights."""

    def state(self) -> dict[str, Any]:
        """What ``observe`` has led to, as JSON values: kept with a checkpoint."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` returned, after ``prepare``, where a training goes on from a checkpoint."""

    def forget_radius(self) -> float:
        """ρ: the forget gradient is taken at θ + ρ g/‖g‖, g the whole step's forget gradient at θ (sharpness-aware);
        0 takes it at θ."""
        return 0.0

    @abstractmethod
    def forget_loss(self, batch: AnswerBatch) -> Loss:
        """Loss on a batch of forget rows; ``batch`` gives logits and log-probabilities of the answer's tokens."""

    def retain_loss(self, batch: AnswerBatch) -> Loss:
        """Loss on a batch of retain rows, per token: NLL or KL(target ‖ model) as the config says. A method with a
        retain term of its own overrides it (its count stays the number of answer tokens)."""
        from unbench.training.loss import kl, nll

        return kl(batch) if self.config.retain_loss == "kl" else nll(batch)

    def forget_count(self, lengths: Sequence[int]) -> int:
        """What the forget term of one optimiser step is divided by: the sum of the counts that ``forget_loss`` will
        return. ``lengths`` are the answer tokens of each forget row. Override it where some tokens are left out."""
        return len(lengths) if self.normaliser == "sequence" else sum(lengths)

    def forget_answers(self, rows: Sequence[dict[str, Any]], seed: int) -> list[str]:
        """The answers that the forget rows are trained on; the rows' own unless a method replaces them."""
        return [str(row["answer"]) for row in rows]

    def preferred_answers(self, rows: Sequence[dict[str, Any]], seed: int) -> Sequence[Sequence[str]] | None:
        """For a loss on pairs: the answers preferred to those of ``forget_answers``, some for each row, of which a step
        takes one drawn by the seed (``batch.preferred``). A row that has none is left out. None: no pairs."""
        return None

    def unlearn(self, context: UnlearnContext) -> Unlearned:
        from unbench.training.loop import train_loss_method

        return train_loss_method(self, context)


def needs_of(method_class: type[Method]) -> tuple[MethodNeed, ...]:
    """What a method needs with its default settings: what its card declares, and of a loss what follows from it (a
    retain term, the target's log-probabilities, a retain term that holds the model to the target)."""
    found: set[MethodNeed] = set(method_class.card.needs)
    if issubclass(method_class, LossMethod):
        config: Any = method_class.Config()
        if config.alpha > 0:
            found.add("retain")
        if method_class.needs or (config.alpha > 0 and config.retain_loss != "nll"):
            found.add("target")
    return tuple(need for need in get_args(MethodNeed) if need in found)
