"""Texts that may stand in a submission are shown on the site as text: no element, attribute or formula."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from unbench.submissions import files as names
from unbench.submissions.strict import pack

from .conftest import Run
from .world import SOURCE, Forged, World

PLAIN = "ZEUGMA"
"""What stands in every field of the page that the others are compared with."""
MARKUP = (
    f"{PLAIN}<script>alert(1)</script>\"><img src=x onerror=alert(1)><svg/onload=alert(1)>' autofocus onfocus='alert(1)"
    "</style></script></title></textarea></svg><script>alert(1)</script>--><!--]]><![CDATA[<b>&lt;script&gt;&#x3c;b&#x3e;"
    "{{ 7*7 }}{% raw %}${7*7}`"
)
PAYLOADS = {
    "markup": MARKUP,
    "link": f"javascript:alert('{PLAIN}')",
    "formula": f'=HYPERLINK("https://example.org","{PLAIN}")',
    "formula of another start": f"@SUM(1+1)*cmd|'/C calc'!A0 {PLAIN}",
}


ROWS = frozenset({"tr", "th", "td", "code", "small"})
"""Elements of the rows of a table."""


class Page(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.shape: list[tuple[str, tuple[str, ...]]] = []
        self.links: list[str] = []
        self.values: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._within = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.shape.append((tag, tuple(sorted(name for name, _ in attrs))))
        self.values += [(name, value or "") for name, value in attrs]
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action", "formaction")]
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        (self.scripts if self._within in ("script", "style") else self.text).append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def everywhere(forged: Forged, said: str) -> None:
    """The text into every field that takes one, and into answers, anti-samples, code, settings and reasons."""
    body, result = forged.body, forged.result
    body |= {"submitter": said, "command": said, "claimed": {f"lm_eval/{said}": {"value": 0.5, "reason": said}}}
    body["tuning"] = {"trials": 3, "space": {said: [said]}}
    body["weights"] = {"url": "https://example.org/ZEUGMA", "revision": said, "sha256": {said: "0" * 64}}
    for name in ("version", "title", "kind", "summary", "paper", "licence", "bibtex"):
        body["method"][name] = said
    result |= {"device": said, "dtype": said, "created_utc": said, "notes": {said: [said]}, "versions": {said: said}}
    result["hashes"] |= {"data": {said: said}, "unlearned": {said: said}, "references": [said]}
    result["code"]["commit"] = said
    for one in result["attacks"]:
        one["notes"] = {said: said}
    null = {"value": None, "reason": said}
    failed = {"name": f"zz:{said}", "kind": said, "config": {said: said}, "forget": null, "reason": said,
              "method_hash": said, "notes": {said: said}}  # fmt: skip
    result["attacks"].append(result["attacks"][0] | failed | {"points": [], "worst": None, "wall_s": 0.0})
    forged.plan["config"] = {"lr": 0.1, said: said}
    rows = forged.lines()
    for row in rows[1:]:
        if "text" in row:
            row |= {"text": said, "hit": False}
        elif "taught" in row:
            row["taught"] = {said: [said]}
    forged.put_lines(rows)
    sample = {"round": 1, "role": "forget", "stage": "anti_sample", "fact": said, "question": said,
              "paraphrase": said, "completion": said, "times": 1, "kept": True}  # fmt: skip
    forged.put(pack((json.dumps(sample) + "\n").encode()), names.SAMPLES_FILE)
    code = f'"""{said}"""\n'.encode() + SOURCE.format(sentinel="sentinel").encode()
    forged.put(code, names.METHOD_FILE)
    digest = body["files"][names.METHOD_FILE]
    forged.plan["plugins"][0] |= {"hash": digest, "name": said}
    body["method"]["source"] = result["hashes"]["method"] = digest
    forged.identify()
    forged.rescore()
    forged.seal()


def site_of(root: Path, unbench: Run) -> dict[str, str]:
    """All files of the site, by name; run-ids, which differ from text to text, are blanked."""
    done = unbench("leaderboard", "build", root / "submissions", "--out", root / "site", "--metaeval", root / "none",
                   "--no-validate")  # fmt: skip
    assert done.code == 0, done.err
    run = next((root / "submissions").glob("*/*/*/*")).name
    files = sorted(path for path in (root / "site").rglob("*") if path.is_file())
    return {
        str(path.relative_to(root / "site")).replace(run, "RUN"): path.read_text("utf-8").replace(run, "RUN")
        for path in files
    }


@pytest.fixture(scope="module")
def usual() -> dict[str, Any]:
    """The site with plain words in every field; made by the first test that asks."""
    return {}


@pytest.mark.parametrize("name", PAYLOADS)
def test_shown_as_text(
    name: str,
    usual: dict[str, Any],
    pattern: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unbench: Run,
) -> None:
    (tmp_path / "outside").mkdir()
    monkeypatch.chdir(tmp_path / "outside")
    for key, said in (("plain", PLAIN), (name, PAYLOADS[name])):
        if key == "plain" and usual:
            continue
        root = Path(shutil.copytree(pattern[0], tmp_path / key))
        everywhere(Forged(root / pattern[1]), said)
        done = unbench("validate", root / "submissions")
        assert done.code == 0, done.out
        found = site_of(root, unbench)
        if key == "plain":
            usual |= found
    assert found.keys() == usual.keys()
    seen = 0
    for file, text in found.items():
        if file.endswith(".html"):
            seen += look(file, text, usual[file])
        elif file.endswith(".csv"):
            for cell in [cell for line in csv.reader(io.StringIO(text)) for cell in line]:
                assert not cell.startswith(("=", "@", "+", "\t", "\r")), cell
                assert not cell.startswith("-") or is_number(cell), cell
        elif file.endswith(".xml"):
            ours, theirs = (ElementTree.fromstring(one) for one in (text, usual[file]))
            assert [one.tag for one in ours.iter()] == [one.tag for one in theirs.iter()]
        elif file.endswith(".json"):
            json.loads(text)
    assert seen > 10, "the texts are on no page"
    assert not any((tmp_path / "outside").iterdir())


def look(file: str, text: str, plain: str) -> int:
    """A page has the elements and attributes of the plain one, its scripts, and links to nowhere else; returns how
    often the stranger's word stands in its text."""
    ours, theirs = Page(text), Page(plain)
    assert set(ours.shape) <= set(theirs.shape), file
    # How many rows a table of examples has is up to the length of the texts.
    counts = [Counter(one for one in page.shape if one[0] not in ROWS) for page in (ours, theirs)]
    assert counts[0] == counts[1], file
    assert ours.scripts == theirs.scripts, file
    assert not [link for link in ours.links if link.strip().lower().startswith(("javascript", "vbscript"))], file
    assert ours.links == theirs.links, file
    assert not [one for one in ours.values if one[0].startswith("on") or (one[0] == "style" and PLAIN in one[1])]
    return sum(PLAIN in one for one in ours.text)


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_retracted_with_a_script(forged: Forged, small: World, unbench: Run) -> None:
    forged.body["retracted"] = MARKUP
    forged.seal()
    assert unbench("validate", small.submissions).code == 0
    for file, text in site_of(small.root, unbench).items():
        if file.endswith(".html"):
            assert not [tag for tag, given in Page(text).shape if any(one.startswith("on") for one in given)]
