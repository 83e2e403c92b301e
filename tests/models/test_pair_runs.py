"""Runs and evaluations of a trained task: the prepared pair, targets and references named by hand, or none at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prepare_world as world
import pytest
import torch

import unbench
from unbench import api, plugins
from unbench.errors import EnvironmentProblem, UsageError
from unbench.models.cache import folder_hash
from unbench.models.load import load_model, load_tokenizer
from unbench.models.pairs import Pair
from unbench.models.prepare import Answered, add_references
from unbench.plan import make_plan


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.save_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module", autouse=True)
def _small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "tasks", world.registry(world.Small))
        patch.setenv("UNBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def pair(base: Path, _small: None) -> Pair:
    return api.prepare("small/first", str(base), references=2, **world.LEARNS)


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is prepared."""
    monkeypatch.setenv("UNBENCH_CACHE", str(tmp_path / "cache"))


def load(folder: Path) -> tuple[Any, Any]:
    return load_model(folder, "cpu", torch.float32), load_tokenizer(folder)


def test_run_takes_the_pair_of_its_model(pair: Pair, base: Path, tmp_path: Path) -> None:
    result = unbench.run("none", "small/first", str(base), out=tmp_path, data_dir=tmp_path)
    used = result.notes["prepared"]
    assert used["target"]["weights_hash"] == result.hashes.model == result.plan["prepared"]
    assert used["target"]["reached"] == pair.target.part.reached >= 0.9
    assert [part["seed"] for part in used["references"]] == [1, 2]
    assert result.hashes.references == [found.part.weights_hash for found in pair.references]
    assert result.hashes.data == {"rows": "0" * 64}
    assert result.model == base.name
    assert (result.scores.forget.value, result.scores.retain.value) == (0, 1)
    assert result.metrics["forget_probability"].value == pytest.approx(0.93, abs=0.06)
    assert result.metrics["forget_quality"].value is not None
    assert "mia_gradnorm" not in result.metrics
    (group,) = (group for group in result.groups if group.ring == "forget")
    assert group.known_reference is not None
    assert group.known_reference < 0.5
    stored = Path(result.dir, "result.json").read_text()
    assert str(tmp_path) not in stored
    assert str(base) not in stored


def test_methods_train_the_prepared_target(pair: Pair, base: Path, tmp_path: Path) -> None:
    settings = {"steps": 12, "lr": 3e-3, "batch_size": 6}
    result = unbench.run(
        "gradient_ascent", "small/first", str(base), out=tmp_path, settings=settings, train="full", gradnorm=True
    )
    assert result.scores.forget.value is not None
    assert result.scores.forget.value > 0.2
    assert result.metrics["mia_gradnorm"].value is not None
    # The target in the cache is as it was.
    assert folder_hash(pair.target.path) == pair.target.part.weights_hash


