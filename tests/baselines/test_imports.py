"""A listing of methods must not wait for torch."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from importlib.metadata import entry_points
names = []
for point in entry_points(group="unbench.methods"):
    if point.value.startswith("unbench_baselines."):
        method = point.load()
        assert method.card.name == point.name, (method.card.name, point.name)
        assert method.card.kind == "control" or method.card.bibtex.startswith("@"), point.name
        method.Config.model_json_schema()
        assert all(field.description for field in method.Config.model_fields.values()), point.name
        for settings in method.tuned.values():
            method.Config(**settings)
        names.append(point.name)
assert len(names) >= 24, names
loaded = [name for name in ("torch", "transformers", "peft", "datasets", "numpy") if name in sys.modules]
assert not loaded, loaded
"""


def test_importing_the_baselines_loads_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
