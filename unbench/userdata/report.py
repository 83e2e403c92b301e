"""What ``unbench check-task`` says of a sound task: what it holds, what can't be scored and why, what a model knows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unbench.task import Probe, Task

if TYPE_CHECKING:
    import pandas as pd

    from unbench.method import Progress

KNOWS, STRANGE = -0.01, -10.0
"""Nats a token of an answer that a model knows, and of one it never saw."""


def describe(task: Task) -> dict[str, Any]:
    """A task as a JSON object (``unbench.check-task/1``).

    ``null`` holds every score and metric that a run couldn't give, with its reason, ``notes`` what is left out of the
    others. Both come from the metrics themselves: they are computed for an imagined model that knows every fact.
    """
    data = task.data()
    null, notes = _scores(task)
    sets = {name: getattr(data, name) for name in ("forget", "retain", "withheld", "holdout")}
    return {
        "schema": "unbench.check-task/1",
        "ok": True,
        "task": task.id,
        "version": task.version,
        "split": task.split,
        "hash": task.hash,
        "model": task.default_model,
        "target": task.target,
        "knowledge": task.knowledge,
        "why_knowledge": getattr(task, "why_knowledge", "the task says so"),
        "max_new_tokens": task.max_new_tokens,
        "sets": {
            name: {
                "rows": len(rows),
                "facts": len({row.fact for row in rows}),
                "subjects": len({row.subject for row in rows}),
            }
            for name, rows in sets.items()
        },
        "probes": [
            {**_place(probes[0]), "n": len(probes), "candidates": _span([len(probe.candidates) for probe in probes])}
            for probes in _groups(task.probes())
        ],
        "null": null,
        "notes": notes,
        "warnings": [*getattr(task, "warnings", ()), *_few(task)],
        "sources": dict(task.sources),
    }


def known(task: Task, model: str, progress: Progress, *, device: str = "auto") -> dict[str, Any]:
    """What a model knows of a task before anything is forgotten: its name, and every group of probes with how many of
    them it knows and its mean κ (or p(a|q)).

    Raises what ``unbench run`` would raise for a model that can't be had.
    """
    from unbench.metrics.knowledge import per_probe
    from unbench.metrics.table import KNOWN
    from unbench.models.cache import folder_hash
    from unbench.models.prepare import ask, find_models
    from unbench.plan import make_plan

    plan = make_plan("none", str(task.path or task.id), model, split=task.split, device=device, data_dir=task.data_dir)
    target = find_models(plan, task, progress).target
    responses = ask(target, folder_hash(target.path), "target", task, list(task.probes()), None, progress)
    table = per_probe(responses, knowledge=task.knowledge)
    groups = [
        {"ring": ring, "kind": kind, "given": bool(given), "n": len(part), "known": int((part["known"] >= KNOWN).sum()),
         "mean": float(part["known"].mean())}
        for (ring, kind, given), part in table.groupby(["ring", "kind", "given"], sort=False)
    ]  # fmt: skip
    return {"model": plan.model, "groups": groups}


def _scores(task: Task) -> tuple[dict[str, str], dict[str, str]]:
    """(null, notes): reasons by name, as a run would give them for a model that knows every fact."""
    from unbench.metrics.scores import measure

    probes = task.probes()
    knowing = _imagined(probes, knows=True)
    # Where the target is trained, 'unbench prepare' makes a reference too.
    references = [_imagined(probes, knows=False)] if task.target == "trained" else []
    measured = measure({0: knowing}, knowing, references, knowledge=task.knowledge)
    headline = {name: getattr(measured.scores, name) for name in type(measured.scores).model_fields}
    every = headline | measured.metrics
    null = {name: score.reason or "no reason given" for name, score in every.items() if score.value is None}
    notes = {name: score.reason for name, score in headline.items() if score.value is not None and score.reason}
    return null, notes


def _imagined(probes: Sequence[Probe], *, knows: bool) -> pd.DataFrame:
    """Responses (columns: ``unbench.responses``) of a model that knows all answers, or of one that knows none."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for probe in probes:
        sentence = " ".join(part for part in (probe.answer_prefix, probe.answer) if part)
        for i, candidate in enumerate(probe.candidates):
            right = candidate == probe.answer
            nats = KNOWS if knows and candidate in (probe.answer, probe.paraphrased) else STRANGE
            rows.append({
                "role": "imagined", "probe": probe.id, "ring": probe.ring, "kind": probe.kind, "given": probe.given,
                "subject": probe.subject, "cluster": probe.cluster, "fact": probe.fact, "pair": probe.pair,
                "continuation": i, "candidate": candidate, "is_right": right,
                "is_paraphrase": candidate == probe.paraphrased, "logprob": 2 * nats, "n_tokens": 2,
                "token_logprobs": [nats, nats], "token_argmax": [knows, knows],
                "token_mean": [STRANGE, STRANGE] if right else None, "token_variance": [1.0, 1.0] if right else None,
                "question": probe.messages[-1].content, "text": sentence if probe.generate else "",
                "finished": True, "recalled": knows,
            })  # fmt: skip
    return pd.DataFrame(rows)


def _groups(probes: Sequence[Probe]) -> list[list[Probe]]:
    """Probes by ring, kind and given, in the order of their first one."""
    found: dict[tuple[str, str, bool], list[Probe]] = defaultdict(list)
    for probe in probes:
        found[probe.ring, probe.kind, probe.given].append(probe)
    return list(found.values())


def _place(probe: Probe) -> dict[str, Any]:
    return {"ring": probe.ring, "kind": probe.kind, "given": probe.given}


def _span(numbers: Sequence[int]) -> list[int]:
    return [min(numbers), max(numbers)]


def _few(task: Task) -> list[str]:
    from unbench.metrics.statistics import MIN_CLUSTERS

    n = len({row.subject for row in task.data().forget})
    if n >= MIN_CLUSTERS:
        return []
    what = "one subject is" if n == 1 else f"{n} subjects are"
    return [
        f"Only {what} forgotten, so forget and specificity have no interval (it needs {MIN_CLUSTERS} subjects); "
        "the values themselves stand."
    ]
