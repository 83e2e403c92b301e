"""``unbench submit`` packs what can stand on a board and says why of anything else; ``verify`` does it again. The
commands are those of docs/submit.md and README.md."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unbench import responses
from unbench.pluginfile import plugin_files
from unbench.results.store import write_json
from unbench.submissions import files as names

from .conftest import Run
from .world import ATTACKS, SEEDS, UNLEARNED, Forged, World, attack_table, frame_of, plan_of

SUBMITTER = ("--submitter", "A. Researcher")
SOURCE = '''"""A method in one file."""

from unbench.method import Method, MethodCard, Unlearned


class Nudge(Method):
    card = MethodCard(name="nudge", title="Nudge", kind="data", bibtex="")

    def unlearn(self, context):
        import torch

        model = context.target.load()
        torch.manual_seed(context.seed)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.02 * torch.randn_like(weight))
        folder = context.folder / "model"
        model.save_pretrained(folder)
        context.target.tokenizer.save_pretrained(folder)
        return Unlearned(weights=folder)
'''


@pytest.fixture
def finished(small: World, forged: Forged, tmp_path: Path) -> Path:
    """The folder of a finished run of a built-in method, as a run leaves it; the leaderboard's submission is gone."""
    return made(small, forged, tmp_path, "unbench:npo", None)


def made(small: World, forged: Forged, tmp_path: Path, method: str, plugin: Path | None) -> Path:
    yard = small.yard()
    files = plugin_files([str(plugin)]) if plugin else ()
    plan = plan_of(method, None, SEEDS).model_copy(update={"plugins": files})
    folder = tmp_path / "runs" / plan.folder_name
    write_json(folder / "plan.json", plan.model_dump(mode="json", by_alias=True))
    if plugin:
        shutil.copy(plugin, folder / "plugin.py")
    body = dict(forged.result)
    body |= {"run_id": plan.run_id, "method": method, "plan": plan.public(), "notes": {"seed-0": f"{Path.home()}/x"}}
    body["hashes"]["method"] = files[0].hash if files else "e" * 64
    write_json(folder / "result.json", body)
    for seed in SEEDS:
        place = folder / f"seed-{seed}"
        usage = {"questions": [yard.probes[0].messages[-1].content], "taught": {"fo0/home": ["It is Delft."]}}
        write_json(place / "unlearn.json", {"weights": None, "system_prompt": None, "usage": usage, "wall_s": 1.0})
        write_json(place / "respond.json", {"wall_s": 1.0})
        responses.save(frame_of(yard.probes, "unlearned", UNLEARNED, 40 + seed), place / "responses.parquet")
        (place / "attacks").mkdir()
        for name, _, own in ATTACKS:
            table = attack_table(yard.asked, 0.4, own, 60 + seed)
            responses.save_table(table, place / "attacks" / f"{name.removeprefix('unbench:')}.parquet")
    shutil.rmtree(small.submissions)
    return folder


