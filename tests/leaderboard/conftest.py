"""Made-up results and submissions, for tests only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from unbench.leaderboard import read_entries
from unbench.leaderboard.entries import Entry
from unbench.results.schema import Result, Score, Worst
from unbench.submissions.schema import Submission, Verified

Make = Callable[..., Result]
HASH = "d" * 64
VOID = {"meta", "link", "input", "br", "wbr"}
ENDED_BY = {"td": {"td", "th", "tr"}, "th": {"td", "th", "tr"}, "tr": {"tr"}}
"""Tables leave out the end tags that HTML lets them leave out."""


class Page(HTMLParser):
    """Every element with its attributes, its ancestors and its text; unbalanced tags fail."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[dict[str, Any]] = []
        self.open: list[dict[str, Any]] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert self.open == [], "tags left open"

    def handle_starttag(self, tag, attrs):
        while self.open and tag in ENDED_BY.get(self.open[-1]["tag"], ()):
            self.open.pop()
        element = {"tag": tag, "attrs": dict(attrs), "path": [e["tag"] for e in self.open], "text": ""}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "attrs": dict(attrs), "path": [e["tag"] for e in self.open], "text": ""})

    def handle_endtag(self, tag):
        while self.open and self.open[-1]["tag"] in ENDED_BY and self.open[-1]["tag"] != tag:
            self.open.pop()
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag: str, **attrs: str) -> list[dict[str, Any]]:
        wanted = {key.rstrip("_").replace("_", "-"): value for key, value in attrs.items()}
        return [e for e in self.elements if e["tag"] == tag and wanted.items() <= e["attrs"].items()]


@pytest.fixture(scope="session")
def read_page() -> Callable[[Path], Page]:
    """A page of the site, parsed."""
    return Page


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


def attacked(result: Result, forget: float, overall: float, by: str = "trace") -> Result:
    """The result as if attacks had been tried."""
    worst = Worst(
        forget_worst=Score.model_validate(score(forget)),
        overall_worst=Score.model_validate(score(overall)),
        by=by,
        attacks=["unbench:quantize"],
    )
    return result.model_copy(update={"worst": worst})


def submit(result: Result, home: Path, *, ranking: Mapping[str, Any] | None = None, **fields: Any) -> Path:
    """Write a submission of a result below ``home`` (a leaderboard's folder); returns its folder."""
    name = result.method.rpartition(":")[2]
    body = {
        "result": result,
        "ranking": ranking or {},
        "method": {"name": result.method, "version": "0.1.0", "source": HASH, "title": f"The method {name}",
                   "kind": "gradient", "summary": "Forgets."},
        "yardstick": {"task_hash": HASH, "model_hash": HASH, "responses": HASH},
        "files": {"responses.jsonl.gz": HASH, "plan.json": HASH},
        "command": f"unbench run --method {name}",
        "submitter": "A. Tester",
    }  # fmt: skip
    submission = Submission.model_validate(body | fields)
    folder = home / "submissions" / result.task / name / result.run_id
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text(submission.model_dump_json(by_alias=True), encoding="utf-8")
    return folder


def verify(folder: Path, home: Path, badge: str, found: Mapping[str, float]) -> None:
    """Write what a maintainer found of a submission."""
    content = (folder / "submission.json").read_bytes()
    body = {
        "run_id": folder.name,
        "submission": hashlib.sha256(content).hexdigest(),
        "badge": badge,
        "seeds": [0],
        "scores": {name: score(value) for name, value in found.items()},
        "claimed": {name: score(0.9) for name in found},
        "verified_utc": "2026-02-03T00:00:00+00:00",
    }
    (home / "verifications").mkdir(exist_ok=True)
    text = Verified.model_validate(body).model_dump_json(by_alias=True)
    (home / "verifications" / f"{folder.name}.json").write_text(text, encoding="utf-8")


@pytest.fixture(scope="session")
def make_attacked() -> Callable[..., Result]:
    """``make_attacked(result, forget, overall)``."""
    return attacked


@pytest.fixture(scope="session")
def make_submission() -> Callable[..., Path]:
    """``make_submission(result, home, ranking=…, supersedes=…)``: its folder."""
    return submit


@pytest.fixture(scope="session")
def make_verification() -> Callable[..., None]:
    """``make_verification(folder, home, badge, {"overall": 0.9})``."""
    return verify


@pytest.fixture
def four_submissions(tmp_path: Path) -> list[Entry]:
    """Three methods that can be told apart or not, and a control, all attacked, on one board."""
    home = tmp_path / "leaderboard"
    spread = {f"subject {i}": 0.002 * (i % 5) for i in range(30)}
    for number, (method, value) in enumerate((("a", 0.9), ("b", 0.899), ("c", 0.5), ("retrain", 0.99))):
        name = f"unbench:{method}" if method == "retrain" else f"lab:{method}"
        result = attacked(build(name, run_id=f"{number}" * 12), value, value)
        ranking = {
            "left_out": {cluster: value + (step if number % 2 else -step) for cluster, step in spread.items()},
            "by_seed": [value - 0.01, value, value + 0.01],
        }
        submit(result, home, ranking={"overall_worst": ranking})
    return read_entries(home / "submissions")


@pytest.fixture(scope="session")
def make() -> Make:
    """``make(method, forget=…, run_id=…)``: a result with plausible numbers."""
    return build


@pytest.fixture(scope="session")
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
