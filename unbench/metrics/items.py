"""Items: what one model answers to the probes of one family, as arrays. The published metrics are functions of these.

============ =====================================================================================================
family       probes
============ =====================================================================================================
forget       ring forget, kind direct
retain       ring far: the withheld ones, or all of them where nothing is withheld
real_authors ring world, kind real_authors
world_facts  ring world, kind world_facts
holdout      ring holdout: never trained on, for membership inference
============ =====================================================================================================

ℓ is the mean negative log-likelihood (nats a token) of an answer, its end token included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unbench.metrics.knowledge import ROUNDING, Floats

WORDS = {
    "forget": "direct forget",
    "retain": "far",
    "real_authors": "real_authors (ring world)",
    "world_facts": "world_facts (ring world)",
    "holdout": "holdout",
}
"""The families, as a reason names their probes."""

MOST_NATS = 1e6
"""Stands for the loss of an answer that a model holds for impossible: differences of losses stay finite."""

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Items:
    """One model's answers to n probes, in a given order."""

    clusters: NDArray[np.object_]
    """(n,): unit of resampling."""
    loss: Floats
    """(n,): ℓ of the right answer."""
    truth_loss: Floats
    """(n,): ℓ of the right answer in other words; of the right answer where there are no other words."""
    wrong_loss: Floats
    """(n, most wrong answers): ℓ of each wrong answer, NaN where a probe has fewer."""
    answers: tuple[str, ...]
    """The right answers."""
    texts: tuple[str, ...]
    """The greedy answers."""
    logprobs: tuple[Floats, ...]
    """Log-probability (nats) of each token of the right answer."""
    argmax: tuple[Bools, ...]
    """Whether each of these tokens was the model's first choice."""
    moments: tuple[tuple[Floats, Floats] | None, ...]
    """Mean and variance of the log-probability over the vocabulary at each of these tokens; None where not known."""
    gradnorm: Floats | None
    """(n,): norm of the loss's gradient, NaN where not known; None where it wasn't asked for."""

    @property
    def has_wrong(self) -> Bools:
        """(n,): whether a probe has a wrong answer."""
        return np.asarray(np.isfinite(self.wrong_loss).any(axis=1))


@dataclass(frozen=True)
class Models:
    """What the published metrics compare: every seed's items by family, and the first reference's."""

    seeds: list[dict[str, Items]]
    """One a seed, in the order of the seeds; families without probes are left out."""
    reference: dict[str, Items | int] | None
    """The same of the first reference, how many probes it lacks where it lacks any; None without a reference."""
    n_references: int
    retain_given: bool
    """The retain family's probes are given: methods train on these rows."""

    @classmethod
    def read(cls, unlearned: Mapping[int, pd.DataFrame], references: Sequence[pd.DataFrame]) -> Self:
        """Responses of all models, in the order of the first seed's probes.

        Raises:
            ValueError: no seed, a seed that lacks probes of the first, or broken responses (see ``read``).
        """
        if not unlearned:
            raise ValueError("There are no responses of an unlearned model.")
        order = sorted(unlearned)
        first = unlearned[order[0]]
        asked = {name: probes for name, probes in families(first).items() if len(probes)}
        seeds = []
        for seed in order:
            own: dict[str, Items] = {}
            for name, found in read(unlearned[seed], asked).items():
                if isinstance(found, int):
                    raise ValueError(f"Seed {seed} lacks {found} of {len(asked[name])} {WORDS[name]} probes.")
                own[name] = found
            seeds.append(own)
        far = first.loc[first["ring"] == "far", "given"].astype(bool)
        return cls(seeds, read(references[0], asked) if references else None, len(references), bool(far.all()))

    @property
    def first_reference(self) -> list[str]:
        """A sentence on which reference is read, where there are several."""
        return [f"the first of {self.n_references} references"] if self.n_references > 1 else []

    def why_not(self, *names: str) -> str | None:
        """Why families can't be scored: the task has no such probes."""
        missing = [WORDS[name] for name in names if name not in self.seeds[0]]
        return f"no {' and no '.join(missing)} probes" if missing else None

    def each(self, name: str) -> list[Items]:
        """A family's items, one a seed."""
        return [seed[name] for seed in self.seeds]

    def compared(self, *names: str) -> dict[str, Items] | str:
        """The reference's items of families that the unlearned models have, or why there are none."""
        if self.reference is None:
            return "no reference model was given"
        found: dict[str, Items] = {}
        for name in names:
            own = self.reference[name]
            if isinstance(own, int):
                return f"the reference lacks {own} of {len(self.seeds[0][name].loss)} {WORDS[name]} probes"
            found[name] = own
        return found


