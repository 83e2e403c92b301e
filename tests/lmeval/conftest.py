"""lm-eval without hub, bars or the user's caches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")
os.environ.setdefault("TQDM_DISABLE", "1")


@pytest.fixture(autouse=True, scope="session")
def _lean_and_apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import datasets.config
    import lm_eval.evaluator

    with pytest.MonkeyPatch.context() as patch:
        # HF_HOME is read when a library is first imported, which an earlier test may have done.
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        # It runs pip and lscpu to describe the machine: a second an evaluation.
        patch.setattr(lm_eval.evaluator, "add_env_info", lambda storage: None)
        yield


@pytest.fixture(scope="session")
def manager() -> Any:
    """lm-eval's index of UnBench's exported tasks, and of nothing else."""
    from lm_eval.tasks import TaskManager

    from unbench.lmeval.export import tasks_path

    return TaskManager(include_path=str(tasks_path()), include_defaults=False)


@pytest.fixture(scope="session")
def tofu_data(repository: Path) -> Path:
    folder = repository.parent / "shared" / "data" / "tofu"
    if not folder.is_dir():
        pytest.skip("TOFU's files are not here")
    return folder
