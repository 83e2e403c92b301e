"""What every engine can do. An engine takes token ids only: templates are applied before (``unbench.responses``)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from unbench.method import Unlearned

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sampling:
    """How to decode. ``temperature`` 0 is greedy. ``seed`` fixes sampling for the whole call: the same engine, model,
    prompts and seed give the same texts whatever the batch size."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generation:
    """One continuation. ``tokens`` leaves out the end token; ``finished`` is False where the limit cut it."""

    tokens: list[int]
    text: str
    finished: bool


@dataclass(frozen=True)
class ScoreRequest:
    """One prompt (token ids) and the continuations (token ids, none empty) to score after it."""

    prompt: list[int]
    continuations: list[list[int]]


@dataclass(frozen=True)
class TokenScores:
    """Per token of one continuation: log-probability in nats, whether it is the argmax, and mean and variance of the
    log-probability over the vocabulary under the model (for min-k++; None where the engine can't give them)."""

    logprob: list[float]
    is_argmax: list[bool]
    mean: list[float] | None = None
    variance: list[float] | None = None


class Closing(ABC):
    """A context manager that closes itself at the end."""

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class EngineStats:
    """Counted by the engine over its life."""

    tokens_generated: int = 0
    tokens_scored: int = 0
    generate_s: float = 0.0
    score_s: float = 0.0
    notes: list[str] = field(default_factory=list)


class Engine(Protocol):
    """``hf`` and ``vllm``. Results come in the order of the requests."""

    stats: EngineStats

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Generation]: ...

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[TokenScores]]: ...

    def load(self, unlearned: Unlearned) -> None:
        """Swap the weights in place."""

    def close(self) -> None: ...


def end_ids(tokenizer: PreTrainedTokenizerBase, configured: int | list[int] | None) -> frozenset[int]:
    """Ids that end a text: the model's (``configured``, its ``eos_token_id``), the tokenizer's, and the template's end
    of turn."""
    from unbench.templates import end_token

    own: Any = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in [*own, tokenizer.eos_token_id, end_token(tokenizer)] if i is not None)
