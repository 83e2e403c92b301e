"""Names of pages, made from checked ids and hashes alone, and links that are safe to follow."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

RUN_ID = re.compile(r"[0-9a-f]{12}")
_OWN = re.compile(r"unbench:([a-z0-9_]{1,40})")
_TASK = re.compile(r"([a-z0-9_]{1,24})/([a-z0-9_]{1,24})")
_ARXIV = re.compile(r"(?:arxiv:|https://arxiv\.org/(?:abs|pdf)/)?(\d{4}\.\d{4,5})(?:v\d+)?", re.IGNORECASE)
_DOI = re.compile(r"(?:doi:|https://doi\.org/)?(10\.\d{4,9}/[-A-Za-z0-9._;()/:]+)", re.IGNORECASE)
_LINK = re.compile(r"https://[^\s\"'<>`\\]+")


def method_page(method: str) -> str:
    """Address of a method's page: a built-in's name, else a hash."""
    own = _OWN.fullmatch(method)
    return f"methods/{own[1] if own else f'm-{_short(method)}'}.html"


def board_id(task: str, task_hash: str, model: str) -> str:
    """Id of a board: words where they are plain, and a hash always."""
    slug = re.sub(r"[^a-z0-9]+", "-", f"{task}-{model}".lower()).strip("-")[:48]
    # Different names may have the same slug.
    return f"{slug}-{_short(task, task_hash, model)[:8]}"


def board_page(ident: str) -> str:
    """Address of a board's own page."""
    return f"boards/{ident}.html"


def task_page(task: str, task_hash: str) -> str:
    """Address of a task version's page."""
    plain = _TASK.fullmatch(task)
    return f"tasks/{f'{plain[1]}-{plain[2]}' if plain else 't'}-{_short(task, task_hash)[:8]}.html"


def run_pages(keys: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Name (without ending) of each run's page by its key, whose last part is the run-id: the run-id where it is one
    and no other run has it, else a hash."""
    known = list(keys)
    counts = Counter(key[-1] for key in known)
    return {
        key: key[-1] if RUN_ID.fullmatch(key[-1]) and counts[key[-1]] == 1 else f"r-{_short(*key)}" for key in known
    }


def paper_link(paper: str | None) -> str | None:
    """Address of a paper given as an arXiv number, a DOI or an https link; None where it is none of these."""
    text = (paper or "").strip()
    if found := _ARXIV.fullmatch(text):
        return f"https://arxiv.org/abs/{found[1]}"
    if found := _DOI.fullmatch(text):
        return f"https://doi.org/{found[1]}"
    return text if _LINK.fullmatch(text) else None


def _short(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:12]
