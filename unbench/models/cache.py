"""The cache of prepared models and responses: ``UNBENCH_CACHE``, else the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

HASHED_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt", ".gguf")
PART_FILE = "prepared.json"
"""How a prepared model came to be. It lies beside the weights and isn't hashed: it changes nothing about them."""


def cache_root() -> Path:
    """Folder of everything that can be made again."""
    named = os.environ.get("UNBENCH_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "unbench"


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """``folder``, built under a temporary name and renamed; a half-built one is never seen."""
    if folder.is_dir():
        return folder
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        build(temporary)
        try:
            os.replace(temporary, folder)
        except OSError:
            # Another process finished the same build first: its folder serves as well.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def file_hash(path: Path) -> str:
    """SHA-256 of one file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_hash(folder: Path) -> str:
    """SHA-256 over names and contents of a model folder's weight, configuration and tokenizer files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in HASHED_SUFFIXES and p.name != PART_FILE):
        digest.update(f"{path.name}\0{file_hash(path)}\n".encode())
    return digest.hexdigest()
