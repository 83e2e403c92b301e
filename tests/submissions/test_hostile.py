"""Submissions that were made to do harm: each is refused with its reason, and nothing of it is run or written."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unbench.submissions import files as names
from unbench.submissions.strict import pack

from .conftest import Run
from .world import SOURCE, Forged, World, submit

Act = Callable[[Forged, Path], object]
"""What is done to a good submission; the path is a folder outside the leaderboard."""
MEGA = 2**20


def result(**values: Any) -> Act:
    """Other fields of the result."""
    return lambda forged, outside: forged.result.update(values)


def body(**values: Any) -> Act:
    return lambda forged, outside: forged.body.update(values)


def method(**values: Any) -> Act:
    return lambda forged, outside: forged.body["method"].update(values)


def plan(**values: Any) -> Act:
    """Another plan, with its own run-id, hash and place."""

    def act(forged: Forged, outside: Path) -> None:
        forged.plan.update(values)
        forged.identify()

    return act


def raw(old: str, new: str) -> Act:
    """Another spelling in the text of submission.json."""

    def act(forged: Forged, outside: Path) -> None:
        forged.raw(old, new)
        keep(forged)

    return act


def content(make: Callable[[bytes], bytes]) -> Act:
    """Other bytes of submission.json."""

    def act(forged: Forged, outside: Path) -> None:
        path = forged.seal() / names.SUBMISSION_FILE
        path.write_bytes(make(path.read_bytes()))
        keep(forged)

    return act


def keep(forged: Forged) -> None:
    """What lies there is not to be sealed again."""
    forged.seal = lambda: forged.folder  # type: ignore[method-assign]


def lines(change: Callable[[list[Any]], object], name: str = names.ROWS_FILE) -> Act:
    """Other lines of a packed file, hash and all."""

    def act(forged: Forged, outside: Path) -> None:
        found = forged.lines(name)
        change(found)
        forged.put_lines(found, name)

    return act


def row(number: int = 2, **values: Any) -> Act:
    return lines(lambda found: found[number].update(values))


def attack(number: int = 1, **values: Any) -> Act:
    return lines(lambda found: found[number].update(values), names.ATTACKS_FILE)


def packed(make: Callable[[], bytes], name: str = names.ROWS_FILE) -> Act:
    return lambda forged, outside: forged.put(make(), name)


def samples(*found: Any) -> Act:
    text = "".join(json.dumps(one) + "\n" for one in found)
    return packed(lambda: pack(text.encode()), names.SAMPLES_FILE)


def source(code: bytes) -> Act:
    """Another method.py, with the plan and the run-id that go with it."""

    def act(forged: Forged, outside: Path) -> None:
        forged.put(code, names.METHOD_FILE)
        digest = forged.body["files"][names.METHOD_FILE]
        forged.plan["plugins"][0]["hash"] = forged.body["method"]["source"] = digest
        forged.result["hashes"]["method"] = digest
        forged.identify()

    return act


def at(where: str, change: Callable[[Any], Any]) -> Act:
    """One value of submission.json, by its dotted place."""

    def act(forged: Forged, outside: Path) -> None:
        *parts, last = (int(part) if part.isdigit() else part for part in where.split("."))
        holder: Any = forged.body
        for part in parts:
            holder = holder[part]
        holder[last] = change(holder[last] if isinstance(holder, list) or last in holder else None)

    return act


def both(*acts: Act) -> Act:
    def act(forged: Forged, outside: Path) -> None:
        for one in acts:
            one(forged, outside)

    return act


def linked(name: str) -> Act:
    """A file of the submission lies elsewhere, and a link leads there."""

    def act(forged: Forged, outside: Path) -> None:
        path = forged.seal() / name
        shutil.move(path, outside / name)
        path.symlink_to(outside / name)
        keep(forged)

    return act


def instead(name: str, make: Callable[[Path], object]) -> Act:
    """Something that is no file in a file's place."""

    def act(forged: Forged, outside: Path) -> None:
        path = forged.seal() / name
        path.unlink()
        make(path)
        keep(forged)

    return act


def beside(make: Callable[[Path], object], up: int = 0) -> Act:
    """Something else in the submission's folder, or so many levels above it."""

    def act(forged: Forged, outside: Path) -> None:
        forged.seal()
        make((forged.folder, *forged.folder.parents)[up])

    return act


