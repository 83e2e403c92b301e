"""The built wheel works from any folder: tasks, baselines, weights and page templates lie inside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # A copy, so that the build leaves nothing in the checkout and sees only what git would give a fresh machine.
    files = subprocess.run(["git", "ls-files", "-z"], cwd=repository, capture_output=True, check=True).stdout
    source = folder / "source"
    for name in filter(None, files.decode().split("\0")):
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((repository / name).read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = folder.glob("*.whl")
    # The dependencies are those of the running environment; unbench itself comes from the wheel alone.
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def inside(installed: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=cwd, env=env, check=False)


def test_everything_is_imported_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import unbench, unbench_baselines as b, unbench_tasks as t; print(*(m.__file__ for m in (unbench, b, t)))"
    done = inside(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(installed)) for path in done.stdout.split())


def test_a_run_and_its_page_from_another_folder(installed: Path, tmp_path: Path) -> None:
    done = inside(installed, tmp_path, "-m", "unbench", "run", "--method", "none", "--limit", "6", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scores"]["forget"]["value"] == 0
    assert (tmp_path / "runs" / "site" / "index.html").is_file()


def test_every_method_and_task_is_there(installed: Path, tmp_path: Path) -> None:
    done = inside(installed, tmp_path, "-m", "unbench", "methods", "--json")
    found = json.loads(done.stdout)["methods"]
    assert {entry["name"] for entry in found} >= {"unstar", "npo", "none", "retrain"}
    assert not [entry for entry in found if entry["error"]]
    done = inside(installed, tmp_path, "-m", "unbench", "tasks", "--json")
    assert {entry["name"] for entry in json.loads(done.stdout)["tasks"]} == {"bios", "facts", "tofu"}


@pytest.mark.parametrize("package", [(), ("--package",)])
def test_a_new_method_is_written_from_the_wheel(installed: Path, tmp_path: Path, package: tuple[str, ...]) -> None:
    done = inside(installed, tmp_path, "-m", "unbench", "new-method", "fresh", *package)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.strip()).is_file()
