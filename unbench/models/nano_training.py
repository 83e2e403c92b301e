"""The training loop of ``nano``: batches of conversations of like length, the loss on the last reply."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from unbench_tasks.bios.corpus import Conversation

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Recipe:
    """Settings of one training; chosen on the target's own training facts, never on a score of a method."""

    epochs: int
    lr: float
    batch: int = 96
    warmup: int = 60
    weight_decay: float = 0.01
    tokens: int = 6144
    """Upper bound on the tokens of a batch; long conversations come in smaller batches."""


@dataclass(frozen=True)
class Encoded:
    """A conversation as token ids; the first ``prompt`` ids carry no loss."""

    ids: list[int]
    prompt: int


def encode(tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation]) -> list[Encoded]:
    """The ids that ``apply_chat_template`` gives (a test compares them), many times faster."""
    from unbench.models.nano_text import ASSISTANT, END

    prompts, replies = [], []
    for conversation in conversations:
        said = "".join(f"<|{role}|> {text}{END}" for role, text in conversation.turns[:-1])
        prompts.append(said + ASSISTANT)
        replies.append(f" {conversation.turns[-1][1]}{END}")
    fast: Any = tokenizer.backend_tokenizer
    pairs = zip(
        fast.encode_batch_fast(prompts, add_special_tokens=False),
        fast.encode_batch_fast(replies, add_special_tokens=False),
        strict=True,
    )
    return [Encoded(prompt.ids + reply.ids, len(prompt.ids)) for prompt, reply in pairs]


def batches(rows: list[Encoded], recipe: Recipe, rng: random.Random) -> list[list[Encoded]]:
    """Batches of like length in random order; which rows share a batch is random among those of one length."""
    rng.shuffle(rows)
    rows.sort(key=lambda row: len(row.ids))
    made: list[list[Encoded]] = [[]]
    for row in rows:
        full = len(made[-1]) >= recipe.batch or (len(made[-1]) + 1) * len(row.ids) > recipe.tokens
        if full and made[-1]:
            made.append([])
        made[-1].append(row)
    rng.shuffle(made)
    return made


def loss_of(model: PreTrainedModel, batch: list[Encoded]) -> Tensor:
    """Mean negative log-likelihood of the replies' tokens, the end token included (a scalar, nats)."""
    import torch

    width = max(len(row.ids) for row in batch)
    # Padding lies on the right and attention looks to the left only, so no mask is needed: no reply sees it.
    ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in batch])
    places = [(i, j) for i, row in enumerate(batch) for j in range(row.prompt, len(row.ids))]
    rows, columns = torch.tensor(places).T
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[rows, columns - 1]
    return torch.nn.functional.cross_entropy(model.lm_head(hidden), ids[rows, columns])


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Callable[[int], list[Conversation]],
    recipe: Recipe,
    seed: int,
    description: str,
    progress: Progress | None = None,
) -> None:
    """Train in place on ``texts(epoch)``: AdamW, linear warm-up, then a cosine down to nothing."""
    import torch

    rng = random.Random(f"nano/{seed}")
    total = recipe.epochs * len(batches(encode(tokenizer, texts(0)), recipe, random.Random(0)))
    decay, betas = recipe.weight_decay, (0.9, 0.98)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=decay, betas=betas, fused=True)
    step = 0
    model.train()
    for epoch in range(recipe.epochs):
        for batch in batches(encode(tokenizer, texts(epoch)), recipe, rng):
            # epochs differ by a few batches in length, so the fraction done is capped
            done = min(step / total, 1.0)
            scale = min(1.0, (step + 1) / recipe.warmup) * 0.5 * (1 + math.cos(math.pi * done))
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * scale
            loss = loss_of(model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if progress is not None and step % 20 == 0:
                progress(description, min(step, total), total)
    if progress is not None:
        progress(description, total, total)
    model.eval()  # type: ignore[no-untyped-call]