def sparse(name: str) -> Act:
    """A file of 100 MB that takes no room."""

    def act(forged: Forged, outside: Path) -> None:
        with open(forged.seal() / name, "r+b") as stream:
            stream.truncate(100 * MEGA)
        keep(forged)

    return act


def bomb() -> bytes:
    """A packed file of a few hundred kB that holds 200 MB."""
    return gzip.compress(b" " * MEGA, mtime=0) * 200


def copied(forged: Forged, outside: Path) -> None:
    """Somebody else's folder, run-id and all, under another method."""
    place = forged.folder.parent.parent / "mine" / forged.folder.name
    shutil.copytree(forged.seal(), place)


def stolen(forged: Forged, outside: Path) -> None:
    """Somebody else's run-id on a plan that gives another."""
    old = forged.result["run_id"]
    forged.plan["config"]["lr"] = 0.1
    forged.result["plan"] = forged.plan
    forged.put(names.dump(forged.plan), names.PLAN_FILE)
    forged.result["run_id"] = old


def own_lock(forged: Forged, outside: Path) -> None:
    """A yardstick of one's own, with its lock, among the submissions."""
    home = forged.seal().parents[2]
    shutil.copytree(forged.root / "references", home / "references")
    lock = json.loads((forged.root / "tasks.lock.json").read_text())
    (home / "tasks.lock.json").write_text(json.dumps(lock))


def half(forged: Forged, outside: Path) -> None:
    """The worst point of every attack left out, and all numbers made anew."""
    found = forged.lines(names.ATTACKS_FILE)
    forged.put_lines([one for one in found if one.get("strength") != 8.0], names.ATTACKS_FILE)


def uncounted(forged: Forged, outside: Path) -> None:
    found = forged.lines(names.ATTACKS_FILE)
    for one in found[1:]:
        one["counted"] = False
    forged.put_lines(found, names.ATTACKS_FILE)


def superseding(forged: Forged, outside: Path) -> None:
    """The place of a run that somebody else submitted."""
    old = forged.folder.name
    shutil.copytree(forged.seal(), outside / "old")
    forged.body |= {"supersedes": old, "submitter": "Somebody Else"}
    forged.plan["config"]["lr"] = 0.2
    forged.identify()
    shutil.copytree(outside / "old", forged.folder.parent / old)


def tall(folder: Path) -> None:
    """Folders within folders, many more than anybody needs."""
    folder.joinpath(*"d" * 60).mkdir(parents=True)


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def late_duplicate(content_: bytes) -> bytes:
    """So many keys that looking for the one that is there twice must not be quadratic."""
    many = ",".join(f'"k{i}":0' for i in range(120_000))
    return b"{" + many.encode() + b',"k119999":1}'


