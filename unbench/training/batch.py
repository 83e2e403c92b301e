"""Rows as token ids, and ``AnswerBatch``: what a loss sees of them.

Layout of a batch: prompts are padded on the left, answers on the right, so that every answer starts in the same
column. The language-model head is then applied to answer positions only, in any model that knows ``logits_to_keep``.
Masks come from lengths, never from ids: the pad token may be the end token.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import torch

from unbench.task import Message
from unbench.training.loss import token_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LogitsOf = Callable[["AnswerBatch"], torch.Tensor]
"""Logits (batch, length, vocabulary) of a batch's answer positions under some model."""
HiddenOf = Callable[["AnswerBatch", int], torch.Tensor]
"""Hidden states (batch, length, width) of a batch's answer positions behind a decoder layer of some model."""


@dataclass(frozen=True)
class TrainRow:
    """One sequence to train on: the loss covers the whole answer and its end token, never the messages."""

    messages: tuple[Message, ...]
    answer: str
    weight: float = 1.0
    """Multiplies the row's loss; it doesn't enter the count that the loss is divided by."""

    @staticmethod
    def ask(question: str, answer: str, weight: float = 1.0) -> TrainRow:
        """A row whose prompt is one user turn."""
        return TrainRow((Message(role="user", content=question),), answer, weight)


@dataclass(frozen=True, eq=False)
class EncodedRow:
    """A row as token ids. ``answer`` ends with the end token; ``target`` holds the target's log-probabilities of the
    answer's tokens (length,) in nats, on the CPU, where a method asked for them."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    weight: float = 1.0
    target: torch.Tensor | None = None
    preferred: EncodedRow | None = None
    """The same question with the answer that is preferred to this one, for a loss on pairs."""

    def __post_init__(self) -> None:
        if not self.prompt or not self.answer:
            raise ValueError("a training row needs at least one prompt token and one answer token")

    @property
    def tokens(self) -> int:
        """Prompt and answer tokens, those of the preferred sequence too."""
        return len(self.prompt) + len(self.answer) + (self.preferred.tokens if self.preferred else 0)


def encode(tokenizer: PreTrainedTokenizerBase, rows: Sequence[TrainRow]) -> list[EncodedRow]:
    """Token ids of every row, through the one place that knows chat templates."""
    from unbench.templates import answer_ids

    encoded = []
    for row in rows:
        prompt, answer = answer_ids(tokenizer, row.messages, row.answer)
        encoded.append(EncodedRow(tuple(prompt), tuple(answer), row.weight))
    return encoded


class AnswerBatch:
    """A few rows, padded, with the model's view of their answers; the forward pass runs once, when first asked for.

    Shapes: ``batch`` rows, ``length`` the longest answer of the batch in tokens (end token included).
    """

    def __init__(
        self,
        rows: Sequence[EncodedRow],
        logits_of: LogitsOf,
        target_logits_of: LogitsOf | None = None,
        *,
        hidden_of: HiddenOf | None = None,
        target_hidden_of: HiddenOf | None = None,
        pad_id: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.rows = tuple(rows)
        self._logits_of = logits_of
        self._target_logits_of = target_logits_of
        self._hidden_of = hidden_of
        self._target_hidden_of = target_hidden_of
        self._pad_id = pad_id
        self.device = torch.device(device)
        prompts, length = max(len(r.prompt) for r in rows), max(len(r.answer) for r in rows)
        ids = torch.full((len(rows), prompts + length), pad_id, dtype=torch.long)
        seen = torch.zeros_like(ids, dtype=torch.bool)
        for i, row in enumerate(rows):
            first, last = prompts - len(row.prompt), prompts + len(row.answer)
            ids[i, first:last] = torch.tensor(row.prompt + row.answer)
            seen[i, first:last] = True
        self.input_ids: torch.Tensor = ids.to(self.device)
        """(batch, prompt + length) token ids."""
        self.attention_mask: torch.Tensor = seen.to(self.device)
        """(batch, prompt + length) true where there is a token and no padding."""
        self.answer_mask: torch.Tensor = self.attention_mask[:, prompts:]
        """(batch, length) true on the answer's tokens."""
        self.labels: torch.Tensor = self.input_ids[:, prompts:].masked_fill(~self.answer_mask, -100)
        """(batch, length) the answer's token ids, -100 on padding."""
        self.padded = not bool(seen.all())

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def logits(self) -> torch.Tensor:
        """(batch, length, vocabulary) in the model's dtype: position i predicts the answer's token i."""
        return self._logits_of(self)

    @cached_property
    def _token_logprobs(self) -> torch.Tensor:
        return token_logprobs(self.logits, self.labels)

    def token_logprobs(self) -> torch.Tensor:
        """(batch, length) log π(token) in nats, at least float32, 0 on padding."""
        return self._token_logprobs

    def logprobs(self) -> torch.Tensor:
        """(batch,) log π(answer | prompt) in nats: the SUM over the answer's tokens."""
        return self.token_logprobs().sum(-1)

    @cached_property
    def target_token_logprobs(self) -> torch.Tensor:
        """(batch, length) log π₀(token) in nats, 0 on padding, no gradient; for ``needs = {"target_logprobs"}``."""
        values = torch.zeros(self.labels.shape, dtype=torch.float32)
        for i, row in enumerate(self.rows):
            if row.target is None:
                raise RuntimeError('target log-probabilities were not asked for: add "target_logprobs" to `needs`')
            values = values.to(torch.promote_types(values.dtype, row.target.dtype))
            values[i, : len(row.answer)] = row.target
        return values.to(self.device)

    @property
    def target_logprobs(self) -> torch.Tensor:
        """(batch,) log π₀(answer | prompt) in nats, summed over the answer's tokens."""
        return self.target_token_logprobs.sum(-1)

    @cached_property
    def _target_logits(self) -> torch.Tensor:
        if self._target_logits_of is None:
            raise RuntimeError('the target\'s logits were not asked for: add "target_logits" to `needs`')
        with torch.no_grad():
            return self._target_logits_of(self)

    def target_logits(self) -> torch.Tensor:
        """(batch, length, vocabulary) of the frozen target, no gradient."""
        return self._target_logits

    def hidden(self, layer: int) -> torch.Tensor:
        """(batch, length, width) what decoder layer ``layer`` (from 0) hands on, at the positions that predict the
        answer's tokens, in the model's dtype. A forward pass of its own: ask for logits or for hidden states."""
        if self._hidden_of is None:
            raise RuntimeError("this batch has no model to read hidden states from")
        return self._hidden_of(self, layer)

    def target_hidden(self, layer: int) -> torch.Tensor:
        """The same of the frozen target, no gradient."""
        if self._target_hidden_of is None:
            raise RuntimeError("this batch has no target to read hidden states from")
        with torch.no_grad():
            return self._target_hidden_of(self, layer)

    @cached_property
    def preferred(self) -> AnswerBatch:
        """The same questions with the preferred answers, in the same order: a batch with a forward pass of its own."""
        rows = [row.preferred for row in self.rows if row.preferred is not None]
        if len(rows) < len(self.rows):
            raise RuntimeError("these rows have no preferred answers: override `preferred_answers`")
        return self._of(rows)

    def alone(self, row: int) -> AnswerBatch:
        """One of the rows as a batch of its own, without padding: what comes of it hangs on no other row."""
        return self._of([self.rows[row]])

    def _of(self, rows: Sequence[EncodedRow]) -> AnswerBatch:
        return AnswerBatch(
            rows, self._logits_of, self._target_logits_of, hidden_of=self._hidden_of,
            target_hidden_of=self._target_hidden_of, pad_id=self._pad_id, device=self.device,
        )  # fmt: skip

    @property
    def weights(self) -> torch.Tensor:
        """(batch,) weight of each row's loss."""
        return torch.tensor([row.weight for row in self.rows], dtype=torch.float32, device=self.device)


