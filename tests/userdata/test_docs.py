"""docs/own-data.md says of every field what the models say."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from unbench.userdata.spec import ProbeSource, RowSource, TaskSpec


@pytest.mark.parametrize("model", [TaskSpec, RowSource, ProbeSource])
def test_every_field_stands_in_the_docs(repository: Path, model: type[BaseModel]) -> None:
    text = (repository / "docs" / "own-data.md").read_text(encoding="utf-8")
    missing = [
        name
        for name, field in model.model_fields.items()
        if f"| `{name}` | {field.description} |" not in text.splitlines()
    ]
    assert not missing


def test_the_docs_example_opens(repository: Path, tmp_path: Path) -> None:
    from unbench.plugins import open_task

    text = (repository / "docs" / "own-data.md").read_text(encoding="utf-8")
    example = text.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "my.yaml").write_text(example, encoding="utf-8")
    (tmp_path / "forget.csv").write_text("prompt,response\nWho?,Ann.\n", encoding="utf-8")
    lines = [f'{{"question": "Where is {name}?", "answer": "In Oslo."}}\n' for name in ("Bea", "Cleo")]
    (tmp_path / "retain.jsonl").write_text("".join(lines), encoding="utf-8")
    assert open_task(str(tmp_path / "my.yaml")).id == "user/my-task"