SCRIPT = "<script>alert(1)</script>"
CASES: dict[str, tuple[Act, str]] = {
    # Texts that a terminal or reader would obey
    "escape sequence in a summary": (method(summary="\x1b[2J"), "holds the control character U+001B"),
    "direction override in a title": (method(title="\u202egnp.exe"), "holds the control character U+202E"),
    "zero-width space in a method's name": (method(name="file:de\u200bmo"), "holds the control character U+200B"),
    "Cyrillic letter in a method's name": (method(name="file:d\u0435mo"), "method.name: String should match"),
    "full-width letters in a method's name": (method(name="file:ｄemo"), "method.name: String should match"),
    "line feed after a method's name": (method(name="file:demo\n"), "method.name: String should match"),
    "another letter's look-alike in the result": (result(method="file:d\u0435mo"), "belongs at bios/fact/d\u0435mo"),
    "zero byte in the submitter": (body(submitter="A\x00"), "holds the control character U+0000"),
    "half of a character": (raw('"A. Researcher"', '"\\ud800"'), "holds the control character U+D800"),
    "control character in a key": (result(versions={"un\x07bench": "1"}), "holds the control character U+0007"),
    "control character in an answer": (row(text="\x1b]0;x\x07"), "line 3 holds the control character U+001B"),
    "endless summary": (method(summary="a" * 5001), "method.summary: String should have at most 5000"),
    "endless note": (result(notes={"a": "a" * 20_001}), "holds a text of 20,001 characters"),
    "endless answer": (row(text="one" + " hundred" * 2000), "text has 16,003 characters; 5,000 are allowed"),
    # Places
    "file name that climbs": (at("files", lambda old: old | {"../../../x": "0" * 64}), "has no ../../../x"),
    "file name from the root": (at("files", lambda old: old | {"/etc/passwd": "0" * 64}), "has no /etc/passwd"),
    "task that climbs": (both(result(task="../../etc"), plan(task="../../etc")), "belongs at ../../etc/demo/"),
    "task that is a file": (both(result(task="own.yaml"), plan(task="own.yaml")), "belongs at own.yaml/demo/"),
    "method that climbs": (method(name="file:../../x"), "method.name: String should match"),
    "run-id that climbs": (result(run_id="../../../../x"), "its run-id is ../../../../x"),
    "plan with a file of one's own": (plan(task_path="/tmp/evil.yaml"), "plan.json doesn't say task_path"),
    "plan with a data folder": (plan(data_dir="/etc"), "plan.json doesn't say data_dir"),
    "plan with a model's folder": (plan(model_path="/tmp/model"), "plan.json doesn't say model_path"),
    "plan with a plugin's path": (plan(plugins=[{"name": "a.py", "hash": "0" * 64, "path": "/tmp/evil.py"}]),
                                  "plan.json doesn't say plugins"),
    "another method's folder": (beside(lambda f: shutil.move(f, f.parent.parent / "other" / f.name)), "belongs at"),
    "wrong case of a file's name": (beside(lambda f: (f / "submission.json").rename(f / "Submission.json")),
                                    "belongs to no submission"),
    # Links and what is no file
    "submission.json is a link": (linked(names.SUBMISSION_FILE), "submission.json is a symbolic link"),
    "rows are a link": (linked(names.ROWS_FILE), "responses.jsonl.gz is a symbolic link"),
    "folder is a link": (beside(lambda f: (f.parent / "abcdefabcdef").symlink_to(f)), "is a symbolic link"),
    "submission.json is a folder": (instead(names.SUBMISSION_FILE, Path.mkdir), "submission.json is no ordinary file"),
    "plan.json is a folder": (instead(names.PLAN_FILE, Path.mkdir), "plan.json is no ordinary file"),
    "rows are a pipe": (instead(names.ROWS_FILE, os.mkfifo), "responses.jsonl.gz is no ordinary file"),
    "submission.json is a pipe": (instead(names.SUBMISSION_FILE, os.mkfifo), "submission.json is no ordinary file"),
    "folder in the folder": (beside(lambda f: (f / "sub").mkdir()), "holds sub, which is no file of a submission"),
    "page in the folder": (beside(lambda f: (f / "index.html").write_text(SCRIPT)), "holds index.html"),
    "name that talks to the terminal": (beside(lambda f: (f / "a\x1b[31m\n").write_text("")),
                                        "holds a\ufffd[31m\ufffd"),
    "page among the submissions": (beside(lambda f: (f / "x.html").write_text(SCRIPT), 2), "belongs to no submission"),
    "yardstick of one's own": (own_lock, "tasks.lock.json: belongs to no submission"),
    "folders without end": (beside(tall), "lies deeper than any submission"),
    # Sizes
    "bomb": (packed(bomb), "line 1 has more than 2,097,152 bytes"),
    "bomb of short lines": (packed(lambda: gzip.compress(b"\n" * 100 * MEGA, mtime=0)), "line 1 is not valid JSON"),
    "bomb of small lists": (packed(lambda: pack(b"[" + b"[]," * MEGA + b"0]\n")), "line 1 has more than"),
    "bomb of anti-samples": (packed(lambda: pack((b"{}" + b" " * MEGA + b"\n") * 12), names.SAMPLES_FILE),
                             "anti_samples.jsonl.gz unpacks to more than 10,485,760 bytes"),
    "rows of 100 MB": (sparse(names.ROWS_FILE), "responses.jsonl.gz has 104,857,600 bytes; 5,242,880 are allowed"),
    "submission.json of 100 MB": (sparse(names.SUBMISSION_FILE), "submission.json has 104,857,600 bytes"),
    "method.py of 100 MB": (sparse(names.METHOD_FILE), "method.py has 104,857,600 bytes"),
    "deep nesting": (content(lambda old: b"[" * 100_000 + b"]" * 100_000), "submission.json is not valid JSON"),
    "nesting a little too deep": (result(notes={"a": nested(30)}), "is nested deeper than 24 levels"),
    "deep nesting in an anti-sample": (packed(lambda: pack(b"[" * 50_000 + b"]" * 50_000), names.SAMPLES_FILE),
                                       "anti_samples.jsonl.gz is not valid JSON"),
    "more models than memory": (lines(lambda found: found[0].update(of=list(range(100)))), "is of 100 models"),
    "thousands of keys, the last one twice": (content(late_duplicate), "has the key 'k119999' twice"),
    # JSON that isn't
    "NaN": (raw('"wall_s": 1.5', '"wall_s": NaN'), "holds NaN, which is no JSON number"),
    "Infinity": (raw('"wall_s": 1.5', '"wall_s": Infinity'), "holds Infinity"),
    "minus Infinity": (raw('"wall_s": 1.5', '"wall_s": -Infinity'), "holds -Infinity"),
    "1e400": (raw('"wall_s": 1.5', '"wall_s": 1e400'), "holds the number 1e400, too large"),
    "whole number of 400 digits": (raw('"wall_s": 1.5', f'"wall_s": {"9" * 400}'), "holds a whole number of 400"),
    "whole number of 5,000 digits": (raw('"wall_s": 1.5', f'"wall_s": {"9" * 5000}'), "a whole number of 5000"),
    "NaN in the rows": (packed(lambda: pack(b'{"schema":NaN}')), "line 1 holds NaN"),
    "key twice": (raw('"submitter":', '"submitter": "A", "submitter":'), "has the key 'submitter' twice"),
    "key twice, deep down": (raw('"lr": 0.0005', '"lr": 1, "lr": 0.0005'), "has the key 'lr' twice"),
    "byte order mark": (content(lambda old: b"\xef\xbb\xbf" + old), "submission.json is not valid JSON"),
    "UTF-16": (content(lambda old: old.decode().encode("utf-16")), "submission.json is no UTF-8 text"),
    "bytes that are no text": (content(lambda old: old.replace(b"A. R", b"\xff")),
                               "submission.json is no UTF-8 text"),
    "empty submission.json": (content(lambda old: b""), "submission.json is not valid JSON"),
    "list": (content(lambda old: b"[]"), "submission.json is no JSON object"),
    "something behind the end": (content(lambda old: old + b"{}"), "submission.json is not valid JSON (Extra data"),
    "empty rows": (packed(lambda: b""), "ends where a head line is due"),
    "half of the rows": (lambda forged, _: forged.put((forged.folder / names.ROWS_FILE).read_bytes()[:-40]),
                         "is no whole gzip file"),
    "rows that are not packed": (packed(lambda: b"{}"), "is no whole gzip file"),
    # Types
    "text for a number": (at("result.scores.forget.value", lambda old: "0.5"), "result.scores.forget.value: Input"),
    "true for a number": (at("result.compute.wall_s", lambda old: True), "result.compute.wall_s: Input"),
    "text for seeds": (result(seeds=["0", "1"]), "result.seeds.0: Input"),
    "true for seeds in the plan": (plan(seeds=[False, True]), "plan.json doesn't say seeds"),
    "text for seeds in the plan": (plan(seeds=["0", "1"]), "plan.json doesn't say seeds"),
    "plan that is none": (plan(seeds=[]), "plan.json is no plan"),
    "plan that leaves out what is usual": (lambda forged, _: (forged.plan.pop("split"), forged.identify()),
                                           "plan.json doesn't say split"),
    "plan with more than a plan has": (plan(extra=1), "plan.json is no plan"),
    "field that nobody knows": (body(**{SCRIPT: 1}), "Extra inputs are not permitted"),
    "another schema": (body(schema="unbench.submission/2"), "doesn't fit its schema (schema: Input should be"),
    "count below 0": (at("result.compute.tokens_trained", lambda old: -1), "result.compute.tokens_trained"),
    "no scores": (result(scores=None), "result.scores: Input"),
    "link that is a script": (body(weights={"url": "javascript:alert(1)"}), "weights.url: String should match"),
    "link that breaks out": (body(weights={"url": 'https://a"onclick="x'}), "weights.url: String should match"),
    # Rows
    "true for a log-probability": (row(lp=[True] * 10), "line 3: lp wants 10 log-probabilities"),
    "log-probability above 0": (row(lp=[0.5] + [-1.0] * 9), "line 3: lp wants 10 log-probabilities"),
    "log-probability without end": (row(lp=[-(10**19)] * 10), "line 3: lp wants 10 log-probabilities"),
    "too few log-probabilities": (row(lp=[-1.0]), "line 3: lp wants 10 log-probabilities"),
    "unknown probe": (row(probe="forget/mine/0"), "where 'forget/direct/0' is due"),
    "row missing": (lines(lambda found: found.pop(2)), "line 3 is of probe"),
    "last row missing": (lines(lambda found: found.pop()), "ends where probe 'holdout/holdout/5' is due"),
    "row too many": (lines(lambda found: found.append(found[-1])), "has more lines than models and probes"),
    "rows of the target": (lines(lambda found: (found[0].update(of=["target", 1]), found[1].update(of="target"))),
                           "is of ['target', 1], not of the seeds [0, 1]"),
    "list for a seed": (lines(lambda found: found[0].update(of=[[], 1])), "names the model []"),
    "answer that isn't the right one": (row(text="It is Nowhere.", hit=True), "hit is True, which its text belies"),
    "trained on what is no probe": (lines(lambda found: found[1].update(trained=["x"])), "names 'x' as trained on"),
    "taught number without end": (lines(lambda found: found[1]["taught"].update(
        {"fo0/home": ["one" + " hundred" * 2400]})), "can't be scored (ValueError"),
    "no holdout": (lines(lambda found: found[1].update(holdout=False)), "only a reference may leave out"),
    "attack's worst point left out": (half, "has other points of unbench:quantize than the yardstick"),
    "attack whose points don't count": (uncounted, "has other points of unbench:quantize than the yardstick"),
    "attack that asked nothing": (attack(known={}), "known is empty"),
    "attack of a strength without end": (attack(strength=10**19), "the strength too large"),
    "attack that knows too much": (attack(known={"forget/direct/0": 10**18}), "is no number"),
    "attack on a probe that isn't asked": (attack(known={"world/world/0": 0.1}), "is no probe that attacks ask"),
    "attack's point twice": (lines(lambda found: found.append(found[-1]), names.ATTACKS_FILE), "stands there twice"),
    "attack nobody named": (lines(lambda found: found.append(found[-1] | {"attack": "a:b"}), names.ATTACKS_FILE),
                            "has rows of a:b, which it doesn't name"),
    # Numbers
    "score off by 1e-3": (at("result.scores.forget.value", lambda old: old + 1e-3), "scores.forget.value is"),
    "score off by 1e-6": (at("result.scores.overall.value", lambda old: round(old + 1e-6, 6)), "scores.overall.value"),
    "narrower interval": (at("result.scores.retain.low", lambda old: old + 1e-3), "scores.retain.low is"),
    "better seed": (at("result.per_seed.1.forget", lambda old: old + 1e-3), "per_seed[1].forget is"),
    "better metric": (at("result.metrics.selectivity.value", lambda old: old - 1e-3), "metrics.selectivity.value"),
    "metric nobody compares": (at("result.metrics.notes", lambda old: {"value": 1.0}), "metrics.notes is no score"),
    "better group": (at("result.groups.0.known_unlearned", lambda old: old - 1e-3), "groups[0].known_unlearned is"),
    "weaker attack": (at("result.attacks.0.points.1.known_unlearned", lambda old: old - 1e-3), "known_unlearned is"),
    "other settings of an attack": (at("result.attacks.0.config.strengths", lambda old: [10**19, 8]), "config"),
    "better worst case": (at("result.worst.forget_worst.value", lambda old: old + 1e-3), "worst.forget_worst.value"),
    "better rank": (at("ranking.overall.by_seed.0", lambda old: old + 1e-3), "ranking.overall.by_seed[0] is"),
    "zero with a sign": (raw('"value": 0.0,', '"value": -0.0,'), ".value is -0.0, and the rows give 0.0"),
    "claim of what the rows give": (body(claimed={"overall": {"value": 1.0}}), "it claims 'overall'"),
    "row edited, hash left": (lambda forged, _: (forged.folder / names.ROWS_FILE).write_bytes(pack(b"{}")),
                              "is not the file whose hash"),
    # Whose it is
    "copied run-id": (copied, "stands in"),
    "stolen run-id": (stolen, "and its plan's is"),
    "answers of one's own": (at("yardstick.responses", lambda old: "0" * 64), "held against other answers"),
    "model of one's own": (both(at("yardstick.model_hash", lambda old: "0" * 64),
                                at("result.hashes.model", lambda old: "0" * 64)), "is of a model whose answers"),
    "larger model's name": (both(result(model="meta-llama/Llama-3-70B"), plan(model="meta-llama/Llama-3-70B")),
                            "which the lock calls 'nano'"),
    "task version of one's own": (plan(task_version="2"), "task version '2', which the lock calls"),
    "attack of one's own": (at("yardstick.attacks", lambda old: {**old, "unbench:sample": "0" * 64}),
                            "is held against another unbench:sample"),
    "tuning split": (both(result(split="select"), plan(split="select")), "its split is 'select'"),
    "quick look": (plan(limit=6), "its limit is 6"),
    "changed UnBench": (at("result.code.dirty", lambda old: True), "whose files differ from its commit"),
    "file method without a file": (plan(plugins=[]), "its method is a file, and plan.json names none"),
    "built-in's name on a file": (both(result(method="unbench:demo"), method(name="unbench:demo"),
                                       plan(method="unbench:demo", plugins=[])), "plugins don't go together"),
    "another file than the plan's": (packed(lambda: b"x = 1\n", names.METHOD_FILE), "is not the file that the plan"),
    "code that is not what it seems": (source("x = 1  # \u2066\n".encode()), "method.py holds the control character"),
    "code that is no text": (source(b"\xff\xfe"), "method.py is no UTF-8 text"),
    "anti-samples without end": (samples(*[{}] * 2001), "anti_samples.jsonl.gz has more than 2,000 lines"),
    "anti-samples that are none": (samples({"stage": "anti_sample"}, 7), "line 2 is no JSON object"),
    "place of nobody's run": (body(supersedes="0123456789ab"), "there is no such run"),
    "place of a rival's run": (superseding, "which somebody else submitted"),
}  # fmt: skip


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is nobody's business, and where the commands are given: ``sentinel`` would be written there."""
    folder = tmp_path / "outside"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """All that lies below a folder, with size and time of the last change."""
    found = {}
    for here, folders, files in os.walk(folder):
        if here.count("/d") > 12:
            folders.clear()
        for name in (*folders, *files):
            about = os.lstat(Path(here) / name)
            found[f"{here}/{name}"] = (about.st_size, about.st_mtime_ns)
    return found


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str, forged: Forged, small: World, outside: Path, tmp_path: Path, unbench: Run) -> None:
    act, reason = CASES[name]
    act(forged, outside)
    if forged.folder.is_dir() and (forged.folder / names.SUBMISSION_FILE).is_file():
        forged.seal()
    before = everything(tmp_path)
    done = unbench("validate", small.submissions)
    assert done.code == 1, done
    assert reason in done.out
    assert len(done.out) < 12_000
    assert all(c.isprintable() or c == "\n" for c in done.out)
    assert everything(tmp_path) == before
    assert not (outside / "sentinel").exists()


