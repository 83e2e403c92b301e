"""Engines generate text and score answers: ``hf`` (transformers)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from unbench.engines.hf import HFEngine
    from unbench.engines.hf_spread import Part, SpreadEngine

WORTH = 1e13
"""Parameters × tokens of a call from which on further devices are started, once: a second or two of one GPU's work,
repeated for every role and seed, against ten seconds or more for a process to load the model."""


def open_engine(
    target: Path | str,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    batch_size: int | None = None,
) -> HFEngine | SpreadEngine:
    """An engine on a folder's model, a context manager. ``device`` "cuda" is every CUDA device that this process sees
    (the work is spread over them), "cuda:1" that one; ``dtype`` None is bfloat16 on CUDA and float32 elsewhere."""
    return spread(target, visible(device), dtype, batch_size)


def spread(
    target: Path | str, devices: Sequence[str], dtype: torch.dtype | None = None, batch_size: int | None = None
) -> HFEngine | SpreadEngine:
    """An engine on the devices named, the same one more than once if need be."""
    from unbench.engines.hf import HFEngine

    first = HFEngine.open(target, devices[0], dtype, batch_size)
    if len(devices) == 1:
        return first
    from unbench.engines.hf_spread import SpreadEngine

    def start() -> list[Part]:
        return _workers(Path(target), devices[1:], first, batch_size)

    return SpreadEngine(first, start, int(WORTH / first.parameters))


def visible(device: str) -> list[str]:
    """The devices that ``device`` names: all of CUDA's for "cuda", else that one."""
    import os

    import torch

    # Under torchrun or accelerate launch each process has a device of its own already.
    alone = int(os.environ.get("WORLD_SIZE") or 1) == 1
    if device != "cuda" or not alone or torch.cuda.device_count() < 2:
        return [device]
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def _workers(target: Path, devices: Sequence[str], first: HFEngine, batch_size: int | None) -> list[Part]:
    """One process a device, started together. A device that can't be had (its memory is taken) is noted, left out."""
    from unbench.engines.hf_worker import Worker
    from unbench.errors import UnbenchError

    workers = [Worker(target, device, str(first.dtype).removeprefix("torch."), batch_size) for device in devices]
    ready: list[Part] = []
    try:
        for worker in workers:
            try:
                worker.wait()
            except UnbenchError as problem:
                worker.close()
                first.stats.notes.append(f"{worker.device} was not used: {problem.message}")
            else:
                ready.append(worker)
    except BaseException:
        for worker in workers:
            worker.close()
        raise
    return ready
