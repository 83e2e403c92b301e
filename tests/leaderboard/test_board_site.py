"""The page: its structure, its bytes, and what hostile or missing values do to it."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest

from unbench.errors import UnbenchError
from unbench.leaderboard import build_site
from unbench.leaderboard.boards import make_boards
from unbench.method import MethodCard
from unbench.results.schema import Result, Scores

VOID = {"meta", "link", "input", "br", "wbr"}
HOSTILE = "evil:<script>alert('x')</script>\"><img src=x onerror=1>"


class Page(HTMLParser):
    """Every element with its attributes, its ancestors and its text; unbalanced tags fail."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[dict] = []
        self.open: list[dict] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == [], "tags left open"

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "attrs": dict(attrs), "path": [e["tag"] for e in self.open], "text": ""}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "attrs": dict(attrs), "path": [e["tag"] for e in self.open], "text": ""})

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag: str, **attrs: str) -> list[dict]:
        wanted = {key.rstrip("_").replace("_", "-"): value for key, value in attrs.items()}
        return [e for e in self.elements if e["tag"] == tag and wanted.items() <= e["attrs"].items()]


def test_structure_of_the_page(tmp_path, field_of_results):
    page = Page(build_site(field_of_results, tmp_path))
    boards = page.all("section", class_="board")
    assert [(b["attrs"]["data-task"], b["attrs"]["data-model"]) for b in boards] == [
        ("facts/hogwarts", "smollm2"),
        ("bios/fact", "nano"),
        ("bios/relation", "nano"),
    ]
    assert len(page.all("table")) == len(page.all("caption")) == len(page.all("svg", role="img")) == 3
    assert len([e for e in page.all("title") if e["path"][-1] == "svg"]) == len(page.all("desc")) == 3
    heads = page.all("th", scope="col")
    labels = ["Method", "Forget", "Trace", "Retain", "Specificity", "Overall", "Seeds", "Unlearn, s", "Tokens", "Date"]
    assert [head["text"] for head in heads] == labels * 3
    assert [b["path"][-1] for b in page.all("button") if b["text"] in labels] == ["th"] * 30
    assert [h["text"] for h in heads if h["attrs"]["aria-sort"] == "descending"] == ["Overall"] * 3
    assert len(page.all("th", scope="row")) == len(field_of_results)
    assert "no finding generalises from nano alone" in boards[1]["text"]
    assert "controlled" in boards[1]["text"]
    assert "generalises" not in boards[0]["text"]
    ids = [e["attrs"]["id"] for e in page.elements if "id" in e["attrs"]]
    assert len(ids) == len(set(ids))
    for link in page.all("a"):
        href = link["attrs"]["href"]
        assert (href[1:] in ids) if href.startswith("#") else (tmp_path / href).is_file()


