"""Responses made by hand: the tables that the metric tests read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from unbench.responses import COLUMNS


def spread(known: float, n: int = 4) -> list[float]:
    """Log-probabilities of n candidates, the right one first, that give exactly this κ; the wrong ones tie."""
    share = known * (1 - 1 / n) + 1 / n
    wrong = max((1 - share) / (n - 1), 1e-300)
    return [float(np.log(share))] + [float(np.log(wrong))] * (n - 1)


def ranked(wrong_above: int, n: int = 10) -> list[float]:
    """Log-probabilities in which so many wrong candidates stand above the right one, which comes first."""
    wrong = np.where(np.arange(n - 1) < wrong_above, -1.0, -5.0)
    return [-3.0, *wrong.tolist()]


def probe(name: str, ring: str, kind: str, logprobs: Sequence[float], **over: Any) -> list[dict[str, Any]]:
    """The rows of one probe; the right candidate is the first unless ``right`` says otherwise."""
    right = over.pop("right", 0)
    tokens = over.pop("tokens", None)
    base = {
        "role": "any", "probe": name, "ring": ring, "kind": kind, "subject": name, "cluster": name, "fact": name,
        "given": False, "pair": None, "n_tokens": 1, "question": "Where?", "text": "It is here.", "finished": True,
        "recalled": True,
    } | over  # fmt: skip
    return [
        base
        | {
            "continuation": i,
            "candidate": f"c{i}",
            "is_right": i == right,
            "logprob": value,
            "token_logprobs": [value] if tokens is None else list(tokens),
            "token_argmax": [True],
        }
        for i, value in enumerate(logprobs)
    ]


def frame(*probes: list[dict[str, Any]]) -> pd.DataFrame:
    """Probes as one responses table."""
    return pd.DataFrame([row for rows in probes for row in rows], columns=list(COLUMNS))


def model(known: dict[str, Any], facts: int = 5, n: int = 20, **over: Any) -> pd.DataFrame:
    """A model with one κ a group. Keys are "ring/kind" or "ring/kind/given"; values one κ or one for each fact."""
    out = []
    for key, value in known.items():
        ring, kind, *given = key.split("/")
        values = [value] * facts if np.isscalar(value) else list(value)
        own = {"text": "It is here."} | over
        for i, kappa in enumerate(values):
            who = f"s{i}" if ring in ("forget", "near") else f"{ring}{i}"
            place = {"given": bool(given), "cluster": who, "fact": f"{who}"} | own
            out.append(probe(f"{key}/{i}", ring, kind, spread(kappa, n), **place))
    return frame(*out)


def told(
    name: str,
    family: str,
    right: Sequence[float],
    wrong: Sequence[Sequence[float]] = (),
    other_words: Sequence[float] | None = None,
    **over: Any,
) -> list[dict[str, Any]]:
    """The rows of one probe whose knowledge is a probability, from token log-probabilities: the right answer, the same
    in other words, wrong answers. ``family`` as in ``unbench.metrics.items``."""
    ring, kind = {"forget": ("forget", "direct"), "retain": ("far", "retain"), "holdout": ("holdout", "holdout")}.get(
        family, ("world", family)
    )
    answer, flags, moments = over.pop("answer", f"answer {name}"), over.pop("argmax", None), over.pop("moments", None)
    base = probe(name, ring, kind, [0.0], **over)[0]
    every = [right, *([] if other_words is None else [other_words]), *wrong]
    rows = []
    for i, tokens in enumerate(every):
        own = {"continuation": i, "candidate": answer if i == 0 else f"{answer} ({i})", "is_right": i == 0,
               "is_paraphrase": other_words is not None and i == 1, "logprob": float(sum(tokens)),
               "n_tokens": len(tokens), "token_logprobs": list(tokens),
               "token_argmax": list(flags) if flags is not None else [True] * len(tokens),
               "token_mean": list(moments[0]) if moments and i == 0 else None,
               "token_variance": list(moments[1]) if moments and i == 0 else None}  # fmt: skip
        rows.append(base | own)
    return rows


def random_tofu(seed: int, clusters: int = 7, each: int = 3) -> pd.DataFrame:
    """A model's answers to all five families: so many clusters of so many probes each."""
    rng = np.random.default_rng(seed)
    said = ["The book was written in Rome", "It is red red red red red red red", "answer holdout", ""]

    def tokens(cost: float) -> list[float]:
        return (-rng.exponential(cost, rng.integers(3, 9))).tolist()

    rows = []
    for family in ("forget", "retain", "real_authors", "world_facts", "holdout"):
        for i in range(clusters * each):
            asked = family != "holdout"
            right = tokens(1.0 if asked else 1.3)
            rows += told(
                f"{family}{i}", family, right, [tokens(1.2) for _ in range(5 if asked else 0)],
                tokens(1.1) if family in ("forget", "retain") else None, cluster=f"{family}-{i // each}",
                answer=f"The {family} book {i} was written in Rome, and is red.", argmax=rng.random(len(right)) < 0.6,
                text=str(rng.choice(said)) if asked else "", finished=asked,
                moments=(rng.uniform(-3, -1, len(right)), rng.uniform(0.5, 2, len(right))),
            )  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))
