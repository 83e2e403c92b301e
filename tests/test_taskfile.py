"""YAML mistakes come with file, line and the entry they stand in."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, field_validator

from unbench.errors import UsageError
from unbench.taskfile import load_yaml, read_yaml, shown


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    id: str
    relation: str
    words: list[str] = []

    @field_validator("words")
    @classmethod
    def _few(cls, words: list[str]) -> list[str]:
        if len(words) > 2:
            raise ValueError("at most two words are allowed")
        return words


class Items(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    items: list[Item]


GOOD = """\
# a comment
items:
  - id: first
    relation: knows
    words: [a, b]

  - id: second
    relation: likes
"""


def message(tmp_path: Path, text: str) -> str:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_yaml(path, Items)
    assert caught.value.try_next
    return caught.value.message


def test_a_good_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(GOOD, encoding="utf-8")
    items = load_yaml(path, Items)
    assert [item.id for item in items.items] == ["first", "second"]
    document = read_yaml(path)
    assert document.line(("items", 1)) == 7
    assert document.line(("items", 1, "relation")) == 8
    assert document.line(("items", 1, "absent")) == 7


def test_a_missing_field_has_the_line_of_its_entry(tmp_path: Path) -> None:
    text = GOOD.replace("    relation: likes\n", "")
    assert message(tmp_path, text).endswith("x.yaml, line 7: item 'second': field 'relation' is missing.")


def test_a_wrong_type_has_its_own_line(tmp_path: Path) -> None:
    text = GOOD.replace("relation: likes", "relation: 5")
    assert "x.yaml, line 8: item 'second': field 'relation': " in message(tmp_path, text)
    assert message(tmp_path, text).endswith("not 5.")


def test_an_unknown_field_is_explained(tmp_path: Path) -> None:
    text = GOOD.replace("    words:", "    wrods:")
    assert message(tmp_path, text).endswith("line 5: item 'first': field 'wrods' is unknown; did you mean 'words'?")


def test_a_validator_is_quoted(tmp_path: Path) -> None:
    text = GOOD.replace("[a, b]", "[a, b, c]")
    assert message(tmp_path, text).endswith("line 5: item 'first': field 'words': at most two words are allowed.")


def test_several_mistakes_are_counted_and_the_first_is_told(tmp_path: Path) -> None:
    text = GOOD.replace("    relation: likes\n", "").replace("    relation: knows\n", "")
    said = message(tmp_path, text)
    assert said.endswith("line 3: item 'first': field 'relation' is missing. (1 more after this one.)")


def test_an_entry_without_id_is_counted(tmp_path: Path) -> None:
    text = GOOD.replace("- id: second\n    relation", "- relation")
    assert message(tmp_path, text).endswith("line 7: entry 2 of 'items': field 'id' is missing.")


def test_a_key_given_twice(tmp_path: Path) -> None:
    text = GOOD.replace("    relation: likes", "    relation: likes\n    relation: hates")
    assert message(tmp_path, text).endswith("line 9: field 'relation' is given twice.")


def test_a_key_that_is_no_text(tmp_path: Path) -> None:
    assert "line 1: the key 5 is not text" in message(tmp_path, "5: a\n")


def test_broken_yaml(tmp_path: Path) -> None:
    text = GOOD.replace("[a, b]", "[a, b")
    assert "this is not valid YAML" in message(tmp_path, text)
    assert "line " in message(tmp_path, text)


def test_an_empty_and_an_absent_file(tmp_path: Path) -> None:
    assert message(tmp_path, "# nothing\n").endswith("line 1: the file is empty.")
    with pytest.raises(UsageError, match="no such file"):
        load_yaml(tmp_path / "absent.yaml", Items)


def test_a_list_where_a_mapping_should_be(tmp_path: Path) -> None:
    assert "x.yaml, line 1: " in message(tmp_path, "- a\n- b\n")


def test_paths_are_shown_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "tasks" / "x.yaml") == "tasks/x.yaml"
