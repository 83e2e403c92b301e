"""``unbench new-task``: a folder with a task file, full of comments, that runs as it is."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from unbench.errors import UsageError
from unbench.newfolder import write_new
from unbench.userdata.spec import NAME, NAME_RULE

FILES = ("task.yaml", "forget.csv", "retain.csv", "probes.jsonl")
_NAME = "my-task"
_FOLDER = "NAME/"


def write_template(name: str, out: Path = Path()) -> Path:
    """Writes the folder ``out/name``, whole or not at all, and returns its task file.

    Raises ``UsageError`` for a name that can't be a folder's and where something of that name is there already.
    """
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} can't name a task: it has {NAME_RULE}.", "For example: unbench new-task my-task.")
    folder = out / name
    texts = {}
    for file in FILES:
        text = files("unbench.userdata").joinpath("template", file).read_text(encoding="utf-8")
        if file == "task.yaml":
            text = text.replace(_NAME, name).replace(_FOLDER, f"{name}/")
        texts[file] = text
    write_new(folder, texts)
    return folder / "task.yaml"
