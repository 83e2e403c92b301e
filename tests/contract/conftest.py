from __future__ import annotations

import pytest

from unbench.contract_world import World, build_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The contract's world: a target that knows its facts."""
    return build_world(tmp_path_factory.mktemp("world"))
