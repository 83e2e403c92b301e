"""How much of an answer a model would reproduce word for word, from whether each token is its first choice.

The flags are those of one pass with the right answer fed in: token i is the argmax given the prompt and the right
tokens before it.
"""

from __future__ import annotations

from unbench.metrics.items import Bools


def exact_memorization(is_argmax: Bools) -> float:
    """Share of the answer's tokens, its end token included, that are the argmax, in [0, 1] (Tirumala et al. 2022,
    arXiv:2205.10770)."""
    return float(is_argmax.mean())


def extraction_strength(is_argmax: Bools) -> float:
    """1 - k/L, in [0, 1]: k the length of the shortest prefix of the answer from which the rest, L - k tokens, is
    reproduced greedily (Carlini et al. 2021, arXiv:2012.07805).

    Where even the last token is wrong the whole answer must be given: k = L, so 0. (open-unlearning's loop ends at
    k = L - 1 and returns 1/L there.)
    """
    wrong = (~is_argmax).nonzero()[0]
    k = 0 if len(wrong) == 0 else int(wrong[-1]) + 1
    return 1 - k / len(is_argmax)
