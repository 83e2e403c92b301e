"""What stood on the board is never edited: entries are added, superseded or taken back, and the lock grows."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unbench.submissions import files as names

from .conftest import Run
from .world import Forged, World, submit

Change = Callable[[Forged, World], object]


def git(folder: Path, *words: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *words], cwd=folder, check=True,
        capture_output=True,
    )  # fmt: skip


@pytest.fixture
def committed(small: World) -> World:
    """The leaderboard as the first commit of a repository."""
    top = small.root.parent
    git(top, "init", "-q", "-b", "main")
    git(top, "add", "-A")
    git(top, "commit", "-q", "-m", "first")
    git(top, "tag", "base")
    return small


def lock(change: Callable[[Any], object]) -> Change:
    def act(forged: Forged, small: World) -> None:
        path = small.root / "tasks.lock.json"
        body = json.loads(path.read_text())
        change(body)
        path.write_text(json.dumps(body))

    return act


def entry(**values: Any) -> Change:
    """Another submission.json of the same run."""

    def act(forged: Forged, small: World) -> None:
        forged.body |= values
        forged.seal()

    return act


def further(forged: Forged, small: World) -> None:
    submit(small, method="unbench:npo")


def superseding(forged: Forged, small: World) -> None:
    folder = shutil.copytree(forged.folder, forged.folder.with_name("0" * 12))
    newer = Forged(Path(folder))
    newer.plan["config"]["lr"] = 0.3
    newer.body["supersedes"] = forged.folder.name
    newer.identify()
    newer.seal()


SAMPLE = "unbench:sample"


def drop_attack(forged: Forged, name: str = SAMPLE) -> None:
    """The entry as it was before this attack."""
    forged.result["attacks"] = [one for one in forged.result["attacks"] if one["name"] != name]
    forged.body["yardstick"]["attacks"].pop(name)
    kept = [line for line in forged.lines(names.ATTACKS_FILE) if line.get("attack") != name]
    forged.put_lines(kept, names.ATTACKS_FILE)
    forged.rescore()
    forged.seal()


def attacked(then: Change = lambda forged, small: None) -> Change:
    """The base has one attack, the entry now has two, and ``then`` happens to it."""

    def act(forged: Forged, small: World) -> None:
        whole = {path: path.read_bytes() for path in forged.folder.iterdir()}
        drop_attack(forged)
        git(small.root.parent, "commit", "-q", "-a", "-m", "one attack")
        git(small.root.parent, "tag", "-f", "base")
        for path, content in whole.items():
            path.write_bytes(content)
        newer = Forged(forged.folder)
        then(newer, small)
        newer.seal()

    return act


def other_rows(forged: Forged, small: World) -> None:
    """The older attack found less, and every number follows from it."""
    lines = forged.lines(names.ATTACKS_FILE)
    line = next(line for line in lines if line.get("attack") == "unbench:quantize")
    line["known"] = {probe: value - 0.1 for probe, value in line["known"].items()}
    forged.put_lines(lines, names.ATTACKS_FILE)
    forged.rescore()


def other_point(forged: Forged, small: World) -> None:
    old = next(one for one in forged.result["attacks"] if one["name"] == "unbench:quantize")
    old["points"][0]["known_unlearned"] += 0.1


def odd_attacks(forged: Forged, small: World) -> None:
    forged.result["attacks"] = [{"points": []}]


def growing(body: Any) -> None:
    task = body["tasks"][0]
    model = task["models"][0]
    model["attacks"].append(model["attacks"][0] | {"name": "unbench:new", "sha256": "2" * 64})
    task["models"].append(model | {"model": "another", "model_hash": "3" * 64, "attacks": []})
    body["tasks"].append(task | {"version": "2", "task_hash": "4" * 64, "models": []})


ALLOWED: dict[str, Change] = {
    "nothing": lambda forged, small: None,
    "another run": further,
    "a newer run in its place": superseding,
    "taken back": entry(retracted="The rows were of another model."),
    "attacked further": attacked(),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(name: str, committed: World, forged: Forged, unbench: Run) -> None:
    ALLOWED[name](forged, committed)
    done = unbench("validate", committed.submissions, "--base", "base")
    assert done.code == 0, done.out


def findings(committed: World, unbench: Run) -> list[str]:
    """Findings of the history alone; what else is wrong with a changed file is another test's affair."""
    done = unbench("validate", committed.submissions, "--base", "base")
    return [line for line in done.out.splitlines() if line.endswith("(L2)")]


def test_the_lock_may_grow(committed: World, forged: Forged, unbench: Run) -> None:
    lock(growing)(forged, committed)
    from unbench.submissions.history import compare_with

    # The yardstick's new files aren't there, so only the history is asked.
    assert not list(compare_with(committed.root, "base"))


def moved(forged: Forged, small: World) -> None:
    forged.folder.rename(forged.folder.with_name("abcdefabcdef"))


def linked(forged: Forged, small: World) -> None:
    elsewhere = small.root.parent / "elsewhere"
    shutil.move(forged.folder, elsewhere)
    forged.folder.symlink_to(elsewhere)


def file_linked(forged: Forged, small: World) -> None:
    path = forged.folder / names.ROWS_FILE
    shutil.copy(path, small.root.parent / "rows")
    path.unlink()
    path.symlink_to(small.root.parent / "rows")


