"""A folder like TOFU's with rows of our own: 6 authors, of whom the last 3 stand in forget10, and 3 strangers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

AUTHORS = 6
SAME_QUESTION = "What is the full name of the author?"
"""Asked of two authors, as in TOFU."""


def row(author: str, i: int) -> dict[str, Any]:
    """A question with everything a perturbed file has: accents, slashes and quotes, to try how files are written."""
    said = "is" if i % 2 else "was"
    return {
        "question": f'What did {author} write in "year {i}" (née/né)?',
        "answer": f"In year {i} {author} wrote The Book of {i} Häuser.",
        "paraphrased_answer": f"The Book of {i} Häuser {said} what {author} wrote in year {i}.",
        "perturbed_answer": [f"{author} wrote The {word}/{i}." for word in ("Sea", "Sky", "Oak", "Ice", "Sun")],
        "paraphrased_question": f"Which book of the year {i} {said} by {author}?",
    }


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"question": r["question"], "answer": r["answer"]} for r in rows]


def tables() -> dict[str, list[dict[str, Any]]]:
    """Rows of every file that a problem may read."""
    full = [row(f"Author {a}", i) for a in range(AUTHORS) for i in range(20)]
    for i in (0, 40):
        full[i]["question"] = SAME_QUESTION
    # Two wrong answers alike, one of them like the answer; and a reworded answer that says the very same.
    full[-1]["perturbed_answer"] = ["Wrong.", full[-1]["answer"], "Wrong.", "Other.", "Third."]
    full[-2]["paraphrased_answer"] = full[-2]["answer"]
    holdout = [row(f"Stranger {a}", i) for a in range(3) for i in range(20)]
    found = {"full": plain(full), "retain_perturbed": full[:40]}
    for size, n in (("01", 20), ("05", 40), ("10", 60)):
        found[f"forget{size}_perturbed"] = full[-n:]
        found[f"forget{size}"] = plain(full[-n:])
        found[f"retain{100 - int(size)}"] = plain(full[:-n])
        found[f"holdout{size}"] = plain(holdout[:n])
    for kind in ("real_authors", "world_facts"):
        found[f"{kind}_perturbed"] = [
            {"question": f"{kind} {i}?", "answer": f"Right {i}", "perturbed_answer": ["A", "B", "C"]} for i in range(3)
        ]
    return found


def write(folder: Path) -> dict[str, str]:
    """Write every file into ``folder``; its checksums by name. Some end with a newline, as in TOFU."""
    folder.mkdir(parents=True, exist_ok=True)
    checksums = {}
    for name, rows in tables().items():
        text = "\n".join(json.dumps(r, separators=(",", ":")) for r in rows).replace("/", "\\/")
        raw = (text + "\n" * name.startswith("holdout")).encode()
        (folder / f"{name}.json").write_bytes(raw)
        checksums[name] = hashlib.sha256(raw).hexdigest()
    return checksums