def change(folder: Path, alter: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    """Another result and plan of a finished run."""
    result, plan = (json.loads((folder / name).read_text()) for name in ("result.json", "plan.json"))
    alter(result, plan)
    write_json(folder / "result.json", result)
    write_json(folder / "plan.json", plan)


def submit(unbench: Run, folder: Path, small: World, *more: str) -> Any:
    return unbench("submit", folder, *SUBMITTER, "--leaderboard", small.root, *more)


def test_packs_and_says_what_comes_next(finished: Path, small: World, unbench: Run) -> None:
    done = submit(unbench, finished, small)
    assert done.code == 0, done.err
    assert "its rows give its numbers" in done.out
    assert "git switch -c npo-" in done.out
    assert "git add" in done.out
    (folder,) = small.submissions.glob("*/*/*/*")
    assert sorted(path.name for path in folder.iterdir()) == [
        "attacks.jsonl.gz", "plan.json", "responses.jsonl.gz", "submission.json",
    ]  # fmt: skip
    body = json.loads((folder / "submission.json").read_text())
    assert body["method"]["name"] == "unbench:npo"
    assert body["result"]["notes"] == {"seed-0": "~/x"}
    assert str(finished.parent) not in json.dumps(body)
    assert unbench("validate", small.submissions).code == 0


def test_twice_gives_the_same_bytes(finished: Path, small: World, unbench: Run) -> None:
    def packed() -> dict[str, bytes]:
        assert submit(unbench, finished, small).code == 0
        return {path.name: path.read_bytes() for path in small.submissions.rglob("*") if path.is_file()}

    first = packed()
    assert packed() == first


def test_machine_readable(finished: Path, small: World, unbench: Run) -> None:
    said = json.loads(submit(unbench, finished, small, "--json").out)
    assert said["schema"] == "unbench.submitted/1"
    assert Path(said["submissions"][0]["folder"]).is_dir()


def test_packs_the_file_of_a_method(small: World, forged: Forged, tmp_path: Path, unbench: Run) -> None:
    plugin = tmp_path / "nudge.py"
    plugin.write_text(SOURCE)
    folder = made(small, forged, tmp_path, "file:nudge", plugin)
    change(folder, lambda result, plan: (plan.update(config={}), result["plan"].update(config={})))
    from unbench.plan import Plan

    run_id = Plan.model_validate(json.loads((folder / "plan.json").read_text())).run_id
    change(folder, lambda result, plan: result.update(run_id=run_id))
    done = submit(unbench, folder, small)
    assert done.code == 0, done.err
    (where,) = small.submissions.glob("bios/fact/nudge/*")
    assert (where / "method.py").read_text() == SOURCE
    assert json.loads((where / "plan.json").read_text())["plugins"][0]["path"] is None
    assert str(tmp_path) not in (where / "submission.json").read_text()


def test_attacks_that_are_not_locked_are_left_out(finished: Path, small: World, unbench: Run) -> None:
    change(finished, lambda result, plan: result["attacks"][1]["config"].update(strengths=[1]))
    done = submit(unbench, finished, small)
    assert done.code == 0, done.err
    assert "unbench:sample is left out: the leaderboard has not tried it" in done.err
    (path,) = small.submissions.rglob("submission.json")
    assert list(json.loads(path.read_text())["yardstick"]["attacks"]) == ["unbench:quantize"]


def test_anti_samples_are_packed(finished: Path, small: World, unbench: Run) -> None:
    work = finished / "seed-0" / "work"
    work.mkdir()
    lines = [{"kept": False, "question": "a\u2028b"}, {"kept": True, "question": "a\x1b"}]
    text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines)
    (work / "anti_samples.jsonl").write_text(text, encoding="utf-8")
    assert submit(unbench, finished, small).code == 0
    (path,) = small.submissions.rglob("submission.json")
    found = Forged(path.parent).lines(names.SAMPLES_FILE)
    assert [one["question"] for one in found] == ["a\ufffd", "a\u2028b"]


def two_files(result: dict[str, Any], plan: dict[str, Any]) -> None:
    plan["plugins"] = [{"name": f"{k}.py", "hash": "0" * 64, "path": None} for k in "ab"]


