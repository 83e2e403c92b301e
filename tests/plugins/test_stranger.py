"""A stranger's path: the site's own page "How to submit", followed to the letter in a clone, ends on a board. The
same commands stand in docs/submit.md."""

from __future__ import annotations

import csv
import json
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from plugin_world import Venv

pytestmark = pytest.mark.slow


class Blocks(HTMLParser):
    """The text of every <pre>, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "pre":
            self.found.append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "pre"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1] += data


def test_the_page_followed_to_the_letter(tmp_path: Path, repository: Path) -> None:
    venv = Venv(tmp_path / "venv")
    clone = tmp_path / "fork"
    subprocess.run(["git", "clone", "--quiet", str(repository), str(clone)], check=True)

    def run(command: str) -> str:
        done = venv.run(command, clone)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    # What a visitor reads: the page of a site that was built before he came.
    page = tmp_path / "site"
    before = run(f"unbench leaderboard build --no-validate --out {page}")
    assert before
    parser = Blocks()
    parser.feed((page / "submit.html").read_text(encoding="utf-8"))
    blocks = [block.strip() for block in parser.found]
    (source,) = (block for block in blocks if block.startswith("from "))
    said = (page / "submit.html").read_text(encoding="utf-8")
    assert "my_npo/my_npo.py" in said
    packed = built = ""
    for block in blocks:
        if block == source:
            (clone / "my_npo" / "my_npo.py").write_text(block + "\n", encoding="utf-8")
            continue
        for line in block.splitlines():
            told = run(line)
            if line.startswith("pip install"):
                where = run('python -c "import unbench; print(unbench.__file__)"')
                assert where.startswith(str(clone))
            packed = told if line.startswith("unbench submit") else packed
            built = line if line.startswith("unbench leaderboard build") else built
    assert "git push" in packed
    assert built
    (folder,) = (clone / "leaderboard" / "submissions" / "bios" / "fact" / "my_npo").iterdir()
    assert (folder / "method.py").read_text(encoding="utf-8") == source + "\n"
    result = json.loads((folder / "submission.json").read_text(encoding="utf-8"))["result"]
    assert (result["method"], result["seeds"]) == ("file:my_npo", [0, 1, 2])
    site = clone / "leaderboard" / "site"
    rows = list(csv.DictReader((site / "results.csv").open(encoding="utf-8", newline="")))
    (own,) = (row for row in rows if row["run_id"] == folder.name)
    assert float(own["overall_worst"]) == result["worst"]["overall_worst"]["value"]
    assert len(rows) > 1  # among the others
    index = (site / "index.html").read_text(encoding="utf-8")
    assert "my_npo" in index
    assert f"{folder.name}.html" in index
    # Git's part: only the submission is new.
    for line in packed.splitlines():
        if line.startswith("  git ") and "push" not in line:
            author = "git -c user.name=stranger -c user.email=stranger@example.org"
            run(line.strip().replace("git ", f"{author} ", 1))
    changed = run("git show --name-only --format= HEAD").split()
    assert changed
    assert all(name.startswith(str(folder.relative_to(clone))) for name in changed)
    assert run("unbench validate leaderboard/submissions/bios/fact/my_npo --base HEAD~1") == ""
