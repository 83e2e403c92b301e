"""The handle of a process that serves one vLLM engine (``vllm_worker``)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import unbench
from unbench.errors import EnvironmentProblem, RunFailed, UnbenchError

LAST_LINES = 3
"""Lines of the log that an error shows."""
LAST_CHARACTERS = 200
"""Most characters of each."""
SETTINGS = {
    # The engine lives in the process that we started: it starts in a quarter of the time and ends cleanly.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # All that it loads lies in folders.
    "HF_HUB_OFFLINE": "1",
}


class VLLMProcess:
    """Starts the process at once; the first ``receive`` waits until its model is loaded.

    ``arguments`` are those of ``vllm.LLM``, ``environment`` what is added to this process's own, and ``log`` the file
    that takes all that vLLM writes.
    """

    def __init__(self, arguments: Mapping[str, Any], log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        self._model = str(arguments["model"])
        self._ready = False
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            self._output = log.open("ab")
        except OSError as problem:
            raise EnvironmentProblem(
                f"{log} can't be written: {problem.strerror or problem}.", "Choose another --out folder."
            ) from problem
        self._start_of_log = self._output.tell()
        # The package as this process found it, installed or not.
        path = os.pathsep.join(filter(None, [str(Path(unbench.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        answers, writer = os.pipe()
        self._answers = os.fdopen(answers, "rb")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "unbench.engines.vllm_worker", str(writer)],
                stdin=subprocess.PIPE,
                stdout=self._output,
                stderr=self._output,
                env=os.environ | SETTINGS | {"PYTHONPATH": path} | dict(environment),
                pass_fds=[writer],
                # Ctrl-C reaches this process alone, which then ends the engine and all that it started.
                start_new_session=True,
            )
        finally:
            os.close(writer)
        self.send("start", **arguments)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, name: str, *values: Any, **options: Any) -> None:
        """Ask for a method of ``vllm_worker.Server``; ``receive`` gives its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([name, values, options]).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as problem:
            raise self._ended() from problem

    def receive(self, progress: Callable[[str, int, int], None] | None = None) -> Any:
        """The answer to what was sent. Raises ``EnvironmentProblem`` where the engine can't start, and ``RunFailed``
        where it fails or is gone."""
        while True:
            line = self._answers.readline()
            if not line.endswith(b"\n"):
                raise self._ended()
            kind, value = json.loads(line)
            if kind == "progress":
                if progress is not None:
                    progress(*value)
            elif kind == "error":
                raise self._failed(*value)
            else:
                self._ready = True
                return value

    def close(self) -> None:
        """End the process and all that it started, whatever they are doing: they hold nothing that isn't on disk."""
        # Before it is waited for: its number could be another's afterwards.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._answers, self._output):
            # What was still to be written to a process that is gone.
            with suppress(OSError):
                if stream is not None:
                    stream.close()

    def _failed(self, kind: str, text: str) -> UnbenchError:
        if self._ready:
            room = "give a smaller --batch-size or another --gpu-memory, and " if _of_memory(text) else ""
            return RunFailed(f"The vLLM engine failed: {kind}: {_first(text)}", self._again(room))
        return start_problem(self._model, kind, text, self.log)

    def _ended(self) -> UnbenchError:
        # What is left of its group (tensor parallel processes) would hold the device's memory.
        self.close()
        code = self._process.returncode
        how = f"was killed by {_signal(-code)}" if code < 0 else f"ended with code {code}"
        lines = "".join(f"\n  {line}" for line in self._last_lines())
        said = f" Its last lines:{lines}" if lines else ""
        if self._ready:
            return RunFailed(f"The vLLM engine {how} before it had answered.{said}", self._again())
        return EnvironmentProblem(
            f"The vLLM engine {how} while it started.{said}", f"Its log is {self.log}; --engine hf does without it."
        )

    def _again(self, first: str = "") -> str:
        return f"Its log is {self.log}; {first}give the command again, that of a run with --resume."

    def _last_lines(self) -> list[str]:
        with suppress(OSError), self.log.open("rb") as file:
            file.seek(max(self._start_of_log, file.seek(0, os.SEEK_END) - 8192))
            lines = file.read().decode(errors="replace").splitlines()
            return [line.strip()[:LAST_CHARACTERS] for line in lines if line.strip()][-LAST_LINES:]
        return []


def start_problem(model: str, kind: str, text: str, log: Path) -> EnvironmentProblem:
    """Why an engine doesn't start, in one sentence, by what vLLM says of it."""
    first = _first(text)
    if kind in ("ImportError", "ModuleNotFoundError"):
        return EnvironmentProblem(
            f"The vLLM that is installed can't be imported: {first}",
            "Install it in an environment of its own (README, 'vLLM'), or choose --engine hf.",
        )
    if _of_memory(text):
        # What vLLM says where others hold so much that its share isn't free; else the share itself is too small.
        share = "smaller" if "less than desired" in text else "larger"
        return EnvironmentProblem(
            f"There is too little memory for vLLM to serve {model}: {first}",
            f"Try a {share} --gpu-memory, a free device or --engine hf; the log is {log}.",
        )
    return EnvironmentProblem(f"vLLM can't serve {model}: {first}", f"Choose --engine hf; the log is {log}.")


def _of_memory(text: str) -> bool:
    return "memory" in text.lower() or "kv cache" in text.lower()


def _first(text: str) -> str:
    """The first line that says something, as a sentence; pydantic puts how many errors there are before it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and "validation error" in lines[0]:
        lines = lines[1:]
    first = lines[0] if lines else "no reason given"
    first = first if len(first) <= 2 * LAST_CHARACTERS else f"{first[: 2 * LAST_CHARACTERS]} …"
    return first if first.endswith((".", "…", "!", "?")) else f"{first}."


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
