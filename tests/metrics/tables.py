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