@pytest.mark.parametrize(
    ("alter", "code", "said"),
    [
        (lambda result, plan: plan.update(limit=6), 2, "was made with --limit: it is a quick look"),
        (lambda result, plan: result.update(split="select"), 2, "is of the split 'select', which is for tuning"),
        (lambda result, plan: result["code"].update(dirty=True), 2, "whose files differ from its commit"),
        (lambda result, plan: plan.update(task_path="mine.yaml"), 2, "is a task of your own"),
        (two_files, 2, "was made with 2 plugin files, and one can be packed"),
        (lambda result, plan: result["hashes"].update(model="0" * 64), 2, "unbench leaderboard lock RUN"),
        (lambda result, plan: result["hashes"].update(task="0" * 64), 2, "has no yardstick for bios/fact in this"),
        (lambda result, plan: result.update(task="../../x"), 2, "name no place on a leaderboard"),
        (lambda result, plan: result.update(run_id="../../../x"), 2, "name no place on a leaderboard"),
        (lambda result, plan: result.update(method="unbench:../x"), 2, "name no place on a leaderboard"),
        (lambda result, plan: result.update(run_id="0123456789ab"), 1, "its run-id is 0123456789ab, and its plan's"),
    ],
)
def test_refused(
    alter: Callable[..., object], code: int, said: str, finished: Path, small: World, tmp_path: Path, unbench: Run
) -> None:
    change(finished, alter)
    for name in ("plugin.py", "plugin-2.py"):
        (finished / name).write_text("")
    before = {path for path in tmp_path.rglob("*") if small.root not in path.parents and path != small.root}
    done = submit(unbench, finished, small)
    assert (done.code, said in done.err) == (code, True), done
    after = {path for path in tmp_path.rglob("*") if small.root not in path.parents and path != small.root}
    assert after == before


@pytest.mark.parametrize(
    "more",
    [
        ("--weights", "http://example.org"),
        ("--weights", "javascript:alert(1)"),
        ("--weights", "https://example.org@\x1b"),
        ("--supersedes", "../../x"),
        ("--submitter", "A\u202eB"),
        ("--submitter", "A" * 501),
    ],
)
def test_what_the_submitter_says_must_fit(more: tuple[str, str], finished: Path, small: World, unbench: Run) -> None:
    done = submit(unbench, finished, small, *more)
    assert done.code == 2
    assert done.err.startswith("Error: This can't be submitted (")
    assert len(done.err.splitlines()) == 1
    assert not small.submissions.exists()


def test_seeds_of_other_probes(finished: Path, small: World, unbench: Run) -> None:
    yard = small.yard()
    table = frame_of(yard.probes[1:], "unlearned", UNLEARNED, 1)
    responses.save(table, finished / "seed-0" / "responses.parquet")
    done = submit(unbench, finished, small)
    assert (done.code, "was asked other probes than the yardstick's" in done.err) == (2, True)


def test_points_that_the_yardstick_has_not(finished: Path, small: World, unbench: Run) -> None:
    table = attack_table(small.yard().asked, 0.4, False, 1)
    responses.save_table(table[table["strength"] == 4.0], finished / "seed-1" / "attacks" / "quantize.parquet")
    done = submit(unbench, finished, small)
    assert (done.code, "has other points of unbench:quantize" in done.err) == (2, True)


@pytest.mark.parametrize("run", ["", "zz", "../x", "*"])
def test_verify_knows_no_such_run(run: str, small: World, unbench: Run) -> None:
    done = unbench("verify", run, "--leaderboard", small.root)
    assert (done.code, len(done.err.splitlines())) == (2, 1)


def test_verify_refuses_what_does_not_validate(small: World, forged: Forged, tmp_path: Path, unbench: Run) -> None:
    """A plan may name a file to run and a folder to write to: nothing is done before it is checked."""
    forged.plan |= {"task_path": str(tmp_path / "evil.yaml")}
    forged.identify()
    forged.seal()
    out = tmp_path / "verify"
    done = unbench("verify", forged.folder, "--leaderboard", small.root, "--out", out, "--run-code")
    assert (done.code, "plan.json doesn't say task_path" in done.err) == (2, True)
    assert not out.exists()