def references_linked(forged: Forged, small: World) -> None:
    shutil.move(small.root / "references", small.root.parent / "elsewhere")
    (small.root / "references").symlink_to(small.root.parent / "elsewhere")


def reference(forged: Forged, small: World) -> None:
    next(small.root.glob("references/**/responses.jsonl.gz")).write_bytes(b"other")


def nested(forged: Forged, small: World) -> None:
    (forged.folder / names.SUBMISSION_FILE).write_text("[" * 100_000)


def true_for_one(forged: Forged, small: World) -> None:
    """A change that is equal by Python's own reckoning, hidden in taking the run back."""
    forged.body["retracted"] = "x"
    forged.result["seeds"] = [False, True]
    forged.seal()


def key_twice(forged: Forged, small: World) -> None:
    forged.body["retracted"] = "x"
    forged.raw('"submitter":', '"submitter": "Somebody Else", "submitter":')


def first(body: Any) -> Any:
    return body["tasks"][0]


REFUSED: dict[str, tuple[Change, str]] = {
    "edited": (entry(submitter="Somebody Else"), "was there before and was edited"),
    "edited and taken back": (entry(submitter="Somebody Else", retracted="x"), "was there before and was edited"),
    "taken back with nothing": (entry(retracted=0), "was there before and was edited"),
    "equal, not the same": (true_for_one, "was there before and was edited"),
    "key twice": (key_twice, "was there before and has the key 'submitter' twice"),
    "nested": (nested, "was there before and is not valid JSON"),
    "plan edited": (lambda f, s: (f.folder / names.PLAN_FILE).write_text("{}"), "was there before and was edited"),
    "code edited": (lambda f, s: (f.folder / names.METHOD_FILE).write_text(""), "was there before and was edited"),
    "deleted": (lambda f, s: shutil.rmtree(f.folder), "was there before and is gone"),
    "one file deleted": (lambda f, s: (f.folder / names.METHOD_FILE).unlink(), "was there before and is gone"),
    "renamed": (moved, "was there before and is gone"),
    "folder replaced by a link": (linked, "was there before and is gone"),
    "file replaced by a link": (file_linked, "was there before and is gone"),
    "references replaced by a link": (references_linked, "was there before and is gone"),
    "reference changed": (reference, "was there before and was edited"),
    "attack taken out": (lambda f, s: drop_attack(f), "was there before and was edited"),
    "attack's rows edited": (attacked(other_rows), "was there before and was edited"),
    "attack's point edited": (attacked(other_point), "was there before and was edited"),
    "attacks odd": (attacked(odd_attacks), "was there before and was edited"),
    "attacked and edited": (attacked(entry(submitter="Somebody Else")), "was there before and was edited"),
    "attacked and taken back": (attacked(entry(retracted="x")), "was there before and was edited"),
    "attacks no gzip": (lambda f, s: (f.folder / names.ATTACKS_FILE).write_bytes(b"x"), "is no whole gzip file"),
    "lock gone": (lambda f, s: (s.root / "tasks.lock.json").unlink(), "was there before and is gone"),
    "lock entry changed": (lock(lambda b: first(b).update(version="9")), "an entry of the lock was changed"),
    "lock entry gone": (lock(lambda b: b["tasks"].clear()), "an entry of the lock was changed or taken out"),
    "lock's attack gone": (lock(lambda b: first(b)["models"][0]["attacks"].pop()), "an entry of the lock was changed"),
    "lock's order changed": (lock(lambda b: first(b)["models"][0]["attacks"].reverse()), "of the lock was changed"),
    "lock's settings grown": (lock(lambda b: first(b)["models"][0]["attacks"][0]["config"]["strengths"].append(9)),
                              "an entry of the lock was changed"),
    "lock's references grown": (lock(lambda b: first(b)["models"][0]["references"].append("0" * 64)),
                                "an entry of the lock was changed"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, committed: World, forged: Forged, unbench: Run) -> None:
    from unbench.submissions.history import compare_with

    change, why = REFUSED[name]
    change(forged, committed)
    found = [str(one) for one in compare_with(committed.root, "base")]
    assert any(why in one and one.endswith("(L2)") for one in found), found


def test_the_command_line_says_so(committed: World, forged: Forged, unbench: Run) -> None:
    entry(submitter="Somebody Else")(forged, committed)
    done = unbench("validate", committed.submissions, "--base", "base")
    assert done.code == 1
    assert "was edited; submit the run anew with --supersedes (L2)" in done.out


def test_taken_back_can_not_be_undone(committed: World, forged: Forged, unbench: Run) -> None:
    top = committed.root.parent
    entry(retracted="Wrong.")(forged, committed)
    git(top, "commit", "-q", "-a", "-m", "second")
    git(top, "tag", "-f", "base")
    entry(retracted=None)(forged, committed)
    assert findings(committed, unbench)


@pytest.mark.parametrize("ref", ["nowhere", "--help", "-x", "base:leaderboard", "\x1b[31m"])
def test_unknown_ref_is_one_sentence(ref: str, committed: World, unbench: Run) -> None:
    done = unbench("validate", committed.submissions, f"--base={ref}")
    assert done.code == 2
    assert done.err.startswith("Error: git can't compare with the base")
    assert len(done.err.splitlines()) == 1
    assert "\x1b" not in done.err


def test_outside_a_repository(small: World, unbench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(small.root.parent.parent))
    done = unbench("validate", small.submissions, "--base", "main")
    assert (done.code, done.err.count("\n")) == (2, 1)
