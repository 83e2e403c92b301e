"""Fluency read off a greedy text alone: does it say new things, or the same again and again?"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

WEIGHTS = ((2, 1 / 3), (3, 2 / 3))
"""(n, weight): those of ROME's code, Meng et al. 2022."""


def words(text: str) -> list[str]:
    """Words and punctuation marks, case kept."""
    return re.findall(r"\w+|[^\w\s]", text)


def entropy(text: str) -> float:
    """Weighted mean of the bi- and trigram entropies of a text in bits: Σ_n w_n (-Σ_g f(g) log2 f(g)).

    "Generation entropy" of Meng et al. 2022 (arXiv:2202.05262) after Zhang et al. 2018 (arXiv:1809.05972).
    0 for a text without trigrams that differ; it grows with a text's length, so compare texts of a kind. Words are
    split at blanks and punctuation here, not by NLTK.
    """
    tokens = words(text)
    return sum(weight * _entropy(tokens, n) for n, weight in WEIGHTS)


def repetition(text: str, n: int = 4) -> float:
    """Share of a text's n-grams that stood in it before, in [0, 1): 1 - distinct / all, seq-rep-n of Welleck et al.
    2020 (arXiv:1908.04319). 0 for a text of fewer than n words."""
    grams = _grams(words(text), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _entropy(tokens: list[str], n: int) -> float:
    counts = np.array(list(Counter(_grams(tokens, n)).values()), dtype=np.float64)
    share = counts / counts.sum()
    return abs(float(np.sum(share * np.log2(share))))


def _grams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))
