"""Twelve bad plugins: each is named with its reason in one sentence, and the other methods keep working."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from plugin_world import GOOD, install, nothing, unbench

import unbench as api
from unbench import methodcheck
from unbench.errors import RunFailed, UnbenchError
from unbench.guard import Snapshot, untouched
from unbench.models.cache import folder_hash
from unbench.plan import make_plan

Write = Callable[[str, str], Path]

IMPORT_ERROR = "from json import no_such_name\n" + nothing("bad")
WRONG_BASE = 'class Nothing:\n    card = "none of ours"\n'
NO_DEFAULT = GOOD.replace("Field(8.0, gt=0", "Field(gt=0")
UNKNOWN_TYPE = GOOD.replace(
    "margin: float",
    "model_config = {'arbitrary_types_allowed': True}\n        clock: Clock = Clock()\n        margin: float",
).replace("class Good", "class Clock:\n    pass\n\n\nclass Good")
UNKNOWN_STRICT = UNKNOWN_TYPE.replace("model_config = {'arbitrary_types_allowed': True}\n        ", "")
MISSING_PACKAGE = "import quantum_unlearning.core\n" + nothing("bad")
WRONG_API = GOOD.replace("api = 1", "api = 7")
RAISES = nothing("bad", 'raise ZeroDivisionError("in the middle")')
RETURNS_NOTHING = nothing("bad", "return None")
OTHER_DEVICE = nothing("bad", 'return context.target.load().to("meta")')
CHANGES_TARGET = nothing(
    "bad", 'file = context.target.path / "config.json"\nfile.write_text(file.read_text() + " ")\nreturn Unlearned()'
)
PRINTS = nothing("bad", 'import os\nprint("from Python")\nos.write(1, b"from below")\nreturn Unlearned()')

LOADING = {
    "import error": (IMPORT_ERROR, "can't be loaded: ImportError: cannot import name 'no_such_name'"),
    "wrong base class": (WRONG_BASE, "not a subclass of Method"),
    "missing config default": (NO_DEFAULT, "has no default for its setting 'margin'"),
    "config with an unknown type": (UNKNOWN_TYPE, "has a setting 'clock' of a type that JSON can't hold"),
    "config with an unknown type, strictly": (UNKNOWN_STRICT, "Clock, which JSON can't hold"),
    "needs a missing package": (MISSING_PACKAGE, "needs the package 'quantum_unlearning', which isn't installed"),
    "wrong api version": (WRONG_API, "was written for version 7 of the plugin API, and this UnBench has version 1"),
}
RUNNING = {
    "raises in the middle": (RAISES, "raised ZeroDivisionError: in the middle"),
    "returns nothing": (RETURNS_NOTHING, "returned NoneType, not Unlearned"),
    "returns a model on another device": (OTHER_DEVICE, "returned LlamaForCausalLM on meta, not Unlearned"),
    "changes the target on disk": (CHANGES_TARGET, "changed the target on disk (config.json); it was put back"),
}


def class_of(source: str) -> str:
    return "Nothing" if "class Nothing" in source else "Good"


@pytest.mark.parametrize("fault", LOADING)
def test_a_file_that_does_not_load(fault: str, plugin: Write) -> None:
    source, sentence = LOADING[fault]
    with pytest.raises(UnbenchError) as refused:
        make_plan(plugins=[plugin("bad.py", source)])
    said = str(refused.value)
    assert sentence in said
    assert "bad" in said or "good" in said
    assert "\n" not in said
    assert make_plan("npo").method == "unbench:npo"


def package(fault: str) -> str:
    """The distribution that has a fault."""
    return "pkg-" + "".join(letter for letter in fault.replace(" ", "-") if letter.isalpha() or letter == "-")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """All bad plugins as installed packages, two of one name, one of a built-in's name, and a good one. Each module
    says when it is imported."""
    site = tmp_path / "site"
    site.mkdir()
    sources = {fault: source for fault, (source, _) in {**LOADING, **RUNNING}.items()}
    sources |= {"prints to stdout": PRINTS, "name collision": nothing("twin"), "other twin": nothing("twin")}
    sources |= {"a built-in's name": nothing("npo"), "good": GOOD}
    for number, (fault, source) in enumerate(sources.items()):
        name = {"name collision": "twin", "other twin": "twin", "a built-in's name": "npo", "good": "good"}.get(fault)
        name = name or f"bad{number}"
        source = source.replace('name="bad"', f'name="{name}"').replace('name="good"', f'name="{name}"')
        lines = source.split("\n", 1)
        mark = f'import os; open(os.environ["IMPORTED"], "a").write("{fault}\\n"); print("noise")\n'
        (site / f"stranger{number}.py").write_text(mark + "\n".join(lines), encoding="utf-8")
        install(site, package(fault), name, f"stranger{number}:{class_of(source)}")
    install(site, "pkg-gone", "gone", "no_such_module:Gone")
    return site


def listed(site: Path, imported: Path, *words: str) -> dict[str, dict[str, object]]:
    done = unbench("methods", "--json", *words, site=site, IMPORTED=str(imported))
    assert done.returncode == 0, done.stderr
    return {entry["qualified"]: entry for entry in json.loads(done.stdout)["methods"]}


def test_listing_imports_nothing_and_shows_what_it_can_see(site: Path, tmp_path: Path) -> None:
    found = listed(site, tmp_path / "imported")
    assert not (tmp_path / "imported").exists()
    errors = {name.partition(":")[0]: str(entry["error"]) for name, entry in found.items() if entry["error"]}
    assert not [name for name in errors if name == "unbench"]
    assert errors["pkg-wrong-base-class"].endswith("is not a subclass of Method.")
    assert "'quantum_unlearning', which isn't installed" in errors["pkg-needs-a-missing-package"]
    assert "version 7 of the plugin API" in errors["pkg-wrong-api-version"]
    assert "there is no module 'no_such_module'" in errors["pkg-gone"]
    assert "shares its name with pkg-other-twin:twin" in errors["pkg-name-collision"]
    assert "has the name of unbench:npo, which is built in" in errors["pkg-a-built-ins-name"]
    good = found["pkg-good:good"]
    assert (good["kind"], good["paper"], good["year"]) == ("gradient", "arXiv:0000.00001", 2030)
    assert (good["needs"], good["tuned"], good["error"]) == (["retain"], ["nano"], None)


def test_loading_them_all_names_every_fault_and_harms_nobody(site: Path, tmp_path: Path) -> None:
    found = listed(site, tmp_path / "imported", "--load")
    assert (tmp_path / "imported").exists()
    for fault, (_, sentence) in LOADING.items():
        (entry,) = (one for name, one in found.items() if name.startswith(f"{package(fault)}:"))
        assert sentence in str(entry["error"])
        assert str(entry["qualified"]) in str(entry["error"])
    own = {point.name for point in entry_points(group="unbench.methods") if point.value.startswith("unbench")}
    assert own <= {entry["name"] for entry in found.values() if not entry["error"]}


def test_a_run_of_another_method_imports_none_of_them(site: Path, tmp_path: Path) -> None:
    imported = tmp_path / "imported"
    done = unbench("run", "--method", "npo", "--dry-run", site=site, IMPORTED=str(imported))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["method"] == "unbench:npo"
    done = unbench("run", "--method", "twin", "--dry-run", site=site, IMPORTED=str(imported))
    assert done.returncode == 2
    assert "'twin' is registered twice: pkg-name-collision:twin and pkg-other-twin:twin" in done.stderr
    words = {"COMP_WORDS": "unbench run --method go", "COMP_CWORD": "3", "_UNBENCH_COMPLETE": "bash_complete"}
    code = "import sys; sys.argv = ['unbench']; from unbench.cli import cli; cli(prog_name='unbench')"
    assert "plain,good" in complete(code, site, imported, words)
    assert not imported.exists()
    done = unbench("run", "--method", "pkg-other-twin:twin", "--dry-run", site=site, IMPORTED=str(imported))
    assert json.loads(done.stdout)["method"] == "pkg-other-twin:twin"


def complete(code: str, site: Path, imported: Path, words: dict[str, str]) -> str:
    env = {**os.environ, **words, "PYTHONPATH": str(site), "IMPORTED": str(imported)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False).stdout


@pytest.mark.parametrize("fault", RUNNING)
def test_a_method_that_fails_in_a_run(fault: str, plugin: Write, tmp_path: Path) -> None:
    source, sentence = RUNNING[fault]
    path = plugin("bad.py", source)
    target = api.load_target("bios/fact")[0].name_or_path
    before = folder_hash(Path(target))
    with pytest.raises(RunFailed) as refused:
        api.run(plugins=[path], limit=1, out=tmp_path / "runs")
    assert f"Method file:bad {sentence}" in str(refused.value)
    assert folder_hash(Path(target)) == before


def test_a_method_that_prints_leaves_stdout_to_the_data(plugin: Write, tmp_path: Path) -> None:
    path = plugin("bad.py", "print('while loading')\n" + PRINTS)
    done = unbench("run", "--plugin", str(path), "--limit", "1", "--json", "--out", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["method"] == "file:bad"
    for said in ("while loading", "from Python", "from below"):
        assert said in done.stderr


def test_the_check_names_the_clause(plugin: Write) -> None:
    for source, clause, detail in (
        (PRINTS, "nothing is printed to stdout", "from Python"),
        (RAISES, "it runs with full training", "ZeroDivisionError: in the middle (line 10 of bad.py)"),
        (CHANGES_TARGET, "the target on disk is untouched", "SHA-256"),
    ):
        found = list(methodcheck.check_named(str(plugin("bad.py", source))))
        failed = {check.name: check.detail for _, check in found if not check.passed}
        assert list(failed) == [clause]
        assert detail in failed[clause]
    (only,) = methodcheck.check_named(str(plugin("bad.py", MISSING_PACKAGE)))
    assert only[1].advice.startswith("pip install quantum_unlearning")
    assert not only[1].passed


def test_a_large_target_is_told_by_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbench.guard.KEPT_BYTES", 3)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1234")
    with untouched(tmp_path, "m"):
        (tmp_path / "notes.log").write_text("not of the model")
    changed = r"Method m changed the target on disk \(model.safetensors\); .* is damaged"
    with pytest.raises(RunFailed, match=changed), untouched(tmp_path, "m"):
        weights.write_bytes(b"12345")


def test_files_that_are_new_or_gone_are_put_back(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    snapshot = Snapshot.of(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "adapter_config.json").write_text("{}")
    assert snapshot.changed() == ["adapter_config.json", "config.json"]
    assert snapshot.restore(snapshot.changed())
    assert snapshot.changed() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]
