"""Asking the forget probes under attack: the responses pass of every run, kept as one row a probe and point.

======== ===== =====================================================================================
column   type  meaning
======== ===== =====================================================================================
series   str   curve of the attack, empty where it has one
strength float place on the curve
counted  bool  whether the point may enter ``forget_worst``
own      bool  measured by the attack on a scale of its own
probe    str   id of the forget probe asked (of the pair, where a true and a false form were averaged)
kind     str   of the probe
cluster  str   of the probe
fact     str   of the probe
known    float κ, p(a|q), or what the attack measured
rank     float as in ``unbench.metrics.knowledge``; NaN where there is none
recall   float whether the greedy answer held the right answer; 0 where none was written
======== ===== =====================================================================================
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unbench import responses
from unbench.match import holds
from unbench.metrics.knowledge import per_probe

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from unbench.attack import AttackContext
    from unbench.engines.base import Sampling
    from unbench.task import Message, Probe, Row

COLUMNS = ("series", "strength", "counted", "own", "probe", "kind", "cluster", "fact", "known", "rank", "recall")


def ask(
    context: AttackContext,
    strength: float,
    series: str,
    model: PreTrainedModel,
    probes: Sequence[Probe],
    *,
    counted: bool,
    generate: bool,
    template: bool = True,
) -> pd.DataFrame:
    """``AttackContext.ask``."""
    from unbench.engines.hf import HFEngine

    asked = [probe.model_copy(update={"generate": generate}) for probe in probes]
    tokenizer = context.tokenizer if template else _untemplated(context.tokenizer)
    with HFEngine(model, tokenizer, device=context.device, batch_size=context.batch_size) as engine:
        frame = responses.respond(
            engine, tokenizer, asked, role=context.role, max_new_tokens=context.max_new_tokens,
            system_prompt=context.system_prompt, knowledge=context.knowledge,
        )  # fmt: skip
    table = per_probe(frame, context.knowledge)
    if not generate:
        table["recall"] = 0.0
    return _keep(context, table, strength, series, counted, own=False)


def generate(
    context: AttackContext,
    prompts: Sequence[Sequence[Message]],
    sampling: Sampling | None,
    model: PreTrainedModel,
) -> list[str]:
    """``AttackContext.generate``."""
    from unbench.engines.base import Sampling
    from unbench.engines.hf import HFEngine
    from unbench.templates import prompt_ids

    own = sampling or Sampling(max_new_tokens=context.max_new_tokens)
    # A question that is drawn from many times is rendered once.
    turns = [tuple(prompt) for prompt in prompts]
    ids = {one: prompt_ids(context.tokenizer, one, context.system_prompt) for one in dict.fromkeys(turns)}
    with HFEngine(model, context.tokenizer, device=context.device, batch_size=context.batch_size) as engine:
        return [written.text.strip() for written in engine.generate([ids[one] for one in turns], own)]


def examples(context: AttackContext, probe: Probe, number: int, alike: Sequence[str]) -> list[Row]:
    """``AttackContext.examples``."""
    asked = next((row for row in context.forget if row.fact == probe.fact), None)
    forgotten = {row.fact for row in context.forget}
    right = (probe.answer, *probe.accept)
    rows = [
        row for row in context.retain
        if row.fact not in forgotten and not holds(f"{row.question} {row.answer}", right)
    ]  # fmt: skip
    # Drawn by the fact alone, so that every model is shown the same.
    random.Random(probe.fact).shuffle(rows)

    def unlike(row: Row) -> tuple[bool, ...]:
        return tuple(not getattr(row, name) or getattr(row, name) != getattr(asked, name, None) for name in alike)

    return sorted(rows, key=unlike)[:number]


def _untemplated(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    bare = copy.copy(tokenizer)
    bare.chat_template = None
    return bare


def record(
    context: AttackContext, strength: float, series: str, values: Mapping[str, float], *, counted: bool
) -> pd.DataFrame:
    """``AttackContext.record``. Raises ``KeyError`` for a probe that the context doesn't hold."""
    import pandas as pd

    by_id = {probe.id: probe for probe in context.probes}
    forms: dict[str, list[tuple[Probe, float]]] = {}
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"the value of probe {name} is {value}")
        forms.setdefault(by_id[name].pair or name, []).append((by_id[name], float(value)))
    rows = [
        {"probe": name, "kind": form[0][0].kind, "cluster": form[0][0].cluster, "fact": form[0][0].fact,
         "known": sum(value for _, value in form) / len(form), "rank": float("nan"), "recall": 0.0}
        for name, form in forms.items()
    ]  # fmt: skip
    return _keep(context, pd.DataFrame(rows), strength, series, counted, own=True)


def _keep(
    context: AttackContext, table: pd.DataFrame, strength: float, series: str, counted: bool, own: bool
) -> pd.DataFrame:
    at: dict[str, Any] = {"series": series, "strength": float(strength), "counted": counted, "own": own}
    kept = table.assign(**at)[list(COLUMNS)]
    context.tables.append(kept)
    return kept
