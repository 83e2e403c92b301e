"""The plan: canonical, hashed without seeds and machine fields, every bad option named."""

from __future__ import annotations

import hashlib
import json

import pytest

from unbench.errors import UsageError
from unbench.plan import differing_fields, make_plan, parse_settings


def test_run_id_is_the_hash_of_the_identity() -> None:
    plan = make_plan("npo", "bios/fact")
    body = plan.model_dump(mode="json", by_alias=True)
    for field in ("seeds", "device", "batch_size", "model_path"):
        del body[field]
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert plan.run_id == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_seeds_and_machine_leave_the_run_id() -> None:
    plan = make_plan("npo", "bios/fact")
    assert make_plan("npo", "bios/fact", seeds=(1, 2), device="cpu", batch_size=3).run_id == plan.run_id
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
