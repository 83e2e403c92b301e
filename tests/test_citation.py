"""CITATION.cff is what the Citation File Format's own schema wants, and says the package's version."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

import unbench
from unbench.cite import UNBENCH_BIBTEX

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "tests/data/cff-1.2.0.schema.json").read_text(encoding="utf-8"))


def citation() -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    return found


def test_it_fits_the_schema() -> None:
    jsonschema.Draft7Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate(citation())


@pytest.mark.parametrize("field", ["title", "authors", "message", "cff-version"])
def test_the_schema_would_notice(field: str) -> None:
    body = citation()
    del body[field]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(SCHEMA).validate(body)


def test_it_says_what_the_package_says() -> None:
    body = citation()
    assert body["version"] == unbench.__version__
    assert f"version = {{{unbench.__version__}}}" in UNBENCH_BIBTEX
    assert str(body["title"]).replace("LLM", "{LLM}") in UNBENCH_BIBTEX
    assert f"year    = {{{str(body['date-released'])[:4]}}}" in UNBENCH_BIBTEX
