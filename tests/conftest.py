"""Shared fixtures: no hub, a cache of the test session's own."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from unbench.contract_world import World
    from unbench.method import UnlearnContext

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The models here are tiny: more threads cost more than they bring, and starve when anything else runs.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    # Tests must not read what an earlier version of the code left in the user's cache. A session may share one by
    # UNBENCH_TEST_CACHE, which spares the download of SmolLM2.
    os.environ["UNBENCH_CACHE"] = os.environ.get("UNBENCH_TEST_CACHE") or str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """The command line sets the root logger up; what one test says by it must not silence the next."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose target has learnt little: the arithmetic needs no more, and gradients stay large."""
    from unbench.contract_world import build_world

    return build_world(tmp_path_factory.mktemp("world"), steps=12)


@pytest.fixture
def make_context(world: World, tmp_path: Path) -> Callable[..., UnlearnContext]:
    """What a method is given on that world."""
    from unbench.contract_world import context_for
    from unbench.method import TrainSettings

    def make(kind: str = "full", double: bool = False, name: str = "run", **changes: Any) -> UnlearnContext:
        train = changes.pop("train", TrainSettings(kind=kind))  # type: ignore[arg-type]
        context, _ = context_for(world, tmp_path / name, train, double=double, **changes)
        return context

    return make
