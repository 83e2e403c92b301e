"""Runs in processes of their own, and what is left of them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

RUN = [sys.executable, "-m", "unbench", "--quiet", "run", "--method", "unstar", "--json", "--set", "rounds=1"]
FEW = ["--set", "paraphrases=3", "--set", "anti_samples_min=1", "--set", "steps=4", "--limit", "2"]
LONG_S = 300
"""After so many seconds something hangs."""


def unbench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "unbench", "--quiet", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def run(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, *words, "--out", str(out)], capture_output=True, text=True, check=False)


def wait_until(happened: Callable[[], object], what: str) -> None:
    end = time.monotonic() + LONG_S
    while not happened():
        assert time.monotonic() < end, f"{what}: waited in vain"
        time.sleep(0.05)


def children(pid: int) -> list[psutil.Process]:
    """All that a process started, and what these started."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def engines(pid: int) -> list[psutil.Process]:
    """The engines among them."""
    return [child for child in children(pid) if "unbench.engines.vllm_worker" in words_of(child)]


def words_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=20)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def left_of(out: Path) -> list[psutil.Process]:
    """Processes of the whole machine that have a file below ``out`` open, as an engine and all that it started have its
    log: whoever was left behind is no longer a child of the one that started it."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(Path(one.path).is_relative_to(out) for one in process.open_files()):
                found.append(process)
        except psutil.Error:
            continue
    return found
