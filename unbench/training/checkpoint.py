"""Checkpoints: a training that was killed goes on where it was, with the same bits as one that was left alone.

A run's trainings are numbered in the order in which its method starts them (UnSTAR's rounds, say). A method that is
run again repeats what leads up to a training (the same seed, the same draws) and finds there what was saved: a
training that had ended takes the weights it ended with, one that was broken off goes on at its last saved step.

A checkpoint is ``training-<n>/step-<s>/`` with ``state.safetensors`` (weights that are trained, the optimiser's
tensors, random states) and ``state.json``; no pickle is written or read. With several processes the first one writes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from unbench.training.weights import trainable

log = logging.getLogger(__name__)

SCHEMA = "unbench.checkpoint/1"
TENSORS, STATE = "state.safetensors", "state.json"


@dataclass
class Saved:
    """A training as it was after some step."""

    step: int
    done: bool
    """Whether the training had ended (there is no optimiser state then)."""
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor] = field(default_factory=dict)
    """By place in the optimiser's ``state_dict``: ``0.exp_avg`` …"""
    rng: dict[str, torch.Tensor] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    """JSON values: usage of this training, the method's own state, Python's random state."""


class Checkpoints:
    """The checkpoints of one run's unlearning, below ``folder``. ``key`` says what made them: others are passed over.

    ``every``: seconds between two. ``writes``: whether this process saves (the others of several only read)."""

    def __init__(self, folder: Path, every: float, key: str = "", writes: bool = True) -> None:
        self.folder = folder
        self.every = every
        self.key = key
        self.writes = writes
        self._trainings = 0
        self._last = self._started = time.monotonic()
        self.before = 0.0
        """Seconds of work that led to the checkpoint that was gone on from."""

    def next(self) -> Training:
        """The training that begins now."""
        number = self._trainings
        self._trainings += 1
        return Training(self, self.folder / f"training-{number}")

    @property
    def due(self) -> bool:
        """Whether it is time to save again."""
        return self.writes and time.monotonic() - self._last >= self.every

    @property
    def elapsed(self) -> float:
        """Seconds of work so far; those before a resume count up to its checkpoint."""
        return self.before + time.monotonic() - self._started

    def saved(self) -> None:
        """Start counting the seconds anew."""
        self._last = time.monotonic()

    def went_on(self, elapsed: float) -> None:
        """Take over the seconds of work that led to a checkpoint."""
        self.before = max(self.before, elapsed)


class Training:
    """The checkpoints of one training."""

    def __init__(self, run: Checkpoints, folder: Path) -> None:
        self.run = run
        self.folder = folder
        self.kept = False

    def load(self, fingerprint: Callable[[], str]) -> Saved | None:
        """The last whole checkpoint of this very training; None where there is none."""
        steps = [path for path in self.folder.glob("step-*") if path.name.removeprefix("step-").isdigit()]
        for path in sorted(steps, key=lambda path: int(path.name.removeprefix("step-")), reverse=True):
            try:
                body = json.loads((path / STATE).read_text(encoding="utf-8"))
                tensors = load_file(path / TENSORS)
                found = _unpack(body, tensors)
            except (OSError, ValueError, KeyError, SafetensorError):
                continue
            if body["fingerprint"] != digest([self.run.key, fingerprint()]):
                log.warning("The checkpoint %s is of another training; this one starts from its beginning.", path)
                return None
            self.kept = True
            self.run.went_on(body["elapsed_s"])
            return found
        return None

    def save(self, found: Saved, fingerprint: Callable[[], str]) -> None:
        """Write a checkpoint and remove the one before it. A disk that is full costs the checkpoint, not the run."""
        final = self.folder / f"step-{found.step}"
        partial = self.folder / f".step-{found.step}.partial"
        body = {**found.body, "schema": SCHEMA, "step": found.step, "done": found.done,
                "fingerprint": digest([self.run.key, fingerprint()]), "elapsed_s": self.run.elapsed}  # fmt: skip
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            save_file(_pack(found), partial / TENSORS)
            (partial / STATE).write_text(json.dumps(body), encoding="utf-8")
            shutil.rmtree(final, ignore_errors=True)
            os.replace(partial, final)
        except (OSError, SafetensorError) as problem:
            log.warning("No checkpoint could be written to %s (%s); the training goes on.", self.folder, problem)
            shutil.rmtree(partial, ignore_errors=True)
        else:
            self.kept = True
            for path in self.folder.glob("step-*"):
                if path != final:
                    shutil.rmtree(path, ignore_errors=True)
        self.run.saved()


def take(model: Any, optimizer: torch.optim.Optimizer | None, step: int, body: dict[str, Any]) -> Saved:
    """The state of a training after ``step``; without its optimiser it is one that has ended."""
    weights = {name: p.detach() for name, p in trainable(model).items()}
    saved = Saved(step, optimizer is None, weights, body=body)
    if optimizer is not None:
        for place, values in optimizer.state_dict()["state"].items():
            saved.optimizer |= {f"{place}.{key}": value for key, value in values.items()}
        saved.rng, saved.body = _random_states(model), {**body, "python_random": random.getstate()}
    return saved


def put_back(saved: Saved, model: Any, optimizer: torch.optim.Optimizer | None) -> None:
    """Give ``model`` and ``optimizer`` the saved state. Random states are put back by ``put_back_random``."""
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(saved.weights[name])
    if optimizer is not None:
        state = optimizer.state_dict()
        values: dict[int, dict[str, Any]] = {}
        for key, tensor in saved.optimizer.items():
            place, _, name = key.partition(".")
            values.setdefault(int(place), {})[name] = tensor
        optimizer.load_state_dict({**state, "state": values})


def put_back_random(saved: Saved) -> None:
    """Go on with the saved random numbers (Python's, numpy's, torch's)."""
    version, numbers, gauss = saved.body["python_random"]
    random.setstate((version, tuple(numbers), gauss))
    position, has_gauss, *keys = saved.rng["numpy"].tolist()
    cached = float(saved.rng["numpy_gauss"])
    np.random.set_state(("MT19937", np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(saved.rng["torch"])
    if "cuda" in saved.rng:
        torch.cuda.set_rng_state(saved.rng["cuda"])


def _random_states(model: Any) -> dict[str, torch.Tensor]:
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    numbers = [int(position), int(has_gauss), *(int(key) for key in keys)]
    found = {
        "numpy": torch.tensor(numbers, dtype=torch.int64),
        "numpy_gauss": torch.tensor(float(cached), dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if next(model.parameters()).is_cuda:
        found["cuda"] = torch.cuda.get_rng_state()
    return found


def digest(parts: Iterable[object]) -> str:
    """SHA-256 over ``repr`` of each part."""
    found = hashlib.sha256()
    for part in parts:
        found.update(repr(part).encode() + b"\0")
    return found.hexdigest()


def _pack(saved: Saved) -> dict[str, torch.Tensor]:
    parts = {"weights": saved.weights, "optimizer": saved.optimizer, "rng": saved.rng}
    return {
        f"{part}/{name}": tensor.detach().cpu().contiguous()
        for part, tensors in parts.items()
        for name, tensor in tensors.items()
    }


def _unpack(body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Saved:
    if body["schema"] != SCHEMA:
        raise ValueError(f"not {SCHEMA}")
    parts: dict[str, dict[str, torch.Tensor]] = {"weights": {}, "optimizer": {}, "rng": {}}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        parts[part][name] = tensor
    return Saved(int(body["step"]), bool(body["done"]), **parts, body=body)