def test_verify_runs_no_file_unasked(small: World, forged: Forged, tmp_path: Path, unbench: Run,
                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    done = unbench("verify", forged.folder, "--leaderboard", small.root, "--out", tmp_path / "verify")
    assert (done.code, "is a file that a stranger wrote" in done.err) == (2, True)
    assert not (tmp_path / "sentinel").exists()
    assert not (tmp_path / "verify").exists()


def test_verify_of_weights_that_are_not_published(small: World, forged: Forged, tmp_path: Path, unbench: Run) -> None:
    (tmp_path / "weights").mkdir()
    done = unbench("verify", forged.folder, "--leaderboard", small.root, "--out", tmp_path / "verify",
                   "--weights", tmp_path / "weights", "--run-code")  # fmt: skip
    assert (done.code, "publishes no weights" in done.err) == (2, True)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A real leaderboard with one real submission, of a method that was a file; and the run that it was made of."""
    import unbench as ub
    from unbench.results.store import RunFolder
    from unbench.submissions.lock import add_yardstick
    from unbench.submissions.pack import pack_run, read_weights

    root = tmp_path_factory.mktemp("real")
    plugin = root / "nudge.py"
    plugin.write_text(SOURCE)
    run = Path(ub.run(task="bios/fact", plugins=[plugin], seeds=(0,), out=root / "runs").dir)
    # The checkout may have changes while it is tested.
    change(run, lambda result, plan: result["code"].update(dirty=False))
    folder, board = RunFolder(run), root / "leaderboard"
    add_yardstick(folder, board, lambda *said: None)
    weights = read_weights("https://example.org/nudge@main", folder)
    pack_run(folder, board, submitter="A. Researcher", weights=weights)
    return board, run


@pytest.fixture
def board(real: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(real[0], tmp_path / "leaderboard"))


def verified(board: Path) -> dict[str, Any]:
    (path,) = board.glob("verifications/*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def verify(unbench: Run, board: Path, *more: object) -> Any:
    (folder,) = board.glob("submissions/*/*/*/*")
    return unbench("verify", folder.name, "--leaderboard", board, "--out", board.parent / "verify", *more)


@pytest.mark.slow
def test_made_again(board: Path, unbench: Run) -> None:
    assert unbench("validate", board / "submissions").code == 0
    assert verify(unbench, board).code == 2
    done = verify(unbench, board, "--run-code", "--device", "cpu")
    assert (done.code, verified(board)["badge"]) == (0, "reproduced"), done.err
    assert unbench("validate", board / "submissions").code == 0


@pytest.mark.slow
def test_forged_rows_are_refuted(board: Path, unbench: Run) -> None:
    """Every probe of the forget ring answered as by a stranger, consistently: only doing it again finds it."""
    (folder,) = board.glob("submissions/*/*/*/*")
    forged = Forged(folder)
    rows = forged.lines()
    for row in rows[2:]:
        if row["probe"].startswith("forget/"):
            row["lp"] = [-2.0] * len(row["lp"])
    forged.put_lines(rows)
    forged.rescore()
    forged.seal()
    assert unbench("validate", board / "submissions").code == 0
    done = verify(unbench, board, "--run-code", "--device", "cpu")
    assert (done.code, verified(board)["badge"]) == (1, "refuted"), done.err


@pytest.mark.slow
def test_published_weights_are_asked_again(board: Path, real: tuple[Path, Path], unbench: Run) -> None:
    weights = board.parent / "weights"
    shutil.copytree(real[1] / "seed-0" / "unlearned", weights / "seed-0")
    done = verify(unbench, board, "--weights", weights, "--run-code", "--device", "cpu")
    assert (done.code, verified(board)["badge"]) == (0, "re-evaluated"), done.err


@pytest.mark.slow
def test_other_weights_are_refused(board: Path, real: tuple[Path, Path], unbench: Run) -> None:
    weights = board.parent / "weights"
    shutil.copytree(real[1] / "seed-0" / "unlearned", weights / "seed-0")
    (weights / "seed-0" / "config.json").write_text("{}")
    done = verify(unbench, board, "--weights", weights, "--run-code")
    assert (done.code, "does not hold the published weights of seed 0" in done.err) == (2, True)
    assert not (board / "verifications").exists()
