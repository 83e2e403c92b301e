"""The plan: canonical, hashed without seeds and machine fields, every bad option named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from unbench.errors import UsageError
from unbench.models.choose import ReferenceModel
from unbench.plan import data_folder, differing_fields, identity_of, make_plan, parse_settings


def test_run_id_is_the_hash_of_the_identity() -> None:
    plan = make_plan("npo", "bios/fact")
    body = plan.model_dump(mode="json", by_alias=True)
    for field in ("seeds", "device", "batch_size", "machine", "serving", "model_path", "data_dir", "task_path",
                  "attacks"):  # fmt: skip
        del body[field]
    # Fields of later versions stay out where they say nothing.
    for field, default in (
        ("prepared", None),
        ("references", []),
        ("gradnorm", False),
        ("lm_eval", []),
        ("plugins", []),
        ("max_retain_rise", None),
        ("score_engine", None),
    ):
        assert body.pop(field) == default
    assert (body["config"].pop("augment"), body["config"].pop("paraphrases")) == ("none", 5)
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert plan.run_id == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_a_setting_of_augment_counts_only_with_it() -> None:
    plan = make_plan("npo", "bios/fact")
    assert make_plan("npo", "bios/fact", settings={"paraphrases": 9}).run_id == plan.run_id
    more = [make_plan("npo", "bios/fact", settings={"augment": "paraphrases", "paraphrases": n}) for n in (5, 9)]
    assert len({plan.run_id, *(one.run_id for one in more)}) == 3
    assert (
        make_plan("unstar", "bios/fact", settings={"paraphrases": 9}).run_id != make_plan("unstar", "bios/fact").run_id
    )


def test_seeds_and_machine_leave_the_run_id() -> None:
    plan = make_plan("npo", "bios/fact")
    assert make_plan("npo", "bios/fact", seeds=(1, 2), device="cpu", batch_size=3).run_id == plan.run_id
    machine = {"num_processes": 2, "gradient_checkpointing": True, "report_to": "tensorboard", "checkpoint_every": 1.0}
    assert make_plan("npo", "bios/fact", **machine).run_id == plan.run_id  # type: ignore[arg-type]
    assert make_plan("npo", "bios/fact", max_retain_rise=0.5).run_id != plan.run_id
    assert make_plan("npo", "bios/fact", settings={"beta": 0.3}).run_id != plan.run_id
    assert make_plan("npo", "bios/fact", split="select").run_id != plan.run_id


def test_settings_are_read_as_yaml_with_plain_exponents() -> None:
    found = parse_settings(["lr=1e-4", "rationale=false", "steps=3", "name=x=y"])
    assert found == {"lr": 1e-4, "rationale": False, "steps": 3, "name": "x=y"}


def test_train_defaults_to_full_for_nano_and_lora_elsewhere() -> None:
    assert make_plan("npo", "bios/fact").train.kind == "full"
    assert make_plan("npo", "facts/hogwarts").train.kind == "lora"
    lora = make_plan("npo", "bios/fact", train="lora", rank=4, lora_targets=["q_proj"]).train
    assert (lora.kind, lora.rank, lora.targets) == ("lora", 4, ("q_proj",))


@pytest.mark.parametrize(
    "options",
    [{"settings": {"beta": -1}}, {"train": "half"}, {"rank": 0}, {"limit": 0}, {"seeds": ()}, {"settings": {"x": 1}}],
)
def test_bad_options_are_usage_errors(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        make_plan("npo", "bios/fact", **options)  # type: ignore[arg-type]


def test_differing_fields_names_nested_fields_and_values() -> None:
    old = {"config": {"lr": 1, "steps": 2}, "task": "a"}
    new = {"config": {"lr": 3, "steps": 2}, "task": "a"}
    assert differing_fields(old, new) == ["config.lr (1 there, 3 asked)"]


def test_committed_runs_keep_their_ids(repository: Path) -> None:
    files = sorted((repository / "results").rglob("plan.json"))
    assert files
    for file in files:
        text = json.dumps(identity_of(json.loads(file.read_text())), sort_keys=True, separators=(",", ":"),
                          ensure_ascii=False)  # fmt: skip
        assert hashlib.sha256(text.encode()).hexdigest()[:12] == file.parent.name


def test_later_fields_enter_the_run_id_only_where_they_say_something() -> None:
    plan = make_plan("npo", "bios/fact")
    reference = ReferenceModel(name="r", hash="0" * 64, path="/here")
    elsewhere = ReferenceModel(name="r", hash="0" * 64, path="/there")
    changed = [{"gradnorm": True}, {"lm_eval": ("mmlu",)}, {"prepared": "1" * 64}, {"references": (reference,)}]
    ids = {plan.model_copy(update=change).run_id for change in changed}
    assert len(ids) == 4
    assert plan.run_id not in ids
    assert plan.model_copy(update={"data_dir": "/somewhere"}).run_id == plan.run_id
    ours, theirs = (plan.model_copy(update={"references": (one,)}) for one in (reference, elsewhere))
    assert ours.run_id == theirs.run_id


def test_results_show_no_path_of_this_machine(tmp_path: Path) -> None:
    reference = ReferenceModel(name="r", hash="0" * 64, path=str(tmp_path))
    plan = make_plan("npo", "bios/fact").model_copy(
        update={"references": (reference,), "data_dir": str(tmp_path), "model_path": str(tmp_path)}
    )
    assert str(tmp_path) not in json.dumps(plan.public())
    assert plan.public()["references"] == [{"name": "r", "hash": "0" * 64, "path": None}]


def test_data_folder_comes_from_the_environment_only_where_the_task_takes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNBENCH_DATA", str(tmp_path))
    assert data_folder("bios/fact", None) is None
    assert make_plan("npo", "bios/fact").data_dir is None
    with pytest.raises(UsageError, match="takes no --data-dir"):
        make_plan("npo", "bios/fact", data_dir=tmp_path)
    with pytest.raises(UsageError, match="There is no folder"):
        make_plan("npo", "bios/fact", data_dir=tmp_path / "nowhere")


def test_targets_and_references_belong_to_trained_tasks() -> None:
    with pytest.raises(UsageError, match="there is no --target"):
        make_plan("npo", "facts/hogwarts", target="smollm2")
    with pytest.raises(UsageError, match="no reference"):
        make_plan("npo", "facts/hogwarts", references=["smollm2"])
    with pytest.raises(UsageError, match="--model has nothing to say"):
        make_plan("npo", "bios/fact", "smollm2", target="smollm2")
    assert make_plan("npo", "bios/fact", target="nano").run_id == make_plan("npo", "bios/fact").run_id
