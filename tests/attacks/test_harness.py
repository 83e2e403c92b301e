"""Attacks in a run: what is kept, what fails, what is told, on nano."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from unbench import api, spine
from unbench.attacks.choose import attack_names, choose
from unbench.attacks.harness import NO_WEIGHTS, forget_probes
from unbench.attacks.unrelated import unrelated_rows
from unbench.errors import UsageError
from unbench.plugins import open_task
from unbench.results.schema import Result
from unbench.results.store import RunFolder, read_result

CHEAP = {"relearn_heldout.times": [10.0], "relearn_heldout.at": [5], "neighbours.at": [5], "benign.rows": [10]}
TWO_EPOCHS = {"relearn_forget.epochs": [1, 2]}
ONE = """
from unbench.attack import Attack, AttackCard, NotPossible
class Mine(Attack):
    card = AttackCard(name="mine", title="Mine", kind="prompt", summary="Asks in capitals.")
    def attack(self, context):
        {body}
"""
CAPITALS = "context.ask(1, probes=[context.reworded(p, question=context.question(p).upper()) for p in context.probes])"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs of three controls and of a method without weights."""
    out = tmp_path_factory.mktemp("runs")
    found = {}
    for method in ("none", "retrain", "prompt_guard"):
        found[method] = Path(api.run(method, out=out, limit=8, device="cpu").dir)
    return found


@pytest.fixture
def run_of(finished: dict[str, Path], tmp_path: Path) -> Any:
    """A copy of a finished run to attack."""

    def copy(method: str) -> RunFolder:
        return RunFolder(Path(shutil.copytree(finished[method], tmp_path / method)))

    return copy


def plugin(folder: Path, body: str, name: str = "mine.py") -> str:
    file = folder / name
    file.write_text(ONE.format(body=body))
    return str(file)


def by_name(result: Result) -> dict[str, Any]:
    return {attack.name.rpartition(":")[2]: attack for attack in result.attacks}


def test_none_gives_everything_away_and_retrain_nothing(run_of: Any) -> None:
    """Eight facts of each kind: the target under any of these attacks still knows, a model that never knew does not."""
    names = ["quantize", "relearn_heldout", "benign", "neighbours"]
    none = by_name(spine.attack(run_of("none"), names, CHEAP))
    retrain = by_name(spine.attack(run_of("retrain"), names, CHEAP))
    for name in names:
        assert none[name].worst is not None
        assert none[name].forget.value < 0.1
        assert min(point.excess.value for point in none[name].points) > 0.8
        assert retrain[name].worst is None
        for point in retrain[name].points:
            assert point.excess.low is None or point.excess.low <= 0 <= point.excess.high
        assert retrain[name].forget.value == 1.0


def test_relearning_counts_steps_and_only_its_first_epoch(run_of: Any) -> None:
    result = spine.attack(run_of("none"), ["relearn_forget"], TWO_EPOCHS)
    (attack,) = result.attacks
    assert [point.counted for point in attack.points] == [True, False]
    assert attack.notes["seed-0"]["steps"] == attack.points[0].strength
    assert attack.notes["reference"]["steps"] is None
    assert attack.notes["reference"]["most_steps"] == attack.points[-1].strength


def test_worst_is_kept_in_the_result_and_earlier_attacks_stay(run_of: Any) -> None:
    folder = run_of("none")
    before = read_result(folder)
    first = spine.attack(folder, ["quantize"])
    assert first.worst is not None
    assert first.worst.forget_worst.value == pytest.approx(0, abs=0.02)
    assert first.worst.unattacked is not None
    assert first.worst.unattacked.excess.value > 0.9
    marks = {file.name: file.stat().st_mtime_ns for file in (folder.path / "seed-0" / "attacks").iterdir()}
    second = spine.attack(folder, ["benign"], {"benign.rows": [10]})
    assert set(by_name(second)) == {"quantize", "benign"}
    kept = {name: at for name, at in marks.items() if name.startswith("quantize")}
    assert {name: (folder.path / "seed-0" / "attacks" / name).stat().st_mtime_ns for name in kept} == kept
    third = spine.attack(folder, ["quantize"])
    assert by_name(third)["benign"] == by_name(second)["benign"]
    stored = read_result(folder)
    assert stored.attacks == second.attacks
    assert stored.scores == before.scores
    assert stored.run_id == before.run_id


@pytest.mark.slow
def test_run_with_attacks_equals_attacking_afterwards(finished: dict[str, Path], run_of: Any, tmp_path: Path) -> None:
    asked = api.run("retrain", out=tmp_path / "out", limit=8, device="cpu", attacks=["quantize"])
    after = spine.attack(run_of("retrain"), ["quantize"])
    assert asked.run_id == after.run_id
    assert by_name(asked)["quantize"].points == by_name(after)["quantize"].points
    resumed = api.run("retrain", out=tmp_path / "out", limit=8, device="cpu", resume=True)
    assert [attack.name for attack in resumed.attacks] == ["unbench:quantize"]
    assert resumed.worst == asked.worst


def test_a_method_without_weights(run_of: Any) -> None:
    folder = run_of("prompt_guard")
    found = by_name(spine.attack(folder, ["quantize"]))
    found |= by_name(spine.attack(folder, ["benign"]))
    assert set(found) == {"quantize", "benign"}
    for attack in found.values():
        assert attack.forget.value is None
        assert attack.reason == NO_WEIGHTS
        assert attack.points == []
    assert read_result(folder).attacks == [found["benign"], found["quantize"]]


