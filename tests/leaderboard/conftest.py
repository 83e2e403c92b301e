"""Made-up results, for tests only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from unbench.results.schema import Result

Make = Callable[..., Result]


def score(value: float | None, half: float | None = 0.05, reason: str | None = None) -> dict[str, Any]:
    if value is None or half is None:
        return {"value": value, "n": 30, "reason": reason}
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half), "n": 30, "reason": reason}


def build(
    method: str = "unbench:npo",
    *,
    run_id: str = "0123456789ab",
    task: str = "bios/fact",
    task_hash: str = "a" * 64,
    model: str = "nano",
    split: str = "report",
    created: str = "2026-01-02T03:04:05+00:00",
    scores: dict[str, Any] | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    plan: dict[str, Any] | None = None,
    unlearn_s: float = 12.5,
    tokens: tuple[int, int] = (120_000, 4_000),
    device: str = "CPU, 2 cores",
    model_hash: str = "b" * 64,
    **values: float,
) -> Result:
    base = {"forget": 0.9, "trace": 0.4, "retain": 0.95, "specificity": 0.85, "overall": 0.9} | values
    return Result.model_validate(
        {
            "run_id": run_id,
            "method": method,
            "task": task,
            "split": split,
            "model": model,
            "seeds": list(seeds),
            "scores": {name: score(value) for name, value in base.items()} | (scores or {}),
            "per_seed": [],
            "metrics": {},
            "groups": [],
            "interval": "jackknife-t",
            "compute": {
                "wall_s": 60.0,
                "prepare_s": 1.0,
                "unlearn_s": unlearn_s,
                "respond_s": 9.0,
                "measure_s": 1.0,
                "peak_memory_bytes": 1_000_000_000,
                "tokens_trained": tokens[0],
                "tokens_generated": tokens[1],
                "trainable_parameters": 900_000,
            },
            "plan": {"task_version": "1", "train": {"kind": "full"}, "limit": None} if plan is None else plan,
            "hashes": {"task": task_hash, "model": model_hash, "method": "c" * 64},
            "versions": {"unbench": "0.1.0"},
            "device": device,
            "dtype": "float32",
            "created_utc": created,
        }
    )


@pytest.fixture
def make() -> Make:
    """``make(method, forget=…, run_id=…)``: a result with plausible numbers."""
    return build


@pytest.fixture
def missing() -> Callable[..., dict[str, Any]]:
    """``missing(value, reason)``: a score without an interval, or without a value."""
    return lambda value, reason: score(value, None, reason)


@pytest.fixture
def field_of_results() -> list[Result]:
    """Two models, two tasks, controls, a method run twice, scores without interval or value."""
    one_subject = "one subject: fewer than 6 clusters give no interval"
    named = [
        ("unbench:none", 0.0, 1.0, 0.0),
        ("unbench:retrain", 0.97, 0.99, 0.98),
        ("unbench:retain_only", 0.05, 0.96, 0.1),
        ("unbench:sham", 0.15, 0.55, 0.3),
        ("unbench:gradient_ascent", 0.62, 0.93, 0.74),
        ("unbench:grad_diff", 0.99, 0.70, 0.84),
        ("unbench:npo", 0.98, 0.74, 0.86),
        ("unbench:idk", 0.91, 0.82, 0.88),
        ("unbench:unstar", 0.99, 0.93, 0.96),
    ]
    results = [
        build(method, task=task, run_id=f"{index}{'0123456789abc'[shift:]}"[:12], forget=f, specificity=s, overall=o,
              task_hash="ad"[shift] * 64)
        for shift, task in enumerate(("bios/fact", "bios/relation"))
        for index, (method, f, s, o) in enumerate(named)
    ]  # fmt: skip
    results.append(build("unbench:npo", run_id="fedcba987654", forget=0.97, specificity=0.72, overall=0.85))
    for method, f, s in (("unbench:unstar", 0.96, 0.71), ("unbench:npo", 0.93, 0.52), ("unbench:none", 0.0, 1.0)):
        scores = {"forget": score(f, None, one_subject), "specificity": score(s, None, one_subject)}
        scores["trace"] = score(None, reason="knowledge is a probability: no ranks")
        results.append(
            build(method, task="facts/hogwarts", model="smollm2", task_hash="e" * 64, scores=scores, seeds=(0,))
        )
    return results