def test_a_missing_pair_is_named_with_its_command(missing: None, base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no target for small/first made from .*unbench prepare small/first --model"):
        unbench.run("none", "small/first", str(base), out=tmp_path / "runs")
    with pytest.raises(UsageError, match=r"unbench prepare small/first --model owner/base --revision v2 --data-dir"):
        make_plan("none", "small/first", revision="v2", data_dir=tmp_path)
    assert not (tmp_path / "runs").exists()


def test_retrain_takes_a_further_reference_or_says_how_to_make_it(pair: Pair, base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unbench prepare small/first .*--epochs 60 --lr 0\.01 .*--retrain"):
        unbench.run("retrain", "small/first", str(base), out=tmp_path)
    made = api.prepare("small/first", str(base), references=2, retrain=True, **world.LEARNS)
    assert made.retrain is not None
    result = unbench.run("retrain", "small/first", str(base), out=tmp_path)
    assert result.hashes.unlearned["0"] == made.retrain.part.weights_hash
    assert result.scores.forget.value is not None
    assert result.scores.forget.value > 0.8
    with pytest.raises(UsageError, match="this target was named by hand"):
        unbench.run("retrain", "small/first", target=str(pair.target.path), out=tmp_path)


def test_target_and_reference_by_hand(pair: Pair, missing: None, tmp_path: Path) -> None:
    target, reference = str(pair.target.path), str(pair.references[0].path)
    alone = unbench.run("none", "small/first", target=target, out=tmp_path)
    assert alone.plan["prepared"] is None
    assert alone.hashes.model == pair.target.part.weights_hash
    assert alone.hashes.references == []
    assert alone.scores.forget.value == 0
    assert {group.known_reference for group in alone.groups} == {None}
    assert alone.metrics["forget_quality"].value is None
    assert "reference" in str(alone.metrics["forget_quality"].reason)
    held = unbench.run("none", "small/first", target=target, references=[reference], out=tmp_path)
    assert held.hashes.references == [pair.references[0].part.weights_hash]
    assert held.metrics["forget_quality"].value is not None
    assert held.run_id != alone.run_id
    assert "prepared" not in held.notes


def test_a_reference_is_its_own_perfect_forgetting(pair: Pair) -> None:
    reference = pair.references[0].path
    result = unbench.evaluate(*load(reference), task="small/first", references=[str(reference)])
    assert result.metrics["forget_quality"].value == pytest.approx(1.0)
    assert result.metrics["forget_ks"].value == 0
    assert result.metrics["mia_reference"].value == pytest.approx(0.5)


def test_evaluate_without_a_target(pair: Pair, base: Path, missing: None) -> None:
    result = unbench.evaluate(*load(pair.target.path), task="small/first", name="bare")
    for name in type(result.scores).model_fields:
        score = getattr(result.scores, name)
        assert score.value is None
        assert "no target" in score.reason
    assert result.metrics["forget_probability"].value == pytest.approx(pair.target.part.reached, abs=0.06)
    assert result.metrics["mia_loss"].value is not None
    assert result.metrics["forget_quality"].value is None
    assert (result.model, result.hashes.model, result.hashes.references) == ("bare", "", [])
    assert result.probes["known_target"].isna().all()
    assert result.probes["known_seed_0"].notna().all()


def test_evaluate_with_a_target_is_what_a_run_says(pair: Pair, base: Path, tmp_path: Path) -> None:
    run = unbench.run("none", "small/first", str(base), out=tmp_path)
    found = unbench.evaluate(
        *load(pair.target.path), task="small/first", target=str(pair.target.path),
        references=[str(part.path) for part in pair.references],
    )  # fmt: skip
    for name in type(run.scores).model_fields:
        assert getattr(found.scores, name) == getattr(run.scores, name)
    for name in ("forget_probability", "forget_quality", "privleak"):
        assert found.metrics[name].value == pytest.approx(run.metrics[name].value, abs=1e-5)


def test_evaluate_refuses_references_where_there_can_be_none() -> None:
    model, tokenizer = unbench.load_target("bios/fact")
    with pytest.raises(UsageError, match="no reference"):
        unbench.evaluate(model, tokenizer, task="facts/hogwarts", references=["smollm2"])


def test_load_target_gives_the_prepared_one(pair: Pair, base: Path) -> None:
    model, _ = unbench.load_target("small/first", str(base))
    other, _ = load(pair.target.path)
    assert all(a.equal(b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_prepared_target_that_changed_is_refused(base: Path, missing: None, tmp_path: Path) -> None:
    made = api.prepare("small/first", str(base), epochs=1, lr=1e-3)
    shutil.copy(base / "model.safetensors", made.target.path / "model.safetensors")
    with pytest.raises(UsageError, match=r"not those that were prepared.*--force"):
        unbench.run("none", "small/first", str(base), out=tmp_path)


def test_the_command_that_mends_a_changed_target_has_its_recipe(base: Path, missing: None, tmp_path: Path) -> None:
    made = api.prepare("small/first", str(base), epochs=1, lr=1e-3)
    shutil.copy(base / "model.safetensors", made.target.path / "model.safetensors")
    with pytest.raises(UsageError, match=r"--epochs 1 --lr 0\.001 .*--force"):
        unbench.run("none", "small/first", str(base), out=tmp_path)


def test_a_prepared_reference_that_changed_is_refused(base: Path, missing: None, tmp_path: Path) -> None:
    made = api.prepare("small/first", str(base), epochs=1, lr=1e-3)
    shutil.copy(base / "model.safetensors", made.references[0].path / "model.safetensors")
    with pytest.raises(UsageError, match=r"The files of the reference .* are not those that the plan stands on"):
        unbench.run("none", "small/first", str(base), out=tmp_path)


def test_one_name_is_not_taken_for_its_letters(pair: Pair) -> None:
    reference = pair.references[0].path
    result = unbench.evaluate(*load(reference), task="small/first", references=str(reference))
    assert result.hashes.references == [pair.references[0].part.weights_hash]
    plan = make_plan("npo", "small/first", target=str(pair.target.path), references=reference,  # type: ignore[arg-type]
                     train="lora", lora_targets="q_proj", lm_eval="quiz")  # fmt: skip
    assert [one.name for one in plan.references] == ["reference-1"]
    assert (plan.train.targets, plan.lm_eval) == (("q_proj",), ("quiz",))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m, t: unbench.evaluate(m, t, task="small/first", limit=0), "setting 'limit' is 0"),
        (lambda m, t: unbench.evaluate(m, t, task="small/first", batch_size=-1), "setting 'batch_size' is -1"),
        (lambda m, t: unbench.evaluate("folder", t, task="small/first"), "a model and its tokenizer in memory"),
        (lambda m, t: unbench.evaluate(m, None, task="small/first"), "a model and its tokenizer in memory"),
        (lambda m, t: unbench.run("none", "small/first", target="x/y", seeds=3), r"Give seeds=range\(3\)"),
        (lambda m, t: unbench.prepare("small/first", "x/y", references=0), "at least one reference, not 0"),
    ],
)
def test_wrong_arguments_are_one_sentence(pair: Pair, call: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        call(*load(pair.target.path))


def test_evaluated_weights_tell_models_of_one_name_apart(pair: Pair) -> None:
    loaded = load(pair.target.path)
    one, two = (unbench.evaluate(*loaded, task="small/first", name="m", weights_hash=digit * 64) for digit in "01")
    assert one.hashes.unlearned == {"0": "0" * 64}
    assert one.run_id != two.run_id
    assert unbench.evaluate(*loaded, task="small/first", name="m").hashes.unlearned == {}


def test_a_cache_that_cannot_be_written_is_named(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    reference, loaded = str(pair.references[0].path), load(pair.target.path)
    monkeypatch.setenv("UNBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(EnvironmentProblem, match=r"Can't write to the cache .*UNBENCH_CACHE"):
        unbench.evaluate(*loaded, task="small/first", references=[reference])


def test_a_folder_called_nano_is_not_the_shipped_model(base: Path, missing: None, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "nano")
    with pytest.raises(UsageError, match="no target for bios/fact made from"):
        make_plan("none", "bios/fact", str(tmp_path / "nano"))
    plan = make_plan("none", "bios/fact", target=str(tmp_path / "nano"), limit=2)
    task = plan.open_task()
    answered = Answered(probes=[])
    add_references(answered, plan, task, (), lambda description, done, total: None)
    assert answered.references == []


def test_responses_of_a_model_are_asked_once_whatever_its_role(
    pair: Pair, base: Path, missing: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unbench import responses

    target = str(pair.target.path)
    unbench.run("none", "small/first", target=target, out=tmp_path)
    roles: list[str] = []
    real = responses.respond

    def respond(*args: Any, **options: Any) -> Any:
        roles.append(options["role"])
        return real(*args, **options)

    monkeypatch.setattr(responses, "respond", respond)
    result = unbench.run("none", "small/first", target=target, references=[target], out=tmp_path)
    assert roles == ["unlearned"]
    # The target as its own reference leaves nothing to forget.
    assert result.scores.forget.value is None


def test_lm_eval_is_asked_once_and_kept(
    pair: Pair, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unbench.lmeval import harness
    from unbench.results.schema import Score

    asked: list[tuple[Any, ...]] = []

    def capabilities(model: Any, tokenizer: Any, tasks: Any, **options: Any) -> harness.Capabilities:
        asked.append((tasks, options["limit"], next(model.parameters()).device.type))
        score = Score(value=0.5, low=0.4, high=0.6, n=10)
        return harness.Capabilities({"lm_eval/quiz/acc": score}, {"lm_eval": "1", "lm_eval/quiz": "2"}, {"limit": None})

    monkeypatch.setattr(harness, "capabilities", capabilities)
    monkeypatch.setattr(harness, "check_tasks", lambda tasks: None)
    options: dict[str, Any] = {"lm_eval": ["quiz"], "seeds": (0, 1), "out": tmp_path}
    first = unbench.run("none", "small/first", str(base), **options)
    assert asked == [(("quiz",), None, "cpu")] * 2
    assert first.metrics["lm_eval/quiz/acc"].value == 0.5
    assert first.metrics["lm_eval/quiz/acc"].low == pytest.approx(0.4)
    assert first.versions["lm_eval/quiz"] == "2"
    Path(first.dir, "result.json").unlink()
    again = unbench.run("none", "small/first", str(base), resume=True, **options)
    assert len(asked) == 2
    assert again.metrics == first.metrics
    assert again.run_id != unbench.run("none", "small/first", str(base), out=tmp_path).run_id
    evaluated = unbench.evaluate(*load(pair.target.path), task="small/first", lm_eval=["quiz"])
    assert evaluated.metrics["lm_eval/quiz/acc"].n == 10
    assert evaluated.versions["lm_eval"] == "1"
    assert json.dumps(evaluated.notes["lm_eval"]) == '{"limit": null}'
