"""Every built-in task passes the task check."""

from __future__ import annotations

import pytest

from unbench import plugins
from unbench.taskcheck import check


@pytest.mark.parametrize("split", ["select", "report"])
@pytest.mark.parametrize("name", ["bios/fact", "bios/relation", "bios/person", "facts/all"])
def test_built_in_task_is_sound(name: str, split: str) -> None:
    assert check(plugins.open_task(name, split)) == []  # type: ignore[arg-type]
