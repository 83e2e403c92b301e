"""TOFU's files: where they are looked for, and the checksums that pin them.

A file comes from the user's folder (``--data-dir``, else the environment variable ``UNBENCH_DATA``), else from the hub.
Either way its SHA-256 must be the pinned one, so results rest on the same rows wherever they were read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from unbench.errors import EnvironmentProblem, UsageError

RawRow = dict[str, Any]
"""One line of a file: question, answer and, where the file has them, the reworded and the wrong answers."""

REPOSITORY = "locuslab/TOFU"
REVISION = "324592d84ae4f482ac7249b9285c2ecdb53e3a68"
ENVIRONMENT = "UNBENCH_DATA"

CHECKSUMS: Mapping[str, str] = MappingProxyType(
    {
        "forget01": "d0047332bd27a489c552659831f4ffff080e2b9b6e063c7c951ac4de9d494a63",
        "forget01_perturbed": "d8d8a80bd25e853b52fad0e3301d86fa4db6bc2b665cd79ea937346186a0944a",
        "forget05": "88542818f98fd6f880ecaea71bc3f3e7a34f959944e5ff1cdef7ea8c5c137173",
        "forget05_perturbed": "7596c863a3f7eafb551a167363826f71a7327f28617a0a533fed06108a50ccdb",
        "forget10": "0044c8c2e70a38be93f62ec6cb1c1cc2a1f55a8df2fb549a4da2da8dde9d92f6",
        "forget10_perturbed": "6fbcb946c57ea1d7b2124cea0e61bf3b5409d1bc10d02368f090109450ed73c7",
        "full": "667baef2f26f781f1328701d8ea54bf25123ff22fb2d98574c96cd991cb54086",
        "holdout01": "4de5388d2e5927eab81f3d9fb491439b7c63359002452cfd3177a6c0977c08b5",
        "holdout05": "9617de2b6e99bfc65d90763db1b2cfd4f1e2cbc8b5c446e6dd62df7360c57df9",
        "holdout10": "efec32c7a7f66bfefaa90b8a4cc583296b0bbf882495db61076dec2d6edf44dd",
        "real_authors": "5ed86f884ecbefc3a5db0b9dfe84ab3db710690c74d9402c0acc14bc3dd5a4b7",
        "real_authors_perturbed": "a23255383ac75a5fbe5acd57622a03fb9c368954fd7b2428afa152b784d9533a",
        "retain90": "debcf019c41db7b30b62ca6ad41fd8a4bcd29a5b321c21d2961974e308dfca55",
        "retain95": "6625bb8e7e01f27a237bd273b961fcf2fb51568157702acdcd934b13398aa2fc",
        "retain99": "e699ae5fe685996cd7d0a60cbcbeae717e989a2fd0caf00b4d545ba39ccefc61",
        "retain_perturbed": "fc69f33bad70d3dca65920bdb54380039e3e8872dd16bbae20c1a839b99533fb",
        "world_facts": "5547b07340f46755b868a525941341c3d93814b5370ae7fa10143f653a3c7033",
        "world_facts_perturbed": "0e171838040d0ec94b1ce248d891508e85e3b77344370077caa27b61898eb3e1",
    }
)
"""SHA-256 of every file of the data set at ``REVISION``, by its hub configuration."""

SLICES: Mapping[str, tuple[str, slice]] = MappingProxyType(
    {
        "forget01": ("forget10", slice(-40, None)),
        "forget05": ("forget10", slice(-200, None)),
        "forget01_perturbed": ("forget10_perturbed", slice(-40, None)),
        "forget05_perturbed": ("forget10_perturbed", slice(-200, None)),
        "retain99": ("full", slice(3960)),
        "retain95": ("full", slice(3800)),
        "holdout01": ("holdout10", slice(40)),
        "holdout05": ("holdout10", slice(200)),
    }
)
"""Files that are slices of others. From the hub they are cut out of those: rows need no download twice."""

FIELDS = ("question", "answer", "paraphrased_answer", "perturbed_answer", "paraphrased_question")
"""The order in which the files write a row's fields."""

