"""Build nano from nothing: weights, then what the references answer (``unbench models build``)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from unbench import plugins, responses
from unbench.method import Progress
from unbench.task import Split, Task

SPLITS: tuple[Split, ...] = ("select", "report")


def nano_tasks() -> list[Task]:
    """Every task and split that nano serves."""
    family = plugins.tasks().load("bios")
    return [plugins.open_task(f"bios/{problem}", split) for problem in family.card.problems for split in SPLITS]


def build_everything(out: Path, progress: Progress) -> list[Path]:
    """Train base, target, references and the retrain control into ``out`` and ask the references every probe.

    Returns what was written. The package ships base, target and control (float16) and the references' responses."""
    from unbench.models.nano import REFERENCE_SEEDS, build_all

    build_all(out, progress)
    folders = [out / f"reference-{seed}" for seed in REFERENCE_SEEDS]
    return [*sorted(out.glob("*/model.safetensors")), *write_references(folders, out / "references", progress)]


def write_references(folders: Iterable[Path], out: Path, progress: Progress) -> list[Path]:
    """One Parquet file a task and split, holding what every reference answers to every probe."""
    import pandas as pd
    import torch

    from unbench.engines.hf import HFEngine
    from unbench.models.load import load_tokenizer

    tasks = nano_tasks()
    parts: dict[str, list[pd.DataFrame]] = {}
    for number, folder in enumerate(folders, start=1):
        tokenizer = load_tokenizer(folder)
        with HFEngine.open(folder, device="cpu", dtype=torch.float32) as engine:
            for task in tasks:
                frame = responses.respond(
                    engine,
                    tokenizer,
                    task.probes(),
                    role=f"reference-{number}",
                    max_new_tokens=task.max_new_tokens,
                    knowledge=task.knowledge,
                    progress=progress,
                )
                parts.setdefault(reference_name(task), []).append(responses.compact(frame))
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, frames in parts.items():
        responses.save(pd.concat(frames, ignore_index=True), out / name)
        written.append(out / name)
    return written


def reference_name(task: Task) -> str:
    """File name of a task's reference responses."""
    return f"{task.id.replace('/', '-')}-{task.split}.parquet"