def families(responses: pd.DataFrame) -> dict[str, pd.Index]:
    """Probe ids of each family in the order of first appearance; empty where the task has none."""
    ring, kind = responses["ring"], responses["kind"]
    far = ring == "far"
    withheld = far & ~responses["given"].astype(bool)
    rows = {
        "forget": (ring == "forget") & (kind == "direct"),
        "retain": withheld if withheld.any() else far,
        "real_authors": (ring == "world") & (kind == "real_authors"),
        "world_facts": (ring == "world") & (kind == "world_facts"),
        "holdout": ring == "holdout",
    }
    return {name: pd.Index(responses.loc[mask, "probe"].unique()) for name, mask in rows.items()}


def read(responses: pd.DataFrame, asked: Mapping[str, pd.Index]) -> dict[str, Items | int]:
    """One model's items of each family, in the order of ``asked``; how many probes it lacks where it lacks any.

    Raises:
        ValueError: a probe without exactly one right candidate, or a log-probability that is NaN or above 0.
    """
    return {name: _read(responses, probes) for name, probes in asked.items()}


def _read(responses: pd.DataFrame, probes: pd.Index) -> Items | int:
    rows = responses[responses["probe"].isin(probes)]
    code = probes.get_indexer(pd.Index(rows["probe"]))
    missing = len(probes) - len(np.unique(code))
    if missing:
        return missing
    right = rows["is_right"].to_numpy(dtype=bool)
    n_right = np.bincount(code[right], minlength=len(probes))
    if (n_right != 1).any():
        bad = int(np.argmax(n_right != 1))
        raise ValueError(f"Probe {probes[bad]} has {n_right[bad]} right candidates; it must have one.")
    at = np.empty(len(probes), dtype=np.int64)
    at[code[right]] = np.flatnonzero(right)
    told = rows.iloc[at]
    loss = _losses(rows)
    # Tables of an earlier version, and hand-made ones, name no paraphrase.
    other_words = rows["is_paraphrase"].eq(True).to_numpy(dtype=bool) if "is_paraphrase" in rows else ~right & right
    truth = loss[at].copy()
    truth[code[other_words]] = loss[other_words]
    return Items(
        clusters=told["cluster"].to_numpy(dtype=object),
        loss=loss[at],
        truth_loss=truth,
        wrong_loss=_wide(loss, code, ~right & ~other_words, len(probes)),
        answers=tuple(told["candidate"]),
        texts=tuple(told["text"].fillna("")),
        logprobs=tuple(np.asarray(row, dtype=np.float64) for row in told["token_logprobs"]),
        argmax=tuple(np.asarray(row, dtype=bool) for row in told["token_argmax"]),
        moments=_moments(told),
        gradnorm=told["gradnorm"].to_numpy(dtype=np.float64) if "gradnorm" in told else None,
    )


def _losses(rows: pd.DataFrame) -> Floats:
    """ℓ of every row, (rows,)."""
    means = np.array([np.mean(row) if len(row) else np.nan for row in rows["token_logprobs"]], dtype=np.float64)
    bad = ~(means <= ROUNDING)
    if bad.any():
        name = rows["probe"].iloc[int(np.argmax(bad))]
        raise ValueError(f"Probe {name} has no token log-probabilities, or a wrong one.")
    return np.clip(-means, 0.0, MOST_NATS)


def _wide(loss: Floats, code: NDArray[Any], wrong: Bools, n: int) -> Floats:
    """Losses of the wrong answers, one row a probe, filled up with NaN."""
    count = np.bincount(code[wrong], minlength=n)
    out = np.full((n, max(1, int(count.max(initial=0)))), np.nan)
    order = np.argsort(code[wrong], kind="stable")
    owner = code[wrong][order]
    first = np.cumsum(count) - count
    out[owner, np.arange(len(owner)) - first[owner]] = loss[wrong][order]
    return out


def _moments(told: pd.DataFrame) -> tuple[tuple[Floats, Floats] | None, ...]:
    if "token_mean" not in told or "token_variance" not in told:
        return (None,) * len(told)
    return tuple(
        (np.asarray(mean, dtype=np.float64), np.asarray(variance, dtype=np.float64))
        if isinstance(mean, list | np.ndarray) and isinstance(variance, list | np.ndarray)
        else None
        for mean, variance in zip(told["token_mean"], told["token_variance"], strict=True)
    )
