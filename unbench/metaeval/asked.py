"""Asking a model about the forgotten facts: the responses pass of every run, kept as one row a probe.

========== ===== ===================================================================================================
column     type  meaning
========== ===== ===================================================================================================
part       str   ``probe``: a forget probe of the task; ``sentence``: a forget row's question with whole sentences as
                 candidates, the right one and one for every other value; ``holdout``: the same of facts that no model
                 was trained on, the right sentence alone
probe      str   id
kind       str   of the probe
cluster    str   of the probe
fact       str   of the probe
known      float κ of a ``probe``, p(a|q) of the others
rank       float NaN but for a ``probe``
recall     float whether the greedy answer holds the right answer
candidates int   number of candidates
answer     str   the right candidate
text       str   the greedy answer
wrong      list  ℓ (mean nats a token) of every wrong sentence
logprobs   list  log-probability of each token of the right sentence, its end token included
argmax     list  whether each was the first choice
mean       list  mean of the log-probability over the vocabulary at each of them
variance   list  its variance
lens       list  κ of the probe behind every layer (``unbench.attacks.logit_lens``); empty where it can't be had
========== ===== ===================================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from unbench import responses
from unbench.metaeval.pools import forgotten, holdout_people
from unbench.metrics.items import MOST_NATS, Items
from unbench.metrics.knowledge import per_probe
from unbench.task import Knowledge, Message, Probe, Task

if TYPE_CHECKING:
    from unbench_tasks.bios.generator import Fact

Part = Literal["probe", "sentence", "holdout"]
LISTS = ("wrong", "logprobs", "argmax", "mean", "variance", "lens")
COLUMNS = (
    "part",
    "probe",
    "kind",
    "cluster",
    "fact",
    "known",
    "rank",
    "recall",
    "candidates",
    "answer",
    "text",
    *LISTS,
)


@dataclass(frozen=True)
class Questions:
    """Everything that a model is asked."""

    probes: tuple[Probe, ...]
    sentences: tuple[Probe, ...]
    """Those of the forgotten facts and of the non-members."""
    max_new_tokens: int


def questions(task: Task, facts: int | None = None) -> Questions:
    """Of ``facts`` forgotten facts (None: all), and of as many people's facts that nobody was trained on."""
    from unbench_tasks.bios.generator import world

    asked = forgotten()[:facts]
    ids = {fact.id for fact in asked}
    probes = [p.model_copy(update={"generate": True}) for p in task.probes() if p.ring == "forget" and p.fact in ids]
    outside = [fact for name in holdout_people()[1] for fact in world().facts(name)]
    sentences = [_sentence(fact, "forget") for fact in asked] + [_sentence(fact, "holdout") for fact in outside]
    return Questions(tuple(probes), tuple(sentences), task.max_new_tokens)


def _sentence(fact: Fact, ring: Literal["forget", "holdout"]) -> Probe:
    from unbench_tasks.bios import forms
    from unbench_tasks.bios.forms import wording
    from unbench_tasks.bios.generator import world

    spoken = wording().attributes[fact.attribute]
    right = forms.sentence(fact)
    values = world().values[fact.attribute] if ring == "forget" else [fact.value]
    return Probe(  # type: ignore[call-arg]  # mypy without pydantic's plugin misses the defaults
        id=f"{ring}/sentence/{fact.id}",
        ring=ring,
        kind="direct" if ring == "forget" else "holdout",
        subject=fact.subject,
        cluster=fact.subject,
        fact=fact.id,
        messages=(Message(role="user", content=forms.direct(fact, spoken.trained[0]).question),),
        answer=right,
        candidates=tuple(forms.sentence(fact, value) for value in values),
        generate=ring == "forget",
    )