def test_there_are_enough() -> None:
    assert len(CASES) >= 40


CHILD = """
import resource, sys
from pathlib import Path
from unbench.submissions.check import disagreements
from unbench.submissions.read import open_submission
from unbench.submissions.strict import Refused
from unbench.submissions.yardstick import Yardsticks

roots = [Path(word) for word in sys.argv[1:]]
sticks = Yardsticks(roots[0])
yard = sticks.read(sticks.lock.tasks[0], sticks.lock.tasks[0].models[0])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for root in roots:
    (folder,) = root.glob("submissions/*/*/*/*")
    try:
        opened = open_submission(folder)
        assert list(disagreements(opened)) or opened.rows(yard) is None, root
    except Refused:
        pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
"""Reads submissions one after the other and prints by how many kB its memory grew at most."""
HEAVY = [name for name in CASES if re.search("bomb|100 MB|deep nesting|memory|keys", name)]


def test_refused_in_little_memory(small: World, pattern: tuple[Path, Path], tmp_path: Path) -> None:
    roots = []
    for number, name in enumerate(HEAVY):
        root = Path(shutil.copytree(pattern[0], tmp_path / str(number)))
        forged = Forged(root / pattern[1])
        CASES[name][0](forged, tmp_path)
        forged.seal()
        roots.append(root)
    done = subprocess.run([sys.executable, "-c", CHILD, *roots], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 60 * 1024


def test_many_findings_are_told_shortly(forged: Forged, small: World, unbench: Run) -> None:
    for number in range(300):
        forged.result["metrics"][f"m{number}"] = {"value": 1.0}
        (small.submissions / f"x{number}").write_text("")
    forged.seal()
    done = unbench("validate", small.submissions)
    assert done.code == 1
    assert len(done.out.splitlines()) == 42
    assert "and 280 further numbers that its rows don't give" in done.out
    assert "and 280 further files of that sort" in done.out


def test_what_is_validated_may_not_be_a_link(small: World, tmp_path: Path, unbench: Run) -> None:
    (tmp_path / "link").symlink_to(small.submissions)
    done = unbench("validate", tmp_path / "link")
    assert (done.code, "is a symbolic link" in done.out) == (1, True)


def test_a_file_that_is_no_submission(tmp_path: Path, unbench: Run) -> None:
    (tmp_path / "notes.txt").write_text("x")
    done = unbench("validate", tmp_path / "notes.txt")
    assert (done.code, "is no submission" in done.out) == (1, True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda lock: lock["tasks"][0].update(task="../../etc/x"), "tasks.0.task: String should match"),
        (lambda lock: lock["tasks"].append(lock["tasks"][0]), "an entry stands there twice"),
        (lambda lock: lock["tasks"][0]["models"].append(lock["tasks"][0]["models"][0]), "an entry stands there twice"),
        (lambda lock: lock["tasks"][0]["models"][0]["attacks"].append(
            lock["tasks"][0]["models"][0]["attacks"][0] | {"sha256": "0" * 64}), "an entry stands there twice"),
        (lambda lock: lock["tasks"][0].update(probes="0" * 64), "can't be read"),
        (lambda lock: lock["tasks"][0]["models"][0].update(responses="0" * 64), "held against other answers"),
        (lambda lock: lock["tasks"][0]["models"][0].update(model="../../../x"), "can't be read"),
        (lambda lock: lock.update({"\x1b[31m": 1}), "holds the control character U+001B"),
        (lambda lock: lock["tasks"].clear(), "tasks.lock.json doesn't know"),
    ],
)  # fmt: skip
def test_hostile_lock(change: Callable[[Any], object], reason: str, small: World, outside: Path, unbench: Run) -> None:
    path = small.root / "tasks.lock.json"
    lock = json.loads(path.read_text())
    change(lock)
    path.write_text(json.dumps(lock))
    done = unbench("validate", small.submissions)
    assert done.code in (1, 2)
    assert reason in done.out + done.err
    assert "\x1b" not in done.out + done.err
    assert not any(outside.iterdir())


def test_lock_can_name_no_file_to_run(small: World, outside: Path, forged: Forged, unbench: Run) -> None:
    """A task whose rows may not be handed on is opened by its name: a name of a file would run, or read, that file."""
    (outside / "evil").mkdir()
    (outside / "evil" / "task").write_text(SOURCE.format(sentinel="sentinel"))
    lock = json.loads((small.root / "tasks.lock.json").read_text())
    lock["tasks"][0] |= {"task": "evil/task", "probes": None}
    (small.root / "tasks.lock.json").write_text(json.dumps(lock))
    forged.result["task"] = forged.plan["task"] = "evil/task"
    forged.identify()
    forged.seal()
    done = unbench("validate", small.submissions)
    assert (done.code, "whose rows lie in a file of somebody's own" in done.out) == (1, True)
    assert [path.name for path in outside.iterdir()] == ["evil"]


@pytest.mark.parametrize("how", ["hard link", "carriage returns", "read-only", "two seeds more"])
def test_harmless(how: str, forged: Forged, small: World, outside: Path, unbench: Run) -> None:
    path = forged.folder / names.METHOD_FILE
    if how == "hard link":
        path.rename(outside / "method.py")
        os.link(outside / "method.py", path)
    elif how == "carriage returns":
        where = forged.folder / names.SUBMISSION_FILE
        where.write_bytes(where.read_bytes().replace(b"\n", b"\r\n"))
    elif how == "read-only":
        path.chmod(0o444)
    else:
        submit(small, seeds=(0, 1, 7, 2**32 - 1))
    done = unbench("validate", small.submissions, "--json")
    assert done.code == 0, done.out
    assert json.loads(done.out)["findings"] == []
    assert not (outside / "sentinel").exists()