TRY_NEXT = (
    f"Name a folder that holds TOFU's files by --data-dir or {ENVIRONMENT}; with neither they come from the hub, which "
    "needs a network."
)


class Files:
    """Reads TOFU's files, each once and only when its rows are asked for.

    Args:
        folder: the user's folder; None for that of ``UNBENCH_DATA``, and where that is unset for the hub.
        checksums: SHA-256 by name.
        sources: filled with the SHA-256 of every file read, by file name.
    """

    def __init__(self, folder: Path | None, checksums: Mapping[str, str], sources: dict[str, str]) -> None:
        self._said_by = "--data-dir"
        if folder is None and os.environ.get(ENVIRONMENT):
            self._said_by, folder = ENVIRONMENT, Path(os.environ[ENVIRONMENT])
        self._folder = None if folder is None else Path(folder).expanduser()
        self._checksums = checksums
        self._sources = sources
        self._read: dict[str, list[RawRow]] = {}

    def rows(self, name: str) -> list[RawRow]:
        """Rows of ``<name>.json``.

        Raises:
            UsageError: the folder or the file in it is missing, or has another checksum.
            EnvironmentProblem: the file can't be opened, the hub can't be reached.
        """
        if name not in self._read:
            self._read[name] = self._from_hub(name) if self._folder is None else self._from_folder(self._folder, name)
            self._sources[f"{name}.json"] = self._checksums[name]
        return self._read[name]

    def _from_folder(self, folder: Path, name: str) -> list[RawRow]:
        if not folder.is_dir():
            raise UsageError(f"{folder} (from {self._said_by}) is not a folder, so {name}.json is missing.", TRY_NEXT)
        places = (folder / f"{name}.json", folder / "tofu" / f"{name}.json")
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise UsageError(
                f"TOFU's {name}.json is missing from {folder} (from {self._said_by}) and its folder tofu.", TRY_NEXT
            )
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise EnvironmentProblem(f"{path} can't be read: {error.strerror or error}.", TRY_NEXT) from error
        found = hashlib.sha256(raw).hexdigest()
        if found != self._checksums[name]:
            raise UsageError(
                f"{path} is not TOFU's {name}.json: its SHA-256 is {found}, not {self._checksums[name]}.",
                f"Get the file again, byte for byte as revision {REVISION[:8]} of {REPOSITORY} has it.",
            )
        return [json.loads(line) for line in raw.split(b"\n") if line]

    def _from_hub(self, name: str) -> list[RawRow]:
        whole, part = SLICES.get(name, (name, slice(None)))
        rows = (self.rows(whole) if whole != name else _download(name))[part]
        if self._checksums[name] not in _checksums_of(rows):
            raise EnvironmentProblem(
                f"The rows of {name} that the hub gave for {REPOSITORY} don't have the checksum of {name}.json.",
                f"Give a folder with the file of revision {REVISION[:8]} by --data-dir or {ENVIRONMENT}.",
            )
        return rows


def _download(name: str) -> list[RawRow]:
    """All rows of one hub configuration, fields in the files' order."""
    try:
        import datasets

        found = datasets.load_dataset(REPOSITORY, name, split="train", revision=REVISION)
    except Exception as problem:  # the hub's libraries raise many kinds, and all mean the same to the user
        said = str(problem).strip().partition("\n")[0].rstrip(".")
        raise EnvironmentProblem(
            f"TOFU's {name}.json can't be loaded from the hub: {type(problem).__name__}: {said}.", TRY_NEXT
        ) from problem
    return [{field: row[field] for field in FIELDS if field in row} for row in found]


def _checksums_of(rows: list[RawRow]) -> tuple[str, str]:
    """SHA-256 of the rows written as TOFU's files are: no spaces, ASCII, slashes escaped; some end with a newline.

    (real_authors and world_facts are written otherwise; no problem reads them, only their perturbed forms.)
    """
    lines = (json.dumps(row, separators=(",", ":")).replace("/", "\\/") for row in rows)
    body = hashlib.sha256("\n".join(lines).encode())
    ended = body.copy()
    ended.update(b"\n")
    return body.hexdigest(), ended.hexdigest()
