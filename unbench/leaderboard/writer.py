"""Where pages go: into a folder, whole or not at all, or against one that is compared."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

SECTIONS = {
    "runs": r"(?:[0-9a-f]{12}|r-[0-9a-f]{12})\.(?:html|json)",
    "methods": r"[a-z0-9_-]{1,60}\.html",
    "tasks": r"[a-z0-9_-]{1,70}\.html",
    "boards": r"[a-z0-9-]{1,70}\.html",
    "docs": r"index\.html",
}
"""Folders of the site, and the names of the pages that a build may have left there."""


DOCS = "docs/index.html"
"""Stands for the documentation until ``make site`` puts it there."""


class Writer:
    """Takes pages one by one under a temporary folder; ``finish`` moves them all into place, the index last, and takes
    away pages of earlier builds that are no longer made."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._room = out / f".build-{os.getpid()}"

    def begin(self) -> None:
        for section in SECTIONS:
            (self._room / section).mkdir(parents=True, exist_ok=True)

    def put(self, name: str, text: str) -> str | None:
        """Keep a file; may be called in a worker process."""
        (self._room / name).write_bytes(as_bytes(text))
        return None

    def finish(self, names: list[str]) -> None:
        for section in SECTIONS:
            (self.out / section).mkdir(exist_ok=True)
        for name in sorted(names, key=lambda name: (name == "index.html", name)):
            os.replace(self._room / name, self.out / name)
        for name in left_over(self.out, set(names)):
            (self.out / name).unlink()
        for section in SECTIONS:
            if not any((self.out / section).iterdir()):
                (self.out / section).rmdir()

    def end(self) -> None:
        """Leave nothing temporary behind."""
        shutil.rmtree(self._room, ignore_errors=True)


class Checker:
    """Compares pages with those that lie in a folder; ``put`` returns the name of one that differs."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def begin(self) -> None:
        """Nothing to prepare."""

    def put(self, name: str, text: str) -> str | None:
        try:
            same = (self.out / name).read_bytes() == as_bytes(text)
        except OSError:
            same = False
        return None if same else name

    def finish(self, names: list[str]) -> None:
        """Nothing to move."""

    def end(self) -> None:
        """Nothing to clean."""


def left_over(out: Path, made: set[str]) -> list[str]:
    """Pages in a site's folder that the build doesn't make."""
    found = []
    for section, pattern in SECTIONS.items():
        folder = out / section
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            name = f"{section}/{path.name}"
            if name not in made and re.fullmatch(pattern, path.name) and path.is_file():
                found.append(name)
    return found


def as_bytes(text: str) -> bytes:
    """UTF-8; halves of characters become question marks."""
    return text.encode("utf-8", errors="replace")
