"""Many pages on two cores: a function over a list, in worker processes where that is safe and pays."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")
WORKERS = 2
WORTH = 64
"""Things below which a second process costs more than it brings."""
_job: tuple[Callable[[Any], Any], Sequence[Any]] | None = None
"""A worker's own work, which it inherits by the fork: nothing but numbers travels to it. Never set in the parent."""


class Spread(Protocol):
    """A map that may work side by side; results in the order of the things."""

    def __call__(self, function: Callable[[T], R], things: Sequence[T], /) -> list[R]: ...


def in_turn(function: Callable[[T], R], things: Sequence[T], /) -> list[R]:
    """One after the other."""
    return [function(thing) for thing in things]


def side_by_side(function: Callable[[T], R], things: Sequence[T], /) -> list[R]:
    """In two forked processes where the system forks safely, there is no other thread, and there is a second core;
    else one after the other."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    if len(things) < 2 or cores < 2 or threading.active_count() > 1 or multiprocessing.current_process().daemon:
        return in_turn(function, things)
    gc.freeze()  # collecting would copy what both processes share
    try:
        with multiprocessing.get_context("fork").Pool(WORKERS, _begin, (function, things)) as pool:
            found: list[R] = pool.map(_one, range(len(things)), chunksize=max(1, min(20, len(things) // 8)))
            return found
    finally:
        gc.unfreeze()


def spread_over(count: int) -> Spread:
    """How to work on ``count`` things."""
    return side_by_side if count >= WORTH else in_turn


def _begin(function: Callable[[Any], Any], things: Sequence[Any]) -> None:
    global _job
    _job = (function, things)


def _one(index: int) -> Any:
    if _job is None:
        raise RuntimeError("a worker without its job")
    function, things = _job
    return function(things[index])
