"""Shared fixtures: no hub, a cache of the test session's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The models here are tiny: more threads cost more than they bring, and starve when anything else runs.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    # Tests must not read what an earlier version of the code left in the user's cache. A session may share one by
    # UNBENCH_TEST_CACHE, which spares the download of SmolLM2.
    os.environ["UNBENCH_CACHE"] = os.environ.get("UNBENCH_TEST_CACHE") or str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return Path(__file__).resolve().parent.parent
