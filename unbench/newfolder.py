"""A new folder of files filled in for the user: ``unbench new-task`` and ``unbench new-method``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from unbench.errors import EnvironmentProblem, UsageError


def write_new(folder: Path, texts: Mapping[str, str]) -> None:
    """Writes ``folder`` with ``texts`` by file name, whole or not at all.

    Raises ``UsageError`` where something of that name is there already, ``EnvironmentProblem`` where it can't be
    written.
    """
    if os.path.lexists(folder):
        raise UsageError(f"{folder} is there already, and nothing is overwritten.", "Take another name, or --out DIR.")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            for file, text in texts.items():
                path = partial / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8", newline="\n")
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as problem:
        raise EnvironmentProblem(
            f"{folder} can't be written ({problem.strerror or problem}).", "Name another folder with --out."
        ) from problem
