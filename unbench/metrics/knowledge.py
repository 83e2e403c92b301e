"""Knowledge: what one model knows of each probe, read off its responses.

For a probe with n candidates let P(x) be the total probability of candidate x over the tokens in which the candidates
differ. The right one's share is s = P(right) / Σ P(candidate), and

    κ = (s - 1/n) / (1 - 1/n)        never clipped: 1 known, 0 on average for a guesser, below 0 pushed under a guess.

Beside κ stands the rank: the share of wrong candidates that the model prefers to the right one (ties count half): 0
known, about 0.5 a stranger. Where a task has no candidates of one form, p(a|q) = exp(mean token log-probability of
the right answer) takes κ's place and there is no rank.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unbench.task import Knowledge

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PROBE_COLUMNS = ("ring", "kind", "subject", "cluster", "fact", "given", "question", "text")
"""Columns copied from the responses; a pair keeps those of its first probe."""

MEASURES = ("known", "rank", "recall", "right_logprob", "fluent")
"""Columns measured here; a pair keeps their mean over its two forms."""

MAX_REPEATS = 3
"""A 4-gram of words may occur this often in a fluent answer."""


ROUNDING = 1e-3
"""Nats by which a log-probability may exceed 0 before it counts as an error (log-softmax in half precision)."""


def per_probe(responses: pd.DataFrame, knowledge: Knowledge = "candidates") -> pd.DataFrame:
    """One model's responses (one row a probe and candidate) as one row a probe, in the order of first appearance.

    Columns: ``probe``, the probe's id, or the pair's id where a true and a false form were averaged; ring, kind,
    subject, cluster, fact, given, question, text as in the responses; and

    - ``known`` (float): κ, or p(a|q) where ``knowledge`` is "probability"; unclipped
    - ``rank`` (float in [0, 1]): NaN where ``knowledge`` is "probability"
    - ``recall`` (float): whether the greedy answer holds the right answer; 0, 1, or ½ for half of a pair
    - ``n_candidates`` (int): the smaller of the two for a pair
    - ``right_logprob`` (float, nats): total of the right candidate; for "probability" the mean over its tokens, so
      that long and short answers compare
    - ``fluent`` (float): not empty, ended by itself, no 4-gram of words more than 3 times

    The order of rows and of a probe's candidates doesn't matter. The holdout ring is left out: no score reads it.

    Raises:
        ValueError: a probe without exactly one right candidate, with one candidate only where κ is asked for, with a
            NaN or positive log-probability, or a pair whose forms belong to different groups.
    """
    responses = responses[responses["ring"] != "holdout"]
    if responses.empty:
        raise ValueError("The responses table is empty.")
    labels, ids = pd.factorize(responses["probe"])
    code: Ints = np.asarray(labels, dtype=np.int64)
    is_right: NDArray[np.bool_] = responses["is_right"].to_numpy(dtype=bool)
    n_right = np.bincount(code[is_right], minlength=len(ids))
    if (n_right != 1).any():
        bad = ids[int(np.argmax(n_right != 1))]
        raise ValueError(f"Probe {bad} has {n_right[n_right != 1][0]} right candidates; it must have one.")
    right_row = np.empty(len(ids), dtype=np.int64)
    right_row[code[is_right]] = np.flatnonzero(is_right)
    right = responses.iloc[right_row]

    table = right.loc[:, ["probe", "pair", *PROBE_COLUMNS]].reset_index(drop=True)
    table["n_candidates"] = np.bincount(code)
    if knowledge == "probability":
        table["right_logprob"] = _mean_token_logprob(right)
        table["known"] = np.exp(table["right_logprob"])
        table["rank"] = np.nan
    else:
        table["right_logprob"] = right["logprob"].to_numpy(dtype=np.float64)
        table["known"], table["rank"] = _known_and_rank(responses, code, right_row, ids)
    table["recall"] = right["recalled"].to_numpy(dtype=np.float64)
    table["fluent"] = [
        float(is_fluent(text, bool(done))) for text, done in zip(right["text"], right["finished"], strict=True)
    ]
    return _average_pairs(table)


def _known_and_rank(responses: pd.DataFrame, code: Ints, right_row: Ints, ids: Any) -> tuple[Floats, Floats]:
    """κ and rank, each (probes,), from total log-probabilities; the softmax is taken in log space."""
    logprob: Floats = responses["logprob"].to_numpy(dtype=np.float64)
    _refuse(~(logprob <= ROUNDING), code, ids, "has a log-probability that is NaN or above 0")
    n = np.bincount(code).astype(np.float64)
    if (n < 2).any():
        raise ValueError(f"Probe {ids[int(np.argmax(n < 2))]} has one candidate only; κ needs a wrong one beside it.")
    top = np.full(len(n), -np.inf)
    np.maximum.at(top, code, logprob)
    dead = np.isneginf(top)[code]  # every candidate has probability 0: a guess among equals
    weight = np.exp(np.where(dead, 0.0, logprob) - np.where(dead, 0.0, top[code]))
    share = weight[right_row] / np.bincount(code, weights=weight)
    right = logprob[right_row][code]
    # The right candidate ties with itself: its half is taken off again.
    preferred = np.bincount(code, weights=(logprob > right) + 0.5 * (logprob == right)) - 0.5
    return (share - 1 / n) / (1 - 1 / n), preferred / (n - 1)


def _mean_token_logprob(right: pd.DataFrame) -> Floats:
    """Mean log-probability (nats a token) of each right answer, (probes,)."""
    rows = [np.asarray(row, dtype=np.float64) for row in right["token_logprobs"]]
    means: Floats = np.array([row.mean() if len(row) else np.nan for row in rows])
    ids = right["probe"].to_numpy()
    _refuse(~(means <= ROUNDING), np.arange(len(ids)), ids, "has no token log-probabilities, or a wrong one")
    return np.asarray(np.minimum(means, 0.0))


def _refuse(bad: NDArray[np.bool_], code: Ints, ids: Any, why: str) -> None:
    if bad.any():
        raise ValueError(f"Probe {ids[code[int(np.argmax(bad))]]} {why}.")


def is_fluent(text: str, finished: bool) -> bool:
    """Not empty, ended by itself, and no 4-gram of words (case ignored) more than 3 times."""
    words = text.lower().split()
    if not words or not finished:
        return False
    if len(words) <= MAX_REPEATS + 3:  # too short to hold four 4-grams
        return True
    grams = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    return max(grams.values()) <= MAX_REPEATS


def _average_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """The forms of one pair become one row whose id is the pair's; other rows stay as they are."""
    paired = table["pair"].notna()
    table["probe"] = table["pair"].where(paired, table["probe"])
    table = table.drop(columns="pair")
    if not paired.any():
        return table
    groups = table.groupby("probe", sort=False)
    mixed = groups[["ring", "kind", "cluster", "given"]].nunique().max(axis=1) > 1
    if mixed.any():
        raise ValueError(f"The forms of pair {mixed.idxmax()} differ in ring, kind, cluster or given.")
    how: dict[str, Any] = dict.fromkeys(PROBE_COLUMNS, "first")
    how["n_candidates"] = "min"
    how |= dict.fromkeys(MEASURES, "mean")
    return groups.agg(how).reset_index()
