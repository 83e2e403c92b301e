"""An ``HFEngine`` in a process of its own: ``Worker`` is its handle, ``main`` what the process does.

They speak JSON lines over the process's standard input and output: nothing is unpickled, a script of the user's is not
imported again, and the process ends when the handle's does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import unbench
from unbench.engines.base import EngineStats, Generation, Sampling, ScoreRequest, TokenScores
from unbench.errors import EnvironmentProblem, RunFailed, UnbenchError, UsageError
from unbench.method import Unlearned

ERRORS: dict[str, type[Exception]] = {e.__name__: e for e in (UsageError, EnvironmentProblem, RunFailed, ValueError)}
"""What goes over as itself; anything else comes back as ``RunFailed``."""


class Worker:
    """Serves like an ``HFEngine``. It starts to load at once; the first call waits for it."""

    def __init__(self, target: Path, device: str, dtype: str | None = None, batch_size: int | None = None) -> None:
        self.stats = EngineStats()
        self.progress: Callable[[str, int, int], None] | None = None
        self.device = device
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        # The package as this process found it, installed or not.
        path = os.pathsep.join(filter(None, [str(Path(unbench.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "unbench.engines.hf_worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        self._send({"target": str(target), "device": device, "dtype": dtype, "batch_size": batch_size})
        self._waits = True
        """For the word that the model is loaded."""

    def wait(self) -> None:
        """Until the model is loaded. Raises what loading raised."""
        if self._waits:
            self._waits = False
            self._answer()

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, numbers: Sequence[int] | None = None
    ) -> list[Generation]:
        places = None if numbers is None else list(numbers)
        found = self._call("generate", list(prompts), asdict(sampling), places)
        return [Generation(**one) for one in found]

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[TokenScores]]:
        found = self._call("score", [asdict(request) for request in requests])
        return [[TokenScores(**one) for one in request] for request in found]

    def gradient_norms(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        found: list[list[float]] = self._call("gradient_norms", [asdict(request) for request in requests])
        return found

    def load(self, unlearned: Unlearned) -> None:
        self._call("load", None if unlearned.weights is None else str(Path(unlearned.weights).resolve()))

    def close(self) -> None:
        """End the process, whatever it is doing: it holds nothing that isn't on disk."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            # What was still to be written to a process that is gone.
            with suppress(OSError):
                if stream is not None:
                    stream.close()

    def _call(self, name: str, *values: Any) -> Any:
        self.wait()
        self._send([name, *values])
        return self._answer()

    def _send(self, message: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as problem:
            raise self._ended() from problem

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        while True:
            try:
                line = self._process.stdout.readline()
            except (OSError, ValueError) as problem:
                raise self._ended() from problem
            if not line.endswith(b"\n"):
                raise self._ended()
            kind, value = json.loads(line)
            if kind == "progress":
                if self.progress is not None:
                    self.progress(*value)
            elif kind == "error":
                raise ERRORS[value[0]](*value[1:])
            else:
                self.stats = EngineStats(**value["stats"])
                return value["answer"]

    def _ended(self) -> RunFailed:
        last = ""
        if not self._log.closed:
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").strip().splitlines()
            last = f": {lines[-1]}" if lines else ""
        return RunFailed(
            f"The process that served {self.device} ended before it had answered{last}.",
            "Use one device only (--device cuda:0, say), and add --resume.",
        )


def main() -> None:
    """Serve one engine until the input ends."""
    # Ctrl-C reaches the whole group of processes; the one that started this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints

    def tell(kind: str, value: Any) -> None:
        answers.write(json.dumps([kind, value]) + "\n")
        answers.flush()

    engine: Any = None
    for line in sys.stdin:
        try:
            message = json.loads(line)
            if engine is None:
                engine, answer = _open(**message), None
                engine.progress = lambda *values: tell("progress", values)
            else:
                answer = _serve(engine, *message)
        except Exception as problem:
            tell("error", _described(problem))
        else:
            tell("answer", {"answer": answer, "stats": asdict(engine.stats)})


def _open(target: str, device: str, dtype: str | None, batch_size: int | None) -> Any:
    import torch

    from unbench.engines.hf import HFEngine

    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    return HFEngine.open(target, device, None if dtype is None else getattr(torch, dtype), batch_size)


def _serve(engine: Any, name: str, *values: Any) -> Any:
    if name == "generate":
        prompts, sampling, numbers = values
        sampling["stop"] = tuple(sampling["stop"])
        return [asdict(one) for one in engine.generate(prompts, Sampling(**sampling), numbers)]
    if name == "gradient_norms":
        return engine.gradient_norms([ScoreRequest(**request) for request in values[0]])
    if name == "score":
        found = engine.score([ScoreRequest(**request) for request in values[0]])
        return [[asdict(one) for one in request] for request in found]
    return engine.load(Unlearned(None if values[0] is None else Path(values[0])))


def _described(problem: Exception) -> list[str | None]:
    if isinstance(problem, UnbenchError) and type(problem).__name__ in ERRORS:
        return [type(problem).__name__, problem.message, problem.try_next]
    if type(problem) is ValueError:
        return ["ValueError", str(problem)]
    from unbench.training.memory import is_out_of_memory

    first = next(iter(str(problem).strip().splitlines()), "")
    if is_out_of_memory(problem):
        return [
            "EnvironmentProblem",
            f"Out of memory on a further device: {first}",
            "Use one device (--device cuda:0).",
        ]
    return [
        "RunFailed",
        f"A further device failed: {type(problem).__name__}: {first}",
        "Use one device (--device cuda:0).",
    ]


if __name__ == "__main__":
    main()
