"""The obvious way to evaluate: one pass a metric, each over its own prompts with their answers, in file order.

Batches of 32, padded to the longest, logits of every position. ``evaluation.py`` times it against UnBench's one pass
and compares every number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unbench.responses import Answers
from unbench.task import Probe

BATCH = 32

Place = tuple[int, int]
"""(probe, candidate)."""


@dataclass
class Scores:
    """What the passes found. A pair that several passes forward has an entry each."""

    logprobs: list[tuple[Place, Tensor]] = field(default_factory=list)
    """(place, per answer token in nats)."""
    argmax: list[tuple[Place, Tensor]] = field(default_factory=list)
    moments: list[tuple[Place, Tensor, Tensor]] = field(default_factory=list)
    """(place, mean, variance of the log-probability over the vocabulary)."""
    tokens: int = 0
    """Forwarded, padding included."""
    pairs: int = 0


def passes(probes: Sequence[Probe]) -> dict[str, list[Place]]:
    """The (probe, candidate) pairs that each metric forwards."""
    out: dict[str, list[Place]] = {"probability": [], "truth_ratio": [], "memorisation": [], "membership": []}
    for i, probe in enumerate(probes):
        right = probe.candidates.index(probe.answer)
        told = right if probe.paraphrased is None else probe.candidates.index(probe.paraphrased)
        wrong = [c for c in range(len(probe.candidates)) if c not in (right, told)]
        if probe.ring in ("forget", "holdout"):
            out["membership"].append((i, right))
        if probe.ring == "holdout":
            continue
        if probe.ring == "forget":
            out["memorisation"].append((i, right))
        # Real authors and world facts are scored relative to their wrong answers.
        out["probability"] += [(i, right)] + ([(i, c) for c in wrong] if probe.ring == "world" else [])
        out["truth_ratio"] += [(i, c) for c in (told, *wrong)]
    return out


@torch.no_grad()
def score(model: Any, probes: Sequence[Probe], asked: Sequence[Answers]) -> Scores:
    """Every pass, one after the other."""
    found = Scores()
    for metric, places in passes(probes).items():
        for start in range(0, len(places), BATCH):
            _score_batch(model, metric, places[start : start + BATCH], asked, found)
    return found


def pair(asked: Sequence[Answers], place: Place) -> tuple[list[int], list[int]]:
    """Prompt and answer of a pair, as token ids."""
    answers = asked[place[0]]
    request, at = answers.order[place[1]]
    return answers.requests[request].prompt, answers.requests[request].continuations[at]


def _score_batch(model: Any, metric: str, places: list[Place], asked: Sequence[Answers], found: Scores) -> None:
    pairs = [pair(asked, place) for place in places]
    length = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.zeros((len(pairs), length), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(pairs):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        mask[row, : len(prompt) + len(answer)] = 1
    found.tokens += ids.numel()
    found.pairs += len(pairs)
    ids, mask = ids.to(model.device), mask.to(model.device)
    following = ids.roll(-1, dims=1)  # the last column is nobody's
    logits = model(input_ids=ids, attention_mask=mask).logits.float()
    if metric == "memorisation":
        best = (logits.argmax(dim=-1) == following).cpu()
    else:
        # logsumexp and not log_softmax, which adds up a large vocabulary less exactly in float32.
        total = logits.logsumexp(dim=-1)
        each = (logits.gather(-1, following[..., None])[..., 0] - total).cpu()
    if metric == "membership":
        logp = logits - total[..., None]
        p = logp.exp()
        mean = (p * logp).sum(dim=-1)
        variance = (p * (logp - mean[..., None]).square()).sum(dim=-1).cpu()
        mean = mean.cpu()
    for row, (place, (prompt, answer)) in enumerate(zip(places, pairs, strict=True)):
        span = slice(len(prompt) - 1, len(prompt) + len(answer) - 1)
        if metric == "memorisation":
            found.argmax.append((place, best[row, span]))
            continue
        found.logprobs.append((place, each[row, span]))
        if metric == "membership":
            found.moments.append((place, mean[row, span], variance[row, span]))


@torch.no_grad()
def generate(model: Any, prompts: Sequence[list[int]], limit: int, ends: frozenset[int]) -> tuple[list[list[int]], int]:
    """Greedy answers by transformers' own ``generate``, each cut at its end token, and the tokens that went through the
    model: a batch runs until its last row has ended."""
    texts: list[list[int]] = []
    tokens = 0
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        length = max(map(len, batch))
        ids = torch.tensor([[0] * (length - len(prompt)) + prompt for prompt in batch], device=model.device)
        mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in batch], device=model.device)
        out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=limit,
                             pad_token_id=min(ends), eos_token_id=sorted(ends))  # fmt: skip
        tokens += len(batch) * (out.shape[1] - 1)
        for row in out[:, length:].tolist():
            texts.append(row[: next((i for i, token in enumerate(row) if token in ends), len(row))])
    return texts, tokens
