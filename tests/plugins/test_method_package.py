"""A package made by ``unbench new-method demo --package`` is built, installed elsewhere, listed, run and checked,
without touching UnBench's source."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from plugin_world import Venv

pytestmark = pytest.mark.slow


def source_hash(repository: Path) -> str:
    digest = hashlib.sha256()
    for folder in ("unbench", "baselines", "tasks"):
        for path in sorted((repository / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def test_built_installed_listed_run_and_checked(tmp_path: Path, repository: Path) -> None:
    venv = Venv(tmp_path / "venv")
    before = source_hash(repository)

    def run(command: str) -> str:
        done = venv.run(command, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert run("unbench new-method demo --package") == "demo/unbench_demo/method.py\n"
    run("python -m build --wheel --no-isolation --outdir dist demo")
    (wheel,) = (tmp_path / "dist").glob("unbench_demo-*.whl")
    run(f"pip install {wheel}")
    # What is imported is the installed copy.
    (tmp_path / "demo" / "unbench_demo").rename(tmp_path / "demo" / "moved_away")
    where = run('python -c "import unbench_demo; print(unbench_demo.__file__)"').strip()
    assert where.startswith(str(tmp_path / "venv"))
    listed = json.loads(run("unbench methods --json"))["methods"]
    (entry,) = (one for one in listed if one["name"] == "demo")
    assert (entry["qualified"], entry["needs"], entry["error"]) == ("unbench-demo:demo", ["retain"], None)
    assert {"npo", "unstar"} <= {one["name"] for one in listed if one["qualified"].startswith("unbench:")}
    result = json.loads(run("unbench -q run --method demo --limit 4 --set steps=4 --json"))
    assert result["method"] == "unbench-demo:demo"
    assert result["compute"]["tokens_trained"] > 0
    checked = json.loads(run("unbench -q check-method demo --json"))
    assert checked["passed"]
    assert run("unbench cite demo").startswith("@misc{demo")
    assert run("pip uninstall -y unbench-demo")
    assert "demo" not in {one["name"] for one in json.loads(run("unbench methods --json"))["methods"]}
    assert source_hash(repository) == before
