"""What the benchmarks share: a Markdown table, the machine in words, a block of the README between its marks."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

README = Path(__file__).parent / "README.md"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; the first row is its head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    out = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    out.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return out


def machine(device: str) -> str:
    """Processor or GPU, threads and torch."""
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    else:
        path = Path("/proc/cpuinfo")
        lines = path.read_text().splitlines() if path.is_file() else []
        found = [line for line in lines if line.startswith("model name")]
        name = found[0].partition(":")[2].strip() if found else platform.processor() or platform.machine()
        name += f", {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{name}; torch {torch.__version__}"


def write(text: str, begin: str, end: str) -> None:
    """Put ``text`` between two marks of the benchmarks' README."""
    page = README.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    README.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
