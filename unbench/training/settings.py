"""How training is carried out on this machine, as opposed to what is trained. Imports no torch."""

from __future__ import annotations

import re
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from unbench.errors import EnvironmentProblem

ReportTo = Literal["none", "tensorboard", "wandb"]


class MachineSettings(BaseModel):
    """None of these changes a number beyond rounding, so they stay out of the run-id."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    num_processes: int = Field(default=1, ge=1, description="processes that share each training step")
    gradient_checkpointing: bool | None = Field(
        default=None, description="recompute activations to save memory; null: on a GPU, above 1 B parameters"
    )
    report_to: ReportTo = Field(default="none", description="where learning curves are sent while training")
    checkpoint_every: float = Field(
        default=600.0, ge=0, description="seconds between checkpoints of the training, which --resume goes on from"
    )


def check_reporter(report_to: ReportTo) -> None:
    """Raises ``EnvironmentProblem`` where the package that would take the curves is not installed."""
    packages = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}.get(report_to, ())
    if packages and not any(find_spec(package) for package in packages):
        raise EnvironmentProblem(
            f"--report-to {report_to} needs the package {packages[0]}, which is not installed.",
            f"pip install {packages[0]}, or leave the option out ('unbench show RUN --curve' draws the curves too).",
        )


def curve_folder(folder: Path, description: str) -> Path:
    """A folder of its own for each training of a run, so that their steps don't mix in TensorBoard."""
    name = re.sub(r"[^a-z0-9]+", "-", description.lower()).strip("-") or "training"
    found = next(path for n in count(1) if not (path := folder / f"{name}-{n}").exists())
    found.mkdir(parents=True)
    return found
