"""Generation on a transformers model: a batch of prompts, left-padded; rows that have ended leave the batch.

Sampling draws from each prompt's own stream of random numbers, by inverse cumulative distribution, so that a text
depends on the seed and the prompt's place in the call, never on the batch that it was computed in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unbench.engines.base import Generation, Sampling
from unbench.engines.hf_forward import Forward


class Decoder:
    """Decodes batches of prompts under one ``Sampling``; ``ends`` are the ids that end a text."""

    def __init__(self, forward: Forward, tokenizer: Any, sampling: Sampling, ends: frozenset[int]) -> None:
        self._forward = forward
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._ends = ends

    def run(self, prompts: Sequence[list[int]], numbers: Sequence[int]) -> tuple[list[Generation], int]:
        """One continuation a prompt and the number of tokens drawn, end tokens included; ``numbers`` are the prompts'
        places in the whole call."""
        limit = self._sampling.max_new_tokens
        texts = [_Text(self._tokenizer, self._sampling.stop, self._ends) for _ in prompts]
        if limit < 1:
            return [text.generation() for text in texts], 0
        uniform = self._uniform(numbers)
        logits, cache, mask = self._prefill(prompts)
        depth = mask.sum(dim=1)
        rows = list(range(len(prompts)))
        drawn = 0
        for step in range(limit):
            chosen = self._choose(logits, None if uniform is None else uniform[rows, step])
            tokens = chosen.tolist()
            drawn += sum(not texts[row].finished for row in rows)
            going = [i for i, (row, token) in enumerate(zip(rows, tokens, strict=True)) if texts[row].goes_on(token)]
            if not going or step == limit - 1:
                break
            if len(going) < len(rows) and _keep(cache, going, self._forward.device):
                index = torch.tensor(going, device=self._forward.device)
                chosen, mask, depth = chosen[index], mask[index], depth[index]
                rows = [rows[i] for i in going]
            mask = torch.cat([mask, mask.new_ones((len(rows), 1))], dim=1)
            states, cache = self._forward.states(chosen[:, None], mask, depth[:, None], cache, keep=True)
            depth = depth + 1
            logits = self._forward.last_logits(states)
        return [text.generation() for text in texts], drawn

    def _prefill(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Any, Tensor]:
        """Logits (batch, vocabulary), cache and mask after the prompts; equal prompts are computed once."""
        keys = [tuple(prompt) for prompt in prompts]
        distinct = list(dict.fromkeys(keys))
        logits, cache, mask = self._prefill_each(distinct)
        if len(distinct) == len(keys):
            return logits, cache, mask
        place = {key: i for i, key in enumerate(distinct)}
        copies = [place[key] for key in keys]
        if not _keep(cache, copies, self._forward.device):
            return self._prefill_each(keys)
        index = torch.tensor(copies, device=self._forward.device)
        return logits[index], cache, mask[index]

    def _prefill_each(self, prompts: Sequence[tuple[int, ...]]) -> tuple[Tensor, Any, Tensor]:
        length = max(map(len, prompts))
        ids = torch.zeros((len(prompts), length), dtype=torch.long)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for i, prompt in enumerate(prompts):
            ids[i, length - len(prompt) :] = torch.tensor(prompt)
            mask[i, length - len(prompt) :] = True
        ids, mask = ids.to(self._forward.device), mask.to(self._forward.device)
        positions = (mask.long().cumsum(dim=1) - 1).clamp_min(0)
        states, cache = self._forward.states(ids, mask, positions, keep=True)
        return self._forward.last_logits(states), cache, mask

    def _uniform(self, numbers: Sequence[int]) -> Tensor | None:
        """(batch, max_new_tokens) numbers in [0, 1), float64 on the CPU; None where decoding is greedy."""
        if self._sampling.temperature <= 0:
            return None
        rows = []
        for number in numbers:
            digest = hashlib.sha256(f"{self._sampling.seed}:{number}".encode()).digest()
            stream = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            rows.append(torch.rand(self._sampling.max_new_tokens, dtype=torch.float64, generator=stream))
        return torch.stack(rows)

    def _choose(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """One token a row of ``logits`` (batch, vocabulary), greedy without ``uniform`` (batch,)."""
        if uniform is None:
            return logits.argmax(dim=-1)
        slices = torch.split(logits, self._forward.slice_rows)
        numbers = torch.split(uniform.to(logits.device), self._forward.slice_rows)
        return torch.cat([self._draw(rows, u) for rows, u in zip(slices, numbers, strict=True)])

    def _draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        p = (logits.double() / self._sampling.temperature).softmax(dim=-1)
        order = None
        if self._sampling.top_p < 1:
            p, order = p.sort(dim=-1, descending=True, stable=True)
            before = p.cumsum(dim=-1) - p
            p = p.masked_fill(before >= self._sampling.top_p, 0.0)
        total = p.cumsum(dim=-1)
        # The last entry is the mass itself, so that u < 1 always falls inside.
        at = torch.searchsorted(total, (uniform * total[:, -1])[:, None], right=True).clamp_max(p.shape[-1] - 1)
        return (at if order is None else order.gather(1, at))[:, 0]


class _Text:
    """What one prompt has got so far."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...], ends: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._ends = ends
        self._tokens: list[int] = []
        self._cut: str | None = None
        self.finished = False

    def goes_on(self, token: int) -> bool:
        """Take a token; False once the text has ended."""
        if self.finished:
            return False
        if token in self._ends:
            self.finished = True
            return False
        self._tokens.append(token)
        if self._stop:
            text = self._decode()
            found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
            if found:
                self._cut, self.finished = text[: min(found)], True
                self._tokens.pop()
        return not self.finished

    def generation(self) -> Generation:
        return Generation(self._tokens, self._decode() if self._cut is None else self._cut, self.finished)

    def _decode(self) -> str:
        text: str = self._tokenizer.decode(self._tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def _keep(cache: Any, rows: list[int], device: torch.device) -> bool:
    """Keep these rows of the cache (repeats allowed); False where the cache has no way to."""
    select = getattr(cache, "batch_select_indices", None)
    if select is None:
        return False
    select(torch.tensor(rows, device=device))
    return True
