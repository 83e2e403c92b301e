"""TOFU's metrics as formulas over per-item losses (Maini et al. 2024, arXiv:2401.06121).

ℓ is the mean negative log-likelihood of an answer's tokens, its end token included; p(a|q) = exp(-ℓ). All ratios are
taken in log space: no epsilon is ever added to a denominator, which would distort a truth ratio as soon as the
right answer costs some 23 nats a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import expit, logsumexp
from scipy.stats import ks_2samp

from unbench.metrics.formulas import harmonic
from unbench.metrics.knowledge import Floats

TruthRatio = Literal["geometric", "arithmetic"]
"""The mean over an item's wrong answers. TOFU's and open-unlearning's code, and UnBench by default, take the geometric
one (a mean of losses); TOFU's paper writes the arithmetic one. Model utility of the same logs differs by some
hundredths."""


def probability(loss: Floats) -> Floats:
    """p(a|q) of each item, (n,), in [0, 1]."""
    return np.asarray(np.exp(-loss))


def option_probability(loss: Floats, wrong_loss: Floats) -> Floats:
    """p(a) / (p(a) + Σ p(wrong)) of each item, (n,), for real authors and world facts.

    ``loss`` (n,); ``wrong_loss`` (n, k), NaN where an item has fewer wrong answers.
    """
    against = logsumexp(np.where(np.isnan(wrong_loss), -np.inf, loss[:, None] - wrong_loss), axis=1)
    return np.asarray(expit(-against))


def log_truth_ratio(truth_loss: Floats, wrong_loss: Floats, truth_ratio: TruthRatio = "geometric") -> Floats:
    """log TR of each item, (n,): wrong over right, TR = mean_i exp(-ℓ(wrong_i)) / exp(-ℓ(right in other words)).

    Above 0 the model prefers the wrong answers. ``wrong_loss`` (n, k) is NaN where an item has fewer; each item needs
    one. The geometric mean is the default, see ``TruthRatio``.
    """
    if truth_ratio == "geometric":
        return np.asarray(truth_loss - np.nanmean(wrong_loss, axis=1))
    there = ~np.isnan(wrong_loss)
    total = logsumexp(np.where(there, -wrong_loss, -np.inf), axis=1)
    return np.asarray(truth_loss + total - np.log(there.sum(axis=1)))


def indifference(log_ratio: Floats) -> Floats:
    """min(TR, 1/TR) of each item: 1 where right and wrong answers are equally likely. The forget set's aggregate."""
    return np.asarray(np.exp(-np.abs(log_ratio)))


def truthfulness(log_ratio: Floats) -> Floats:
    """max(0, 1 - TR) of each item, clipped item by item: one badly wrong item mustn't outweigh the others."""
    return np.asarray(-np.expm1(np.minimum(log_ratio, 0.0)))


def rouge_recall(answers: Sequence[str], texts: Sequence[str]) -> Floats:
    """ROUGE-L recall of each greedy text against its answer, (n,): ``rouge_score`` with Porter stemming (Lin 2004).

    The share of the answer's words that stand in the text in the same order. 0 for an empty text.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    return np.array(
        [scorer.score(answer, text)["rougeL"].recall for answer, text in zip(answers, texts, strict=True)],
        dtype=np.float64,
    )


class _Words:
    """rouge_score's own tokenizer with stemming; each word is stemmed once, which is half of the time."""

    def __init__(self) -> None:
        from nltk.stem import porter

        self._stemmer = porter.PorterStemmer()
        self._known: dict[str, str] = {}

    def tokenize(self, text: str) -> list[str]:
        from rouge_score import tokenize

        found: list[str] = tokenize.tokenize(text, self)
        return found

    def stem(self, word: str) -> str:
        if word not in self._known:
            self._known[word] = self._stemmer.stem(word)
        return self._known[word]


def model_utility(parts: Floats) -> Floats:
    """Harmonic mean of each row of ``parts`` (rows, 9): {retain, real authors, world facts} × {probability, ROUGE,
    truth ratio}. 0 where one of them is 0."""
    return harmonic(parts, np.ones(parts.shape, dtype=bool))


class ForgetQuality(NamedTuple):
    """Two-sided Kolmogorov-Smirnov test between two models' truth ratios."""

    p: float
    """TOFU's forget quality. It depends on the number of items, so it never compares across splits."""
    statistic: float
    """D, the largest distance between the two distribution functions."""


def forget_quality(unlearned: Floats, reference: Floats) -> ForgetQuality:
    """scipy's ``ks_2samp`` with its defaults between the raw truth ratios of two models.

    Takes their logarithms: a test of ranks doesn't see the difference, and nothing overflows.
    """
    test = ks_2samp(unlearned, reference)
    return ForgetQuality(float(test.pvalue), float(test.statistic))
