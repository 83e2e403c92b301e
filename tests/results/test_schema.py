"""The committed JSON schemas are the models'."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from unbench.results.schema import Result
from unbench.submissions.schema import Submission, Verified

COMMITTED = {"unbench.result-1": (Result, "results"), "unbench.submission-1": (Submission, "submissions")}


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_schema_is_the_models(name: str, repository: Path) -> None:
    model, room = COMMITTED[name]
    committed = json.loads((repository / "docs" / f"{name}.schema.json").read_text())
    assert committed == model.model_json_schema(by_alias=True), (
        f"write it again: python -m unbench.{room}.schema > docs/{name}.schema.json"
    )


@pytest.mark.parametrize("model", [Result, Submission, Verified])
def test_every_field_says_what_it_means(model: type[BaseModel]) -> None:
    schema = model.model_json_schema(by_alias=True)
    for name, part in [(model.__name__, schema), *schema["$defs"].items()]:
        for field, spec in part.get("properties", {}).items():
            assert spec.get("description"), f"{name}.{field}"