@cache
def _forward_accepts(model_class: Any) -> frozenset[str]:
    return frozenset(inspect.signature(model_class.forward).parameters)


def answer_logits(model: Any, batch: AnswerBatch) -> torch.Tensor:
    """One forward pass of ``model`` (bare, peft or wrapped for several processes): (batch, length, vocabulary)."""
    length = batch.labels.shape[1]
    logits: torch.Tensor = model(**_inputs(model, batch, length)).logits
    return logits[:, -length:]


def answer_hidden(model: Any, batch: AnswerBatch, layer: int) -> torch.Tensor:
    """One forward pass of ``model``: (batch, length, width), what decoder layer ``layer`` (from 0) hands on at the
    positions that predict the answer's tokens; the last layer's comes through the model's final norm."""
    length = batch.labels.shape[1]
    # The head is of no use here, so it sees the fewest positions it can.
    states = model(**_inputs(model, batch, 1), output_hidden_states=True).hidden_states
    hidden: torch.Tensor = states[layer + 1]
    return hidden[:, -length:]


def _inputs(model: Any, batch: AnswerBatch, logits: int) -> dict[str, Any]:
    """What the model's ``forward`` is given; ``logits`` positions at the end go through its head."""
    bare = getattr(model, "module", model)
    base = bare.get_base_model() if hasattr(bare, "get_base_model") else bare
    accepts = _forward_accepts(base.__class__)
    # Nothing is predicted after the last token, so it needs no forward pass.
    inputs: dict[str, Any] = {"input_ids": batch.input_ids[:, :-1], "use_cache": False}
    if batch.padded:
        mask = batch.attention_mask[:, :-1].long()
        inputs["attention_mask"] = mask
        if "position_ids" in accepts:
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp_min(0)
    if "logits_to_keep" in accepts:
        # A head that takes no gradient (no_grad, or LoRA beside it): torch multiplies a slice of positions sequence by
        # sequence, with a copy of the head for each (matmul's should_fold). Picked one by one the positions lie
        # together; with gradient a slice is quicker to go back.
        places = inputs["input_ids"].shape[1]
        head = base.get_output_embeddings()
        trained = torch.is_grad_enabled() and head is not None and any(p.requires_grad for p in head.parameters())
        inputs["logits_to_keep"] = logits if trained else torch.arange(places - logits, places)
    return inputs
