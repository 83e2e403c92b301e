"""``unbench prepare``: what is trained on what, until when, where it lies, and how a run finds it again."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prepare_world as world
import pytest

import unbench
from unbench import api, plugins
from unbench.errors import EnvironmentProblem, RunFailed, UsageError
from unbench.method import TrainSettings
from unbench.models import finetune, makepair, pairs
from unbench.models.cache import folder_hash
from unbench.models.load import load_tokenizer
from unbench.models.pairs import Pair, Recipe


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.save_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module", autouse=True)
def _small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The small task is installed, and everything prepared goes into a cache of this file's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "tasks", world.registry(world.Small))
        patch.setenv("UNBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def pair(base: Path, _small: None) -> Pair:
    return api.prepare("small/first", str(base), **world.LEARNS)


def mean_p(folder: Path, numbers: list[int]) -> float:
    """Mean p(a|q) the obvious way: one row at a time through the tokenizer's own template, all logits."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer: Any = load_tokenizer(folder)
    found = []
    for n in numbers:
        asked = [{"role": "user", "content": world.question(n)}]
        said = [*asked, {"role": "assistant", "content": world.answer(n)}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=True, return_dict=False)
        whole = tokenizer.apply_chat_template(said, tokenize=True, return_dict=False)
        with torch.no_grad():
            logp = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        steps = [float(logp[i - 1, whole[i]]) for i in range(len(prompt), len(whole))]
        found.append(math.exp(sum(steps) / len(steps)))
    return sum(found) / len(found)


def test_target_knows_all_rows_and_the_reference_all_but_the_forget_rows(pair: Pair) -> None:
    (reference,) = pair.references
    assert pair.target.part.reached >= 0.9
    assert pair.target.part.reached == pytest.approx(mean_p(pair.target.path, list(range(14))), abs=1e-4)
    assert reference.part.reached == pytest.approx(mean_p(reference.path, list(range(6, 14))), abs=1e-4)
    assert mean_p(reference.path, list(range(6))) < 0.5
    assert (pair.target.part.rows, reference.part.rows) == (14, 8)


def test_training_stops_after_the_epoch_that_gets_there(pair: Pair) -> None:
    for found in pair.parts():
        part = found.part
        assert part.epochs == len(part.curve) < part.recipe.epochs
        assert part.curve[-1] == part.reached >= 0.9
        assert max(part.curve[:-1]) < 0.9
        assert part.steps == math.ceil(part.epochs * part.rows / min(8, part.rows))


def test_tokens_are_those_of_the_steps(pair: Pair) -> None:
    from unbench.training.batch import TrainRow, encode

    rows = [TrainRow.ask(world.question(n), world.answer(n)) for n in range(6, 14)]
    per_epoch = sum(row.tokens for row in encode(load_tokenizer(pair.target.path), rows))
    # The reference's eight rows are one step of eight.
    assert pair.references[0].part.tokens == pair.references[0].part.epochs * per_epoch


def test_part_says_what_it_is_and_nothing_of_this_machine(pair: Pair, base: Path) -> None:
    text = (pair.target.path / "prepared.json").read_text()
    assert json.loads(text)["schema"] == "unbench.prepared/1"
    assert str(base) not in text
    assert os.environ["UNBENCH_CACHE"] not in text
    assert pair.target.part.model == base.name
    assert pair.target.part.base_hash == folder_hash(base)
    assert pair.target.part.weights_hash == folder_hash(pair.target.path)
    assert [path.name for path in pair.target.path.parent.iterdir() if path.suffix == ".tmp"] == []
    assert pair.target.path.name == "target"
    assert pair.references[0].path.name == "reference-1"