def ask(model: Any, target: Any, tokenizer: Any, asked: Questions, batch_size: int | None = None) -> pd.DataFrame:
    """One row a probe, ``COLUMNS``. ``model`` and ``target`` (whose output layer the lens reads through) in memory."""
    from unbench.engines.hf import HFEngine

    with HFEngine(model, tokenizer, device="cpu", batch_size=batch_size) as engine:

        def respond(probes: Sequence[Probe], knowledge: Knowledge) -> pd.DataFrame:
            return responses.respond(engine, tokenizer, probes, role="asked", max_new_tokens=asked.max_new_tokens,
                                     knowledge=knowledge)  # fmt: skip

        known, sentences = respond(asked.probes, "candidates"), respond(asked.sentences, "probability")
    lens = lens_of(model, target, tokenizer, asked.probes)
    rows = [_probe_row(row, lens.get(str(row["probe"]), [])) for row in _records(per_probe(known))]
    rows += [_sentence_row(own) for _, own in sentences.groupby("probe", sort=False)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def lens_of(model: Any, target: Any, tokenizer: Any, probes: Sequence[Probe]) -> dict[str, list[float]]:
    """Probe id -> κ behind every layer, as the attack ``logit_lens`` reads it."""
    from pathlib import Path

    from unbench.attack import AttackContext
    from unbench.attacks.logit_lens import read
    from unbench.method import TrainSettings

    context = AttackContext(
        role="unlearned", load_model=lambda: model, tokenizer=tokenizer, system_prompt=None, probes=tuple(probes),
        forget=(), retain=(), unrelated=(), seed=0, device="cpu", model_name="nano", train=TrainSettings(),
        knowledge="candidates", folder=Path(), progress=lambda description, done, total: None,
    )  # fmt: skip
    layers = read(context, model, target, None)
    return {probe.id: [float(value) for value in layers[:, i]] for i, probe in enumerate(probes)}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    return found


def _probe_row(row: dict[str, Any], lens: list[float]) -> dict[str, Any]:
    same = {name: row[name] for name in ("probe", "kind", "cluster", "fact", "known", "rank", "recall", "text")}
    nothing: dict[str, Any] = {name: [] for name in LISTS}
    return {"part": "probe", **same, "candidates": int(row["n_candidates"]), "answer": "", **nothing, "lens": lens}


def _sentence_row(own: pd.DataFrame) -> dict[str, Any]:
    losses = [float(np.clip(-np.mean(row), 0.0, MOST_NATS)) for row in own["token_logprobs"]]
    is_right = own["is_right"].to_numpy(dtype=bool)
    right = own.iloc[int(np.flatnonzero(is_right)[0])]
    return {
        "part": "sentence" if right["ring"] == "forget" else "holdout",
        **{name: right[name] for name in ("probe", "kind", "cluster", "fact", "text")},
        "known": float(np.exp(-losses[int(np.flatnonzero(is_right)[0])])),
        "rank": float("nan"),
        "recall": float(right["recalled"]),
        "candidates": len(own),
        "answer": right["candidate"],
        "wrong": [loss for loss, is_it in zip(losses, is_right, strict=True) if not is_it],
        "logprobs": [float(x) for x in right["token_logprobs"]],
        "argmax": [bool(x) for x in right["token_argmax"]],
        "mean": [float(x) for x in right["token_mean"]],
        "variance": [float(x) for x in right["token_variance"]],
        "lens": [],
    }


@dataclass(frozen=True)
class Answers:
    """What one model answered, as the measures read it."""

    table: pd.DataFrame = field(repr=False)

    @cached_property
    def probes(self) -> pd.DataFrame:
        """The forget probes."""
        return self.table[self.table["part"] == "probe"]

    @cached_property
    def forget(self) -> Items:
        """The forget rows with whole sentences as candidates."""
        return self._items("sentence")

    @cached_property
    def holdout(self) -> Items:
        """What no model was trained on."""
        return self._items("holdout")

    def _items(self, part: Part) -> Items:
        rows = self.table[self.table["part"] == part]
        logprobs = tuple(np.asarray(row, dtype=np.float64) for row in rows["logprobs"])
        loss = np.array([np.clip(-row.mean(), 0.0, MOST_NATS) for row in logprobs])
        wide = max((len(row) for row in rows["wrong"]), default=0)
        wrong = np.full((len(rows), max(1, wide)), np.nan)
        for i, row in enumerate(rows["wrong"]):
            wrong[i, : len(row)] = row
        return Items(
            clusters=rows["cluster"].to_numpy(dtype=object),
            loss=loss,
            truth_loss=loss,  # bios says a right answer in one way only
            wrong_loss=wrong,
            answers=tuple(rows["answer"]),
            texts=tuple(rows["text"]),
            logprobs=logprobs,
            argmax=tuple(np.asarray(row, dtype=bool) for row in rows["argmax"]),
            moments=tuple(
                (np.asarray(mean, dtype=np.float64), np.asarray(variance, dtype=np.float64))
                for mean, variance in zip(rows["mean"], rows["variance"], strict=True)
            ),
            gradnorm=None,
        )
