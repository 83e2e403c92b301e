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
from unbench.engines.hf_cache import compact, join, keep
from unbench.engines.hf_forward import Forward
from unbench.engines.hf_plan import Row, batches


class Decoder:
    """Decodes batches of prompts under one ``Sampling``; ``ends`` are the ids that end a text, ``max_tokens`` the most
    that a forward pass over prompts may hold, padding included."""

    def __init__(
        self, forward: Forward, tokenizer: Any, sampling: Sampling, ends: frozenset[int], max_tokens: int
    ) -> None:
        self._forward = forward
        self._max_tokens = max_tokens
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
        device = self._forward.device
        last, cache, rows = self._prefill(prompts)
        depth = torch.tensor([len(prompts[row]) for row in rows], device=device)
        length = int(depth.max())
        # Padding on the left, then the prompt, then room for all that may come.
        seen = torch.arange(length + limit, device=device) >= (length - depth)[:, None]
        drawn = 0
        for step in range(limit):
            chosen = self._choose(last, None if uniform is None else uniform[rows, step])
            tokens = chosen.tolist()
            drawn += sum(not texts[row].finished for row in rows)
            going = [i for i, (row, token) in enumerate(zip(rows, tokens, strict=True)) if texts[row].goes_on(token)]
            if not going or step == limit - 1:
                break
            if len(going) < len(rows):
                order = compact(going, len(rows))
                if keep(cache, order, device):
                    index = torch.tensor(order, device=device)
                    chosen, seen, depth = chosen[index], seen[index], depth[index]
                    rows = [rows[i] for i in order]
            mask = seen[:, : length + step + 1]
            states, cache = self._forward.states(chosen[:, None], mask, depth[:, None], cache, keep=True)
            depth = depth + 1
            last = states[:, -1]
        return [text.generation() for text in texts], drawn

    def _prefill(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Any, list[int]]:
        """What the output layer is to read of each row's last token (rows, width), the cache, and the prompt that each
        row stands for. Equal prompts are computed once; the others in pieces of like length, so that little is padded,
        where the model's cache can be put together from pieces."""
        places: dict[tuple[int, ...], list[int]] = {}
        for i, prompt in enumerate(prompts):
            places.setdefault(tuple(prompt), []).append(i)
        if not self._forward.plain_cache:
            return self._prefill_whole(prompts, places)
        lasts, pieces, rows = [], [], []
        for batch in batches([Row(list(prompt), []) for prompt in places], self._fits):
            last, cache = self._prefill_each([row.tokens for row in batch])
            same = [places[tuple(row.tokens)] for row in batch]
            copies = [i for i, numbers in enumerate(same) for _ in numbers]
            lasts.append(last[torch.tensor(copies, device=last.device)])
            pieces.append((cache, copies))
            rows += [number for numbers in same for number in numbers]
        whole = join(pieces, max(map(len, prompts)), self._sampling.max_new_tokens)
        return torch.cat(lasts), whole, rows

    def _prefill_whole(
        self, prompts: Sequence[list[int]], places: dict[tuple[int, ...], list[int]]
    ) -> tuple[Tensor, Any, list[int]]:
        last, cache = self._prefill_each(list(places))
        if len(places) == len(prompts):
            return last, cache, list(range(len(prompts)))
        copies = [i for i, same in enumerate(places.values()) for _ in same]
        if not keep(cache, copies, self._forward.device):
            return *self._prefill_each(prompts), list(range(len(prompts)))
        rows = [number for same in places.values() for number in same]
        return last[torch.tensor(copies, device=last.device)], cache, rows

    def _fits(self, rows: int, length: int, wanted: int) -> bool:
        return rows * length <= self._max_tokens

    def _prefill_each(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Any]:
        length = max(map(len, prompts))
        ids = torch.zeros((len(prompts), length), dtype=torch.long)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for i, prompt in enumerate(prompts):
            ids[i, length - len(prompt) :] = torch.tensor(prompt)
            mask[i, length - len(prompt) :] = True
        ids, mask = ids.to(self._forward.device), mask.to(self._forward.device)
        positions = (mask.long().cumsum(dim=1) - 1).clamp_min(0)
        states, cache = self._forward.states(ids, mask, positions, keep=True)
        return states[:, -1], cache

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

    def _choose(self, states: Tensor, uniform: Tensor | None) -> Tensor:
        """One token a row of ``states`` (rows, width), greedy without ``uniform`` (rows,)."""
        chosen = []
        # Drawing is done in float64.
        size = self._forward.slice_rows if uniform is None else max(1, self._forward.slice_rows // 2)
        for first in range(0, len(states), size):
            part = slice(first, first + size)
            logits = self._forward.logits(states[part])
            drawn = logits.argmax(dim=-1) if uniform is None else self._draw(logits, uniform[part].to(logits.device))
            chosen.append(drawn)
        return torch.cat(chosen)

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