def test_a_strangers_attack_in_a_file(run_of: Any, tmp_path: Path) -> None:
    result = spine.attack(run_of("none"), [], plugins=[plugin(tmp_path, CAPITALS)])
    (attack,) = result.attacks
    assert attack.name == "file:mine"
    assert len(attack.points) == 1
    facts: dict[str, set[str]] = {}
    for probe in _probes():
        facts.setdefault(probe.kind, set()).add(probe.fact)
    assert attack.points[0].excess.n == sum(len(own) for own in facts.values() if len(own) >= 5)


def _probes() -> Any:
    from unbench.models.prepare import limit_probes

    task = open_task("bios/fact")
    return forget_probes(limit_probes(task.probes(), 8), {row.fact for row in task.data().forget})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise RuntimeError('no such\\nthing')", "raised RuntimeError on the unlearned model: no such thing"),
        ("raise NotPossible('needs CUDA')", "needs CUDA"),
        ("pass", "raised ValueError on the unlearned model: the attack asked nothing"),
        ("raise SystemExit(3)", "raised SystemExit on the unlearned model: 3"),
        ("context.ask(1, probes=[])", "raised"),
        ("context.ask(context.role == 'reference')", "did not ask every model the same: The reference lacks"),
    ],
)
def test_an_attack_that_fails_is_null_with_its_reason(body: str, said: str, run_of: Any, tmp_path: Path) -> None:
    folder = run_of("retrain")
    result = spine.attack(folder, ["quantize"], plugins=[plugin(tmp_path, body)])
    found = by_name(result)
    assert found["quantize"].points
    assert found["mine"].forget.value is None
    assert said in str(found["mine"].reason)
    assert "\n" not in str(found["mine"].reason)
    raised = said.startswith("raised")
    assert (folder.path / "seed-0" / "attacks" / "file--mine.error.txt").is_file() == raised
    mended = spine.attack(folder, [], plugins=[plugin(tmp_path, CAPITALS, "mended.py")])
    assert by_name(mended)["mine"].points


def test_a_damaged_file_is_made_again(run_of: Any) -> None:
    folder = run_of("none")
    first = spine.attack(folder, ["quantize"])
    table = folder.path / "seed-0" / "attacks" / "quantize.parquet"
    table.write_bytes(b"nothing")
    again = spine.attack(folder, ["quantize"])
    assert again.attacks[0].points == first.attacks[0].points


def test_names_and_settings() -> None:
    assert attack_names(["quantize", "unbench:benign", "quantize"]) == ("unbench:quantize", "unbench:benign")
    everything = attack_names(["all"])
    assert {"unbench:quantize", "unbench:relearn_heldout"} <= set(everything)
    assert set(attack_names(["default"])) < set(everything)
    assert attack_names(["none"]) == ()
    assert attack_names([]) == ()
    (chosen,) = choose(["unbench:benign"], "nano", {"benign.rows": [5]})
    assert chosen.attack.config.rows == (5,)
    assert chosen.attack.config.lr == 3e-4
    (other,) = choose(["unbench:benign"], "somebody/else")
    assert other.attack.config.lr == 1e-5


@pytest.mark.parametrize(
    ("asked", "settings", "said"),
    [
        (["quantise"], {}, "There is no attack called 'quantise'. Did you mean 'quantize'?"),
        (["none", "benign"], {}, "none goes with nothing else"),
        (["benign"], {"lr": 1}, "--set lr names no attack"),
        (["benign"], {"quantize.bits": [4]}, "which is not among the attacks"),
        (["benign"], {"benign.rate": 1}, "Attack unbench:benign"),
        (["benign"], {"benign.lr": -1}, "Attack unbench:benign"),
    ],
)
def test_bad_names_and_settings(asked: list[str], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("(", r"\(").replace("?", r"\?")):
        choose(attack_names(asked), "nano", settings)


def test_attacks_change_no_run_id() -> None:
    from unbench.plan import make_plan

    assert make_plan("npo", attacks=["all"]).run_id == make_plan("npo").run_id


def test_one_phrasing_a_fact_and_kind() -> None:
    task = open_task("bios/fact")
    facts = {row.fact for row in task.data().forget}
    probes = forget_probes(task.probes(), facts)
    assert len(probes) == len({(p.fact, p.kind) for p in probes}) == 30 * 5
    single = open_task("facts/hogwarts")
    forgotten = {row.fact for row in single.data().forget}
    asked = forget_probes(single.probes(), forgotten)
    assert len(asked) == sum(p.ring == "forget" for p in single.probes())


def test_unrelated_rows() -> None:
    """Holdout people where the task has them, none of the forgotten ones; else sums, each true and there once."""
    task = open_task("bios/fact")
    forgotten = {row.subject for row in task.data().forget}
    rows = unrelated_rows(task)
    assert rows
    assert not forgotten & {row.subject for row in rows}
    sums = unrelated_rows(open_task("facts/hogwarts"))
    assert len(sums) == 1000
    assert len({row.question for row in sums}) == 1000
    for row in sums:
        a, b = (int(word) for word in row.subject.split(" plus "))
        assert row.answer == f"{a} plus {b} is {a + b}."


def test_the_result_holds_it_as_the_schema_says(run_of: Any) -> None:
    import jsonschema

    folder = run_of("none")
    spine.attack(folder, ["quantize"])
    schema = json.loads((Path(__file__).parents[2] / "docs" / "unbench.result-1.schema.json").read_text())
    jsonschema.validate(json.loads(folder.result_file.read_text()), schema)
