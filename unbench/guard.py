"""The target's files while a method is at work: every method and seed starts from them, so they must stay whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unbench.errors import RunFailed
from unbench.models.cache import HASHED_SUFFIXES, PART_FILE

KEPT_BYTES = 64 * 2**20
"""Folders up to this size are kept in memory, compared byte for byte and put back; larger ones are told by the size
and time of their files."""


@dataclass(frozen=True)
class Snapshot:
    """The files that make a model, before a method began."""

    folder: Path
    marks: dict[str, tuple[int, int]]
    """Size and time of change by file name."""
    kept: dict[str, bytes] | None
    """The bytes themselves, where they are few."""

    @classmethod
    def of(cls, folder: Path) -> Snapshot:
        files = _files(folder)
        marks = {name: _mark(path) for name, path in files.items()}
        small = sum(size for size, _ in marks.values()) <= KEPT_BYTES
        return cls(folder, marks, {name: path.read_bytes() for name, path in files.items()} if small else None)

    def changed(self) -> list[str]:
        """Names of the files that are no longer as they were, gone or new."""
        now = _files(self.folder)
        found = [name for name in now if name not in self.marks]
        for name in self.marks:
            if name not in now:
                found.append(name)
            elif self.kept is not None:
                if now[name].read_bytes() != self.kept[name]:
                    found.append(name)
            elif _mark(now[name]) != self.marks[name]:
                found.append(name)
        return sorted(found)

    def restore(self, names: list[str]) -> bool:
        """Put the files back as they were; False where the folder was too large to keep."""
        if self.kept is None:
            return False
        for name in names:
            path = self.folder / name
            if name not in self.kept:
                path.unlink(missing_ok=True)
                continue
            # A hub model's files are links into a shared store: what they lead to is put back.
            real = path.resolve()
            temporary = real.with_name(f".{real.name}.{os.getpid()}.tmp")
            temporary.write_bytes(self.kept[name])
            os.replace(temporary, real)
        return True


@contextmanager
def untouched(folder: Path, method: str) -> Iterator[None]:
    """Raises ``RunFailed`` where ``method`` changed the target's files within the block, however the block ends."""
    before = Snapshot.of(folder)
    try:
        yield
    finally:
        changed = before.changed()
        if changed:
            restored = before.restore(changed)
            raise RunFailed(
                f"Method {method} changed the target on disk ({', '.join(changed[:3])}); "
                + ("it was put back." if restored else f"{folder} is damaged."),
                "It must train the copy that context.target.load() gives and write into context.folder."
                + ("" if restored else " Get the model's files again."),
            )


def _files(folder: Path) -> dict[str, Path]:
    """The files that ``folder_hash`` covers, by name."""
    return {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.suffix in HASHED_SUFFIXES and path.name != PART_FILE and path.is_file()
    }


def _mark(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
