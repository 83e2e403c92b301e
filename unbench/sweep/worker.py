"""What a worker process does: takes jobs as JSON lines on standard input, answers on standard output.

The packages are imported once for all its jobs. When the other end of its input goes away (the parent ended, however),
the process ends too, so that nothing is left behind.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from typing import Any

from unbench.sweep.job import Job, do

MIN_GAP_S = 0.2
"""Seconds between two words about the same step."""


def main() -> None:
    """Serve until the input ends."""
    # What libraries and methods print lands in the log: the real output is kept for answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    from unbench.cli.run import quiet_libraries

    quiet_libraries()
    while True:
        asked = jobs.get()
        job = Job.model_validate(asked["job"])
        print(f"--- {job.label}", file=sys.stderr, flush=True)
        outcome = do(job, _Teller(answers), asked["worker"])
        _say(answers, {"outcome": outcome.model_dump(mode="json")})


def _listen(jobs: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    os._exit(0)


def _say(answers: Any, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


class _Teller:
    """Passes progress on, not too often."""

    def __init__(self, answers: Any) -> None:
        self._answers = answers
        self._description = ""
        self._last = 0.0

    def __call__(self, description: str, done: int, total: int) -> None:
        now = time.monotonic()
        if description == self._description and now - self._last < MIN_GAP_S:
            return
        self._description, self._last = description, now
        _say(self._answers, {"progress": [description, done, total]})


if __name__ == "__main__":
    main()