def test_the_page_asks_no_other_host_and_runs_no_foreign_script(tmp_path, field_of_results):
    index = build_site(field_of_results, tmp_path)
    page = Page(index)
    policy = page.all("meta", http_equiv="Content-Security-Policy")[0]["attrs"]["content"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert len(page.all("script")) == len(page.all("style")) == 1
    text = index.read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import|//[a-z]+\.", text)
    for element in page.elements:
        assert not {key for key in element["attrs"] if key.startswith("on") or key in {"src", "style"}}, element


def test_same_results_same_bytes(tmp_path, field_of_results):
    build_site(field_of_results, tmp_path / "a")
    moved = [result.model_copy(update={"dir": "/elsewhere"}) for result in reversed(field_of_results)]
    build_site(moved, tmp_path / "b")
    command = (
        "import sys, pathlib; from unbench.leaderboard import build_site; from unbench.results.schema import Result\n"
        "build_site([Result.model_validate_json(x) for x in sys.stdin], pathlib.Path(sys.argv[1]))"
    )
    lines = "\n".join(result.model_dump_json(by_alias=True) for result in field_of_results)
    # Another process has another hash seed: no set or dict order may reach the page.
    subprocess.run([sys.executable, "-c", command, tmp_path / "c"], input=lines, text=True, check=True)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["cite.bib", "index.html", "results.csv", "results.json"]
    for name in names:
        first = (tmp_path / "a" / name).read_bytes()
        assert first == (tmp_path / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()


def test_a_build_imports_no_heavy_library():
    probe = "import sys, unbench.leaderboard, unbench.compare; print([m for m in ('torch', 'pandas', 'matplotlib', "
    probe += "'jinja2') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout.strip() == "[]"


def test_hostile_values_stay_text(tmp_path, make, missing):
    reason = "</li><script>alert(2)</script>"
    results = [
        make(HOSTILE, task="bios/<b>", model='m"><script>', device="<i>", plan={"task_version": "<u>"}, run_id="<s>"),
        make("=cmd|' /C calc'!A0", run_id="+1", scores={"trace": missing(None, reason)}, created="@<now>"),
        make("\t-x\x00\x1b\u202e", run_id="-2"),
    ]
    card = MethodCard("x", "X", "gradient", "@misc{x, title={</pre><script>alert(3)</script>}}")
    index = build_site(results, tmp_path, cards={HOSTILE: card})
    page = Page(index)
    assert len(page.all("script")) == 1
    assert not {e["tag"] for e in page.elements} & {"img", "b", "i", "u", "s"}
    assert not [e for e in page.elements if "onerror" in e["attrs"]]
    assert any(HOSTILE.partition(":")[2] in row["text"] for row in page.all("th", scope="row"))
    assert reason in [note["text"] for note in page.all("li")]
    assert "alert(3)" in page.all("pre")[0]["text"]
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        cells = [cell for row in list(csv.reader(file))[1:] for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert "'=cmd|' /C calc'!A0" in cells
    assert "'@<now>" in cells


def test_missing_values_and_intervals_show_their_reason(tmp_path, make, missing):
    one = "one subject: fewer than 6 clusters"
    scores = {"forget": missing(0.5, one), "trace": missing(None, "no ranks"), "retain": missing(0.25, None)}
    page = Page(build_site([make(scores=scores)], tmp_path))
    forget, trace, retain = page.all("td", class_="score")[:3]
    assert "no interval" in forget["text"]
    assert one in forget["attrs"]["title"]
    assert trace["text"].startswith("–")
    assert trace["attrs"]["data-value"] == ""
    assert "no reason was recorded" in retain["attrs"]["title"]
    notes = page.all("ol", class_="notes")[0]["text"].split("\n")
    assert [note for note in notes if note] == [one, "no ranks", "no reason was recorded"]


def test_a_board_without_points_says_so_instead_of_a_plot(tmp_path, make, missing):
    page = Page(build_site([make(scores={"forget": missing(None, "nothing known")})], tmp_path))
    assert page.all("svg", role="img") == []
    assert "No plot" in page.all("p", class_="noplot")[0]["text"]


def test_no_results_says_how_to_make_one(tmp_path, make):
    for results in ([], [make(split="select")]):
        text = Page(build_site(results, tmp_path)).all("main")[0]["text"]
        assert "unbench run" in text
        assert "unbench leaderboard build" in text
    assert "1 result of other splits" in (tmp_path / "index.html").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["results"] == []


def test_task_versions_never_share_a_table_and_the_newest_comes_first(make):
    old = make(task_hash="1" * 64, created="2025-01-01T00:00:00Z")
    boards = make_boards([old, make(task_hash="2" * 64)], {})
    assert [board.task_hash[0] for board in boards] == ["2", "1"]
    assert boards[0].id != boards[1].id


def test_the_largest_real_model_comes_first_and_nano_last(make):
    names = ["nano", "smollm2", "org/Llama-3.2-1B-Instruct", "Qwen2.5-7B", "gpt2"]
    boards = make_boards([make(model=name) for name in names], {})
    assert [board.model for board in boards] == [
        "Qwen2.5-7B",
        "org/Llama-3.2-1B-Instruct",
        "smollm2",
        "gpt2",
        "nano",
    ]


def test_runs_of_one_method_are_all_shown_and_told_apart(make):
    results = [make(run_id="aaaaaa111111"), make(run_id="bbbbbb222222"), make("other:npo"), make("unbench:idk")]
    (board,) = make_boards(results, {})
    assert {row.label for row in board.rows} == {
        "unbench:npo · aaaaaa",
        "unbench:npo · bbbbbb",
        "other:npo",
        "idk",
    }


def test_controls_and_limited_runs_are_marked_and_off_the_front(tmp_path, make):
    results = [
        make("unbench:retrain", forget=1.0, specificity=1.0),
        make("unbench:npo", forget=0.99, specificity=0.99, plan={"limit": 5}),
        make("unbench:idk", forget=0.5, specificity=0.5),
    ]
    page = Page(build_site(results, tmp_path))
    front = next(p["text"] for p in page.all("p") if p["text"].startswith("On the front"))
    assert front == "On the front: idk."
    assert {"control", "limited"} <= {badge["text"] for badge in page.all("span") if "badge" in str(badge["attrs"])}


def test_kind_and_citation_come_from_cards(tmp_path, make):
    card = MethodCard("npo", "NPO", "preference", "@misc{npo,\n  title={NPO}\n}")
    page = Page(build_site([make("unbench:npo")], tmp_path, cards={"unbench:npo": card}))
    assert "preference" in page.all("th", scope="row")[0]["text"]
    assert card.bibtex in (tmp_path / "cite.bib").read_text()


def test_the_legend_is_the_schema(tmp_path, make):
    text = Page(build_site([make()], tmp_path)).all("details", id="legend")[0]["text"]
    for field in Scores.model_fields.values():
        assert str(field.description) in text


def test_downloads_hold_every_shown_result(tmp_path, field_of_results):
    build_site(field_of_results, tmp_path)
    body = json.loads((tmp_path / "results.json").read_text())
    assert len([Result.model_validate(result) for result in body["results"]]) == len(field_of_results)
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(field_of_results)
    assert [row["forget"] for row in rows[:3]] == ["0.0", "0.93", "0.96"]
    assert rows[0]["trace_reason"] == "knowledge is a probability: no ranks"


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, make, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnbenchError, match="can't be written"):
        build_site([make()], tmp_path / "file")
    before = build_site([make()], tmp_path / "site").read_bytes()

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UnbenchError, match="No space left"):
        build_site([make(forget=0.1)], tmp_path / "site")
    assert (tmp_path / "site/index.html").read_bytes() == before
    assert not list((tmp_path / "site").glob(".*"))


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_contrast_is_at_least_four_and_a_half_in_both_schemes():
    style = files("unbench.leaderboard").joinpath("templates", "board.css").read_text()
    themes = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{([^}]+)\}", style)
    ]
    assert len(themes) == 2
    grounds = ("page", "panel", "control")
    pairs = [(ink, ground) for ink in ("ink", "soft", "accent") for ground in grounds] + [("caution-ink", "caution")]
    for theme in themes:
        for ink, ground in pairs:
            high, low = sorted((_luminance(theme[ink]), _luminance(theme[ground])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)


def test_attacked_runs_come_first_and_have_columns_of_their_own(tmp_path, field_of_results):
    """A board where one run was attacked: its worst scores stand in the table, it leads, and the other says why not."""
    from unbench.results.schema import Score, Worst

    results = field_of_results
    least = next(r for r in results if r.method == "unbench:none")
    worst = Worst(forget_worst=Score(value=0.2, low=0.1, high=0.3), overall_worst=Score(value=0.3, low=0.2, high=0.4),
                  by="unbench:quantize at 4 bits, 8", attacks=["unbench:quantize"])  # fmt: skip
    attacked = [r.model_copy(update={"worst": worst}) if r is least else r for r in results]
    boards = make_boards(attacked, {})
    (board,) = [b for b in boards if b.attacked]
    assert (board.task, board.model) == (least.task, least.model)
    assert board.sorted_by == "overall_worst"
    assert board.rows[0].result.method == least.method
    assert [column.key for column in board.columns][6:8] == ["forget_worst", "overall_worst"]
    assert [cell.key for cell in board.rows[0].cells][-2:] == ["forget_worst", "overall_worst"]
    assert "by quantize at 4 bits, 8" in board.notes
    assert "no attack was tried" in board.notes
    text = build_site(attacked, tmp_path).read_text(encoding="utf-8")
    assert text.count("Overall worst</button>") == 1
