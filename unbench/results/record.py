"""Record: one result file with provenance."""

from __future__ import annotations

import hashlib
import platform
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbench.engines.room import engine_versions
from unbench.models.cache import file_hash
from unbench.plan import Plan
from unbench.results.code import own_code
from unbench.results.schema import Compute, Hashes, Measured, Result
from unbench.results.store import RunFolder, write_json

if TYPE_CHECKING:
    from unbench.models.prepare import Prepared

PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "tokenizers", "datasets", "numpy", "pandas", "scipy", "rouge-score",
)  # fmt: skip
"""Packages whose versions bear on the numbers."""


@dataclass
class RunTotals:
    """Wall seconds of the steps that belong to the run as a whole."""

    started: float
    seconds: dict[str, float] = field(default_factory=dict)
    engine_starts: int = 0
    """How often this process started vLLM."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def peak_memory(device: str) -> int:
    """Bytes: highest device memory on CUDA, highest resident memory of the process elsewhere."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return int(peak if sys.platform == "darwin" else peak * 1024)


def versions() -> dict[str, str]:
    """Python, unbench and the packages that bear on the numbers."""
    found = {"python": platform.python_version()}
    for name in ("unbench", *PACKAGES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def compute(folder: RunFolder, plan: Plan, totals: RunTotals, device: str) -> Compute:
    """Costs over the plan's seeds. Steps finished before a resume count with the seconds they took then."""
    unlearn = [folder.seed(seed).unlearn_record() or {} for seed in plan.seeds]
    respond = [folder.seed(seed).respond_record() or {} for seed in plan.seeds]
    usage = [record.get("usage", {}) for record in unlearn]
    parts = {
        "unlearn_s": sum(record.get("wall_s", 0.0) for record in unlearn),
        "respond_s": sum(record.get("wall_s", 0.0) for record in respond),
        "prepare_s": totals.seconds.get("prepare", 0.0),
        "measure_s": totals.seconds.get("measure", 0.0),
    }
    elapsed = time.perf_counter() - totals.started
    peaks = [record.get("peak_memory_bytes", 0) for record in (*unlearn, *respond)]
    wall = max(elapsed, sum(parts.values()))
    return Compute(
        wall_s=wall,
        **shares([record.get("work") for record in (*unlearn, *respond)], wall),
        engine_starts=totals.engine_starts,
        **parts,
        peak_memory_bytes=max(peak_memory(device), *peaks),
        tokens_trained=sum(one.get("tokens_trained", 0) for one in usage),
        tokens_generated=sum(one.get("tokens_generated", 0) for one in usage),
        trainable_parameters=max(one.get("trainable_parameters", 0) for one in usage),
    )


def shares(work: Sequence[dict[str, Any] | None], wall: float) -> dict[str, Any]:
    """Tokens a second, and the parts of the wall time that the steps' engines and trainings took; null where a step
    was done by a version that did not count."""
    counted = [one for one in work if one is not None]
    if len(counted) < len(work):
        return {}
    total = {name: sum(one[name] for one in counted) for name in ("generation_s", "scoring_s", "training_s")}
    tokens, seconds = sum(one["tokens_generated"] for one in counted), total["generation_s"]
    shares = {name.replace("_s", "_share"): value / wall for name, value in total.items()}
    return {"tokens_per_s": tokens / seconds if tokens and seconds else None, **shares}


def record(plan: Plan, folder: RunFolder, prepared: Prepared, measured: Measured, totals: RunTotals) -> Result:
    """Write ``result.json`` and return it."""
    from unbench.models.load import device_words

    notes: dict[str, Any] = dict(prepared.notes)
    unlearned: dict[str, str] = {}
    first: dict[str, Any] = {}
    for seed in plan.seeds:
        done = folder.seed(seed).unlearn_record() or {}
        first = first or done
        if done.get("method_hash") != first.get("method_hash"):
            notes["method_changed"] = f"seed {seed} was made by another version of the method than the first seed"
        if done.get("weights_hash"):
            unlearned[str(seed)] = done["weights_hash"]
        answered = folder.seed(seed).respond_record() or {}
        found = {**done.get("usage", {}).get("notes", {})}
        if answered.get("notes"):
            found["engine"] = answered["notes"]
        if found:
            notes[f"seed-{seed}"] = found
    general = folder.seed(plan.seeds[0]).lm_eval_record(plan.lm_eval) or {}
    if general:
        notes["lm_eval"] = general["settings"]
    device = prepared.target.device
    words = device_words(device)
    if plan.machine.num_processes > 1:
        words += f", unlearned by {plan.machine.num_processes} processes"
    result = Result(
        schema="unbench.result/1",
        run_id=plan.run_id,
        method=plan.method,
        task=plan.task,
        split=plan.split,
        model=plan.model,
        seeds=list(plan.seeds),
        scores=measured.scores,
        per_seed=measured.per_seed,
        metrics=measured.metrics,
        groups=measured.groups,
        interval=measured.interval,
        compute=compute(folder, plan, totals, device),
        plan=plan.public(),
        hashes=Hashes(
            task=plan.task_hash,
            model=prepared.target_hash,
            method=str(first.get("method_hash", "")),
            references=prepared.reference_hashes,
            data=prepared.data_hashes,
            unlearned=unlearned,
        ),
        versions=versions() | engine_versions(plan) | general.get("versions", {}),
        code=own_code(),
        device=words,
        dtype=str(prepared.target.dtype).removeprefix("torch."),
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        notes=notes,
    )
    write_json(folder.result_file, result.model_dump(mode="json", by_alias=True))
    result.dir = str(folder.path)
    return result


def source_hash(method_class: type, *, one_file: bool = False) -> str:
    """SHA-256 over the source of what makes a method: its package below the distribution's top level, or its file
    (always, where ``one_file``), and those of the methods it inherits from."""
    digest = hashlib.sha256()
    for one in method_class.__mro__:
        module = sys.modules.get(one.__module__)
        file = getattr(module, "__file__", None)
        if file is None or one.__module__.split(".")[0] in ("builtins", "abc", "typing"):
            continue
        path = Path(file)
        # A method that is a package (unstar) is all its files; one that is a file beside others is that file.
        own_package = path.parent if one.__module__.count(".") >= 2 and not one_file else None
        for part in sorted([*own_package.glob("*.py"), *own_package.glob("*.yaml")]) if own_package else [path]:
            digest.update(f"{part.name}\0{file_hash(part)}\n".encode())
    return digest.hexdigest()