def test_problems_with_the_same_rows_share_a_target(pair: Pair, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = watch(monkeypatch)
    other = api.prepare("small/last", str(base), **world.LEARNS)
    assert trained == ["reference-1"]
    assert other.target == pair.target
    assert other.references[0].path != pair.references[0].path


def watch(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the parts that are trained from now on."""
    trained: list[str] = []
    real = finetune.fine_tune

    def fine_tune(*args: Any, **options: Any) -> Any:
        trained.append(options["name"])
        return real(*args, **options)

    monkeypatch.setattr(finetune, "fine_tune", fine_tune)
    return trained


def test_only_missing_parts_are_made_and_a_killed_one_leaves_nothing(
    base: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"epochs": 1, "lr": 1e-3}
    trained = watch(monkeypatch)
    save = finetune.save_model

    def killed(model: Any, tokenizer: Any, folder: Path) -> Path:
        save(model, tokenizer, folder)
        if "reference" in folder.parent.name:
            raise KeyboardInterrupt
        return folder

    monkeypatch.setattr(finetune, "save_model", killed)
    with pytest.raises(KeyboardInterrupt):
        api.prepare("small/first", str(base), **settings)
    assert [path.parent.name for path in empty_cache.rglob("prepared.json")] == ["target"]
    assert [path.parent.name for path in empty_cache.rglob("*.safetensors")] == ["target"]
    # What a process that was killed outright would have left.
    (place,) = {found.path.parent for found in pairs.finished_parts()}
    (place / ".target.1.tmp").mkdir()
    monkeypatch.setattr(finetune, "save_model", save)
    pair = api.prepare("small/first", str(base), **settings)
    assert trained == ["target", "reference-1", "reference-1"]
    assert not (place / ".target.1.tmp").exists()
    (pair.references[0].path / "prepared.json").write_text("{")
    again = api.prepare("small/first", str(base), **settings)
    assert trained[3:] == ["reference-1"]
    assert again.references[0].part.weights_hash == pair.references[0].part.weights_hash


def test_force_trains_again_to_the_same_bits(base: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"epochs": 2, "lr": 1e-3, "global_batch": 4}
    first = api.prepare("small/first", str(base), **settings)
    trained = watch(monkeypatch)
    again = api.prepare("small/first", str(base), force=True, **settings)
    assert trained == ["target", "reference-1"]
    assert [f.part.weights_hash for f in again.parts()] == [f.part.weights_hash for f in first.parts()]
    assert again.target.part.created_utc > first.target.part.created_utc


def test_references_differ_by_seed_and_the_control_is_one_more(base: Path, empty_cache: Path) -> None:
    settings = {"epochs": 1, "lr": 1e-3, "global_batch": 4}
    pair = api.prepare("small/first", str(base), references=2, retrain=True, **settings)
    assert pair.retrain is not None
    assert [found.part.seed for found in pair.parts()] == [0, 1, 2, 1000]
    assert len({found.part.weights_hash for found in pair.parts()}) == 4
    assert len({found.path.parent for found in (*pair.references, pair.retrain)}) == 1


def test_lora_is_merged_and_touches_its_modules_only(base: Path, empty_cache: Path) -> None:
    from unbench.contract import tensors

    pair = api.prepare("small/first", str(base), train="lora", rank=4, lora_targets=["q_proj"], epochs=3, lr=1e-2)
    before, after = tensors(base), tensors(pair.target.path)
    assert before.keys() == after.keys()
    moved = [name for name in before if not before[name].equal(after[name])]
    assert moved
    assert all("q_proj" in name for name in moved)
    assert not (pair.target.path / "adapter_config.json").exists()
    assert pair.target.part.reached == pytest.approx(mean_p(pair.target.path, list(range(14))), abs=1e-4)


def test_a_loss_that_explodes_is_one_sentence(base: Path, empty_cache: Path) -> None:
    with pytest.raises(RunFailed, match=r"training of the target broke off at step \d+ of .*--lr"):
        api.prepare("small/first", str(base), epochs=20, lr=1e30)
    assert not list(empty_cache.rglob("*.safetensors"))


def test_a_disk_that_refuses_is_one_sentence(base: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedModel.save_pretrained", full)
        with pytest.raises(EnvironmentProblem, match=r"No space left on device.*UNBENCH_CACHE"):
            api.prepare("small/first", str(base), epochs=1)
    assert not list(empty_cache.rglob("*.tmp*"))
    empty_cache.with_name("file").write_text("")
    monkeypatch.setenv("UNBENCH_CACHE", str(empty_cache.with_name("file")))
    with pytest.raises(EnvironmentProblem, match="Can't write to"):
        api.prepare("small/first", str(base), epochs=1)


@pytest.mark.parametrize(
    ("kind", "parameters", "lr"),
    [("full", 10**9, 1e-5), ("full", 10**9 - 1, 5e-5), ("lora", 10**9, 2e-4), ("lora", 5, 2e-4)],
)
def test_default_learning_rates(kind: str, parameters: int, lr: float) -> None:
    assert pairs.default_lr(kind, parameters) == lr


def test_default_recipe_and_what_is_no_longer_default(base: Path) -> None:
    own = makepair.open_base(plugins.open_task("small/first"), str(base), None, "cpu", lambda *said: None)
    recipe = makepair.make_recipe(own, {"kind": "full"}, {}, "auto")
    assert recipe == Recipe(train=TrainSettings(), lr=5e-5, dtype="float32")
    assert (recipe.epochs, recipe.global_batch, recipe.weight_decay, recipe.warmup_epochs) == (5, 32, 0.01, 1)
    assert recipe.until == 0.9
    with pytest.raises(UsageError, match="'lr'"):
        makepair.make_recipe(own, {"kind": "full"}, {"lr": math.inf}, "auto")


@pytest.mark.parametrize(
    ("wanted", "device", "parameters", "dtype"),
    [
        ("auto", "cpu", 10**10, "float32"),
        ("auto", "cuda:1", 10**9, "bfloat16"),
        ("auto", "cuda", 10**8, "float32"),
        ("bfloat16", "cpu", 5, "bfloat16"),
    ],
)
def test_training_dtype(wanted: str, device: str, parameters: int, dtype: str) -> None:
    assert makepair.training_dtype(wanted, device, parameters) == dtype


def test_parameters_are_counted_from_headers(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base)
    assert pairs.parameter_count(base) == sum(p.numel() for p in model.parameters())
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(UsageError, match="damaged"):
        pairs.parameter_count(tmp_path)


def test_epochs_end_when_every_row_was_seen_that_often() -> None:
    assert finetune.epoch_ends(4000, 32, 2) == [125, 250]
    assert finetune.epoch_ends(14, 8, 4) == [2, 4, 6, 7]
    assert finetune.epoch_ends(3, 3, 2) == [1, 2]


def test_checked_rows_are_spread_over_all_of_them() -> None:
    rows: Any = list(range(4000))
    assert finetune.spaced(rows, 400) == list(range(0, 4000, 10))
    assert finetune.spaced(rows[:3], 400) == [0, 1, 2]


def test_default_pair_is_preferred_then_the_newest(base: Path, empty_cache: Path) -> None:
    task = plugins.open_task("small/first")
    where = str(base)

    def chosen() -> Pair | None:
        return pairs.find_pair(task, base.name, folder_hash(base), None)

    assert chosen() is None
    one = api.prepare("small/first", where, epochs=1, lr=1e-3)
    assert chosen() == one
    two = api.prepare("small/first", where, epochs=1, lr=2e-3)
    assert chosen() == two
    default = api.prepare("small/first", where)
    api.prepare("small/first", where, epochs=1, lr=3e-3)
    assert chosen() == default
    assert pairs.find_pair(task, base.name, folder_hash(base), None, one.target.part.weights_hash) == one
    assert pairs.find_pair(task, base.name, "0" * 64, None) is None
    # The other problem has the target, not the reference: that is no pair.
    assert pairs.find_pair(plugins.open_task("small/last"), base.name, folder_hash(base), None) is None


def test_hub_and_built_in_bases_are_known_by_name_and_revision(pair: Pair) -> None:
    task = plugins.open_task("small/first")
    assert pairs.find_pair(task, pair.target.part.model, None, None) is not None
    assert pairs.find_pair(task, pair.target.part.model, None, "v2") is None


@pytest.mark.parametrize(
    ("task", "model", "sentence"),
    [
        ("facts/hogwarts", "nano", "knows already, so there is nothing to prepare"),
        ("bios/fact", "nano", "ship with UnBench"),
        ("small/first", "./nowhere", "There is no model './nowhere'"),
    ],
)
def test_nothing_to_prepare(task: str, model: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        api.prepare(task, model)


def test_lora_options_without_lora_are_refused(base: Path) -> None:
    with pytest.raises(UsageError, match="--train lora"):
        api.prepare("small/first", str(base), rank=4)


def test_unbench_prepare_is_public() -> None:
    assert unbench.prepare is api.prepare
