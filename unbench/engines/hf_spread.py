"""One pass over several GPUs of a machine: every device gets a part of the work, and the answers come back in order.

Each further device is served by a process of its own (``hf_worker``), for in one process all devices would wait for
the same Python: a step of generation is mostly that. (``accelerate launch`` would start the whole run once a device,
its training and its files too; here only the pass is spread, and the user starts nothing.) The answers are those of one
engine, but for rounding: equal prompts stay together, and a sampled text depends on its prompt's place in the call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

from unbench.engines.base import Closing, EngineStats, Generation, Sampling, ScoreRequest, TokenScores
from unbench.method import Unlearned

Answer = TypeVar("Answer")


class Part(Protocol):
    """An engine on one device: ``HFEngine``, or ``hf_worker.Worker`` for one in a process of its own."""

    stats: EngineStats
    progress: Callable[[str, int, int], None] | None

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, numbers: Sequence[int] | None = None
    ) -> list[Generation]: ...

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[TokenScores]]: ...

    def gradient_norms(self, requests: Sequence[ScoreRequest]) -> list[list[float]]: ...

    def load(self, unlearned: Unlearned) -> None: ...

    def close(self) -> None: ...


class SpreadEngine(Closing):
    """An engine made of one a device. A context manager.

    ``start`` makes the further parts; it is called once, by the first call that asks for at least ``worth`` tokens:
    less is done by ``first`` alone, before the others would have loaded the model.
    """

    def __init__(self, first: Part, start: Callable[[], Sequence[Part]], worth: int = 0) -> None:
        self.stats = EngineStats()
        self.progress: Callable[[str, int, int], None] | None = None
        """Told what is done of a ``generate`` or ``score`` call, in sequences, over all parts."""
        self._parts = [first]
        self._start: Callable[[], Sequence[Part]] | None = start
        self._worth = worth
        self._unlearned: Unlearned | None = None
        self._lock = threading.Lock()

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Generation]:
        """As ``HFEngine.generate``."""
        start = time.perf_counter()
        costs = [len(prompt) + sampling.max_new_tokens for prompt in prompts]

        def ask(part: Part, places: list[int]) -> list[Generation]:
            return part.generate([prompts[i] for i in places], sampling, places)

        out = self._each(prompts, costs, ask)
        self.stats.generate_s += time.perf_counter() - start
        return out

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[TokenScores]]:
        """As ``HFEngine.score``."""
        start = time.perf_counter()
        out = self._each_request(requests, lambda part, share: part.score(share))
        self.stats.score_s += time.perf_counter() - start
        return out

    def gradient_norms(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """As ``HFEngine.gradient_norms``."""
        return self._each_request(requests, lambda part, share: part.gradient_norms(share))

    def load(self, unlearned: Unlearned) -> None:
        """Swap the weights in place, on every device."""
        self._unlearned = unlearned
        self._load(self._parts, unlearned)

    def close(self) -> None:
        for part in reversed(self._parts):
            part.close()

    def _each_request(
        self, requests: Sequence[ScoreRequest], ask: Callable[[Part, list[ScoreRequest]], list[Answer]]
    ) -> list[Answer]:
        costs = [len(request.prompt) + sum(map(len, request.continuations)) for request in requests]
        prompts = [request.prompt for request in requests]
        return self._each(prompts, costs, lambda part, places: ask(part, [requests[i] for i in places]))

    def _each(
        self, prompts: Sequence[list[int]], costs: Sequence[int], ask: Callable[[Part, list[int]], list[Answer]]
    ) -> list[Answer]:
        """Every part's answers to its share, in the order of ``prompts``."""
        parts = self._ready(sum(costs))
        shares = split(prompts, costs, len(parts))
        done = [(0, 0)] * len(parts)
        for number, part in enumerate(parts):
            part.progress = partial(self._report, done, number)
        with ThreadPoolExecutor(len(parts)) as pool:
            running = [pool.submit(ask, part, share) for part, share in zip(parts[1:], shares[1:], strict=True)]
            try:
                found = [ask(parts[0], shares[0]), *(one.result() for one in running)]
            except BaseException:
                # Ctrl-C, or one device out of memory: the others need not go on to their end.
                for part in parts[1:]:
                    part.close()
                raise
            finally:
                for part in parts:
                    part.progress = None
                self._count()
        out: dict[int, Answer] = {}
        for share, answers in zip(shares, found, strict=True):
            out.update(zip(share, answers, strict=True))
        return [out[i] for i in range(len(prompts))]

    def _ready(self, tokens: int) -> list[Part]:
        if self._start is not None and tokens >= self._worth:
            started, self._start = self._start(), None
            self._parts += started
            if self._unlearned is not None:
                self._load(started, self._unlearned)
        return self._parts

    def _load(self, parts: Sequence[Part], unlearned: Unlearned) -> None:
        # Each device reads the weights itself, so they may as well do it at once.
        with ThreadPoolExecutor(max(1, len(parts))) as pool:
            for one in [pool.submit(part.load, unlearned) for part in parts]:
                one.result()

    def _report(self, done: list[tuple[int, int]], number: int, what: str, finished: int, total: int) -> None:
        with self._lock:
            done[number] = (finished, total)
            if self.progress is not None:
                self.progress(what, sum(one for one, _ in done), sum(one for _, one in done))

    def _count(self) -> None:
        self.stats.tokens_generated = sum(part.stats.tokens_generated for part in self._parts)
        self.stats.tokens_scored = sum(part.stats.tokens_scored for part in self._parts)
        for note in [note for part in self._parts for note in part.stats.notes]:
            if note not in self.stats.notes:
                self.stats.notes.append(note)


def split(prompts: Sequence[Sequence[int]], costs: Sequence[int], parts: int) -> list[list[int]]:
    """Places in ``prompts`` for each part, ascending: like costs, like lengths, equal prompts together.

    The dearest prompt first, each to the part that has least so far; no random numbers, so it is the same every time.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt), []).append(place)
    dearest = sorted(groups.values(), key=lambda places: (-sum(costs[i] for i in places), places[0]))
    shares: list[list[int]] = [[] for _ in range(parts)]
    loads = [0] * parts
    for places in dearest:
        least = loads.index(min(loads))
        shares[least] += places
        loads[least] += sum(costs[i] for i in places)
    return [sorted(share) for share in shares]
