"""Where the runs of a sweep lie: a folder, or anything that fsspec has a URL for (``s3://…``, ``file://…``)."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unbench.errors import EnvironmentProblem, UnbenchError
from unbench.results.store import RunFolder


class Place:
    """Reads and writes by names below a folder or URL."""

    def __init__(self, out: str) -> None:
        self.out = out
        self.is_url = "://" in out
        self._opened: tuple[Any, str] | None = None

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where there is none."""
        with self._refusals():
            filesystem, root = self._open()
            try:
                found: bytes = filesystem.cat_file(posixpath.join(root, name))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
            return found

    def write_json(self, name: str, value: Any) -> None:
        """Write a file of JSON."""
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        with self._refusals():
            filesystem, root = self._open()
            filesystem.makedirs(root, exist_ok=True)
            filesystem.pipe_file(posixpath.join(root, name), text.encode())

    def fetch(self, name: str, local: Path) -> None:
        """Bring a run's folder to ``local``, where an earlier call left one with more seeds to do."""
        with self._refusals():
            filesystem, root = self._open()
            above = posixpath.join(root, name)
            if not filesystem.exists(posixpath.join(above, "plan.json")):
                return
            for remote in filesystem.find(above):
                file = local / name / posixpath.relpath(remote, filesystem._strip_protocol(above))
                file.parent.mkdir(parents=True, exist_ok=True)
                filesystem.get_file(remote, str(file))

    def store(self, name: str, local: Path) -> None:
        """Put a run's folder there, its result last: where that lies, all lies. An unfinished run has none."""
        folder = local / name
        last = RunFolder(folder).result_file
        files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(".")]
        with self._refusals():
            filesystem, root = self._open()
            for file in sorted(files, key=lambda file: file == last):
                remote = posixpath.join(root, name, file.relative_to(folder).as_posix())
                filesystem.makedirs(posixpath.dirname(remote), exist_ok=True)
                filesystem.put_file(str(file), remote)

    def _open(self) -> tuple[Any, str]:
        if self._opened is None:
            import fsspec

            filesystem, root = fsspec.core.url_to_fs(self.out)
            self._opened = filesystem, root
        return self._opened

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except UnbenchError:
            raise
        except Exception as problem:
            # Every kind of storage has errors of its own; a missing driver is ImportError, a wrong scheme ValueError.
            why = " ".join(str(problem).split())[:200]
            raise EnvironmentProblem(
                f"{self.out} can't be read or written: {type(problem).__name__}: {why}.",
                "Name another folder or URL: --out.",
            ) from problem
