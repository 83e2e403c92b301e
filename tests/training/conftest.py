from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unbench.contract_world import World, build_world, context_for
from unbench.method import TrainSettings, UnlearnContext


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose target has learnt little: the arithmetic needs no more, and gradients stay large."""
    return build_world(tmp_path_factory.mktemp("world"), steps=12)


@pytest.fixture
def make_context(world: World, tmp_path: Path) -> Callable[..., UnlearnContext]:
    def make(kind: str = "full", double: bool = False, name: str = "run", **changes: Any) -> UnlearnContext:
        train = changes.pop("train", TrainSettings(kind=kind))
        context, _ = context_for(world, tmp_path / name, train, double=double, **changes)
        return context

    return make
