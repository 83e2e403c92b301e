"""Scoring on a transformers model: every distinct prompt and answer token goes through the model once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unbench.engines.base import ScoreRequest, TokenScores
from unbench.engines.hf_forward import Forward
from unbench.engines.hf_memory import Backoff
from unbench.engines.hf_plan import Plan, Row, batches, chains, plan

TABLE_BYTES = 128 << 20
"""Most bytes of one mask, or of one batch's logits where they can't be made in slices."""
CACHE_BYTES = 2 << 20
"""On a CPU logits are reduced this much at a time: what the several steps share then stays in its cache."""

Report = Callable[[int, int], None]
"""``report(done, total)``."""


@dataclass
class _Results:
    """One entry a slot of the plan."""

    logprob: NDArray[np.float32]
    mean: NDArray[np.float32]
    variance: NDArray[np.float32]
    is_argmax: NDArray[np.bool_]


def score(
    forward: Forward,
    requests: Sequence[ScoreRequest],
    backoff: Backoff,
    max_tokens: int,
    max_rows: int | None,
    report: Report | None = None,
) -> tuple[list[list[TokenScores]], int]:
    """Scores in the order of the requests, and the number of answer tokens that were computed."""
    work = plan(requests)
    logprob, mean, variance = np.empty((3, work.n_slots), dtype=np.float32)
    results = _Results(logprob, mean, variance, np.empty(work.n_slots, dtype=bool))
    groups = _groups(forward, work)
    total = sum(len(rows) for rows in groups)
    done = 0

    def run(batch: list[Row]) -> None:
        nonlocal done
        _score_batch(forward, batch, results)
        done += len(batch)
        if report is not None:
            report(done, total)

    for tree, rows in zip((True, False), groups, strict=True):
        fits = _fits(forward, max_tokens, tree)
        backoff.each(batches(rows, fits, max_rows), run, _padded)
    return _collect(work, results), work.n_slots


def _groups(forward: Forward, work: Plan) -> tuple[list[Row], list[Row]]:
    """(trees, ordinary sequences): a batch is of one kind, for only trees need a mask of their own."""
    trees, straight = [], []
    for row in work.rows:
        if row.is_chain:
            straight.append(row)
        elif forward.trees and (forward.longest_tree is None or max(row.positions) < forward.longest_tree):
            trees.append(row)
        else:
            straight += chains(row)
    return trees, straight


def _fits(forward: Forward, max_tokens: int, tree: bool) -> Callable[[int, int, int], bool]:
    def fits(rows: int, length: int, wanted: int) -> bool:
        if tree and rows * length * length * 4 > TABLE_BYTES:
            return False
        if not forward.split and rows * length * forward.vocabulary * 4 > TABLE_BYTES:
            return False
        return rows * length <= max_tokens

    return fits


def _padded(batch: Sequence[Row]) -> int:
    return len(batch) * max(len(row.tokens) for row in batch)


def _score_batch(forward: Forward, batch: list[Row], results: _Results) -> None:
    length = max(len(row.tokens) for row in batch)
    ids = torch.zeros((len(batch), length), dtype=torch.long)
    positions = torch.zeros_like(ids)
    real = torch.zeros_like(ids, dtype=torch.bool)
    for i, row in enumerate(batch):
        n = len(row.tokens)
        ids[i, :n] = torch.tensor(row.tokens)
        positions[i, :n] = torch.tensor(row.positions)
        real[i, :n] = True
    straight = all(row.is_chain for row in batch)
    mask = real.to(forward.device) if straight else forward.tree_mask([row.parents for row in batch], length)
    states, _ = forward.states(ids.to(forward.device), mask, positions.to(forward.device))
    wanted = np.array(
        [(i * length + at, token, slot) for i, row in enumerate(batch) for at, token, slot in row.wanted],
        dtype=np.int64,
    )
    wanted = wanted[np.argsort(wanted[:, 0], kind="stable")]
    places, which = np.unique(wanted[:, 0], return_inverse=True)
    flat = states.reshape(-1, states.shape[-1])[torch.from_numpy(places).to(states.device)]
    del states
    for first in range(0, len(places), forward.slice_rows):
        part = flat[first : first + forward.slice_rows]
        lo, hi = np.searchsorted(which, (first, first + len(part)))
        rows, tokens = torch.from_numpy(which[lo:hi] - first), torch.from_numpy(wanted[lo:hi, 1])
        table = _reduce(forward.logits(part), rows.to(flat.device), tokens.to(flat.device))
        slots = wanted[lo:hi, 2]
        results.logprob[slots], results.mean[slots], results.variance[slots] = table[:3]
        results.is_argmax[slots] = table[3] > 0


def _reduce(logits: Tensor, rows: Tensor, tokens: Tensor) -> NDArray[np.float32]:
    """(4, wanted): log-probability of ``tokens`` at ``rows``, mean and variance of the log-probability over the
    vocabulary under the model at that row (nats), and 1 where the token is the row's argmax."""
    found = logits[rows, tokens]
    size = len(logits) if logits.is_cuda else max(1, CACHE_BYTES // (4 * logits.shape[-1]))
    top, first_choice, log_sum, mean, variance = map(
        torch.cat, zip(*(_moments(part) for part in torch.split(logits, size)), strict=True)
    )
    # Minus the maximum first, as log-softmax does: large logits would lose digits otherwise.
    logp = (found - top[rows]) - log_sum[rows]
    parts = (logp, mean[rows], variance[rows], (first_choice[rows] == tokens).float())
    out: NDArray[np.float32] = torch.stack(parts).cpu().numpy()
    return out


def _moments(logits: Tensor) -> tuple[Tensor, ...]:
    """Per row of ``logits``, which are overwritten: maximum and where it is, log of the sum of exp(logit - maximum),
    and mean and variance of the log-probability under the model."""
    top, first_choice = logits.max(dim=-1)
    # A masked token has p = 0 and log p = -inf; it adds nothing, but 0 · inf would be NaN.
    below = logits.sub_(top[:, None]).clamp_min_(-1e18)
    weight = below.exp()
    total = weight.sum(dim=-1)
    mean = (weight * below).sum(dim=-1) / total
    variance = below.sub_(mean[:, None]).square_().mul_(weight).sum(dim=-1) / total
    log_sum = total.log()
    return top, first_choice, log_sum, mean - log_sum, variance


def _collect(work: Plan, results: _Results) -> list[list[TokenScores]]:
    logprob, mean = results.logprob.tolist(), results.mean.tolist()
    variance, is_argmax = results.variance.tolist(), results.is_argmax.tolist()
    return [
        [
            TokenScores(
                [logprob[slot] for slot in path],
                [is_argmax[slot] for slot in path],
                [mean[slot] for slot in path],
                [variance[slot] for slot in path],
            )
            for path in request
        ]
        for request in work.slots
    ]
