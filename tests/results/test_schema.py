"""The committed JSON schema is the model's."""

from __future__ import annotations

import json
from pathlib import Path

from unbench.results.schema import Result


def test_committed_schema_is_the_models(repository: Path) -> None:
    committed = json.loads((repository / "docs" / "unbench.result-1.schema.json").read_text())
    assert committed == Result.model_json_schema(by_alias=True), (
        "write it again: python -m unbench.results.schema > docs/unbench.result-1.schema.json"
    )


def test_every_field_says_what_it_means() -> None:
    schema = Result.model_json_schema(by_alias=True)
    for name, part in [("Result", schema), *schema["$defs"].items()]:
        for field, spec in part["properties"].items():
            assert spec.get("description"), f"{name}.{field}"
