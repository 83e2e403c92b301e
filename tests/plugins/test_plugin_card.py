"""Cards of installed packages, read from their source: through re-exports, without running a line."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from plugin_world import GOOD

from unbench.plugincard import Described, describe
from unbench.plugins import Plugin

PACKAGE = {
    "__init__.py": "raise_if_run = 1 / 0\nfrom stranger_pkg.inner import Renamed as Shown\nfrom .inner import Good\n",
    "inner/__init__.py": "from ..deep.method import Good\nfrom ..deep.method import Good as Renamed\n",
    "deep/method.py": GOOD,
    "dynamic.py": "def __getattr__(name):\n    raise AttributeError(name)\n",
    "made.py": "Made = type('Made', (), {})\n",
    "starred.py": "from stranger_pkg.deep.method import *\n",
    "loop.py": "from .loop import Round\n",
    "plain.py": "class Other:\n    pass\n",
    "broken.py": "x = 1\ndef (:\n",
    "halves.py": GOOD.replace("BIBTEX,", "BIBTEX.strip(),").replace("year=2030", "year=int('2030')"),
    "no_retain.py": GOOD.replace("margin: float", "alpha: float = 0.0\n        margin: float"),
    "to_target.py": GOOD.replace("api = 1", 'api = 1\n    needs = frozenset({"target_logits"})'),
    "kl.py": GOOD.replace("margin: float", 'retain_loss: str = Field(default="kl")\n        margin: float'),
    "guarded.py": "try:\n    import quantum_unlearning\nexcept ImportError:\n    pass\n" + GOOD,
}


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in PACKAGE.items():
        path = tmp_path / "stranger_pkg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "stranger_pkg" / "deep" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def read(target: str) -> Described:
    found = describe(Plugin("good", "stranger-pkg", EntryPoint("good", target, "unbench.methods")))
    assert not [name for name in sys.modules if name.startswith("stranger_pkg")]
    return found


@pytest.mark.parametrize("target", ["stranger_pkg:Shown", "stranger_pkg:Good", "stranger_pkg.inner:Renamed",
                                    "stranger_pkg.deep.method:Good", "stranger_pkg.guarded:Good"])  # fmt: skip
def test_the_card_is_found(seen: Path, target: str) -> None:
    found = read(target)
    assert found.error is None
    assert found.card is not None
    assert (found.card.name, found.card.kind, found.card.year) == ("good", "gradient", 2030)


@pytest.mark.parametrize("target", ["stranger_pkg.dynamic:Good", "stranger_pkg.made:Made", "stranger_pkg.starred:Good",
                                    "stranger_pkg.loop:Round"])  # fmt: skip
def test_what_only_running_would_tell_is_no_error(seen: Path, target: str) -> None:
    assert read(target) == Described()


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("stranger_pkg.plain:Good", "'stranger_pkg.plain' has no 'Good'"),
        ("stranger_pkg.plain:Other", "is not a subclass of Method"),
        ("stranger_pkg.nowhere:Good", "there is no module 'stranger_pkg.nowhere'"),
        ("stranger_pkg.broken:Good", "line 2 of broken.py"),
    ],
)
def test_what_can_be_seen_to_fail(seen: Path, target: str, sentence: str) -> None:
    assert sentence in str(read(target).error)


@pytest.mark.parametrize(
    ("target", "needs"),
    [("no_retain", ()), ("to_target", ("retain", "target")), ("kl", ("retain", "target")), ("halves", ("retain",))],
)
def test_needs_as_far_as_they_are_written_down(seen: Path, target: str, needs: tuple[str, ...]) -> None:
    found = read(f"stranger_pkg.{target}:Good")
    assert found.needs == needs
    assert found.card is not None
    if target == "halves":
        assert (found.card.bibtex, found.card.year) == ("", None)
