"""The site: its pages and links, its bytes, and what missing values look like."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.resources import files

import pytest

from unbench.errors import UnbenchError
from unbench.leaderboard import Site, build_site, check_site
from unbench.leaderboard.known import task_facts
from unbench.method import MethodCard
from unbench.plugins import method_cards
from unbench.results.schema import Scores

LABELS = [
    "Rank", "Method", "overall, 0 to 1", "Overall worst", "Overall", "Forget", "Forget worst", "Trace", "Retain",
    "Specificity", "Selectivity", "Seconds", "Tokens", "Tuning", "Date", "Checked",
]  # fmt: skip


def names_in(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_structure_of_the_index(tmp_path, field_of_results, read_page):
    page = read_page(build_site(field_of_results, tmp_path))
    boards = page.all("section", class_="board")
    assert [(b["attrs"]["data-task"], b["attrs"]["data-model"]) for b in boards] == [
        ("facts/hogwarts", "smollm2"),
        ("bios/fact", "nano"),
        ("bios/relation", "nano"),
    ]
    assert len(page.all("table")) == len(page.all("caption")) == 3
    assert len(page.all("svg", role="img")) == 6
    assert len([e for e in page.all("title") if e["path"][-1] == "svg"]) == len(page.all("desc")) == 6
    heads = [head["text"].strip() for head in page.all("th", scope="col")]
    assert heads == LABELS * 3
    assert len([b for b in page.all("button") if b["path"][-1] == "th"]) == 15 * 3
    assert len(page.all("th", scope="row")) == len(field_of_results)
    assert "no finding generalises from nano alone" in boards[1]["text"]
    assert "controlled" in boards[1]["text"]
    assert "generalises" not in boards[0]["text"]


def test_every_page_is_whole_and_every_link_leads_somewhere(tmp_path, field_of_results, read_page):
    site = Site(field_of_results, method_cards(), task_facts({"bios/fact"}))
    build_site(site, tmp_path)
    pages = [name for name in names_in(tmp_path) if name.endswith(".html")]
    assert {name.partition("/")[0] for name in pages} >= {
        "about.html", "boards", "cite.html", "index.html", "methods", "methods.html", "metrics.html", "runs",
        "submit.html", "tasks", "tasks.html",
    }  # fmt: skip
    ids = {}
    parsed = {}
    for name in pages:
        parsed[name] = read_page(tmp_path / name)
        ids[name] = [e["attrs"]["id"] for e in parsed[name].elements if "id" in e["attrs"]]
        assert len(ids[name]) == len(set(ids[name])), name
        assert len(parsed[name].all("h1")) == len(parsed[name].all("main")) == 1, name
    for name, page in parsed.items():
        for link in page.all("a"):
            address, _, anchor = link["attrs"]["href"].partition("#")
            if address.startswith("https:"):
                assert "noreferrer" in link["attrs"]["rel"]
                continue
            to = (tmp_path / name).parent / address if address else tmp_path / name
            assert to.is_file(), (name, address)
            if anchor:
                assert anchor in ids[str(to.resolve().relative_to(tmp_path.resolve()))], (name, anchor)


def test_no_page_asks_another_host_and_none_runs_a_foreign_script(tmp_path, field_of_results, read_page):
    build_site(field_of_results, tmp_path)
    for name in names_in(tmp_path):
        if not name.endswith(".html"):
            continue
        page = read_page(tmp_path / name)
        policy = page.all("meta", http_equiv="Content-Security-Policy")[0]["attrs"]["content"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert len(page.all("style")) == 1
        assert len(page.all("script")) == (name == "index.html")
        assert not re.search(r"url\(|@import", page.source)
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
    names = names_in(tmp_path / "a")
    assert names == names_in(tmp_path / "b") == names_in(tmp_path / "c")
    for name in names:
        first = (tmp_path / "a" / name).read_bytes()
        assert first == (tmp_path / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes(), name


def test_two_processes_make_the_same_bytes_as_one(tmp_path, field_of_results, monkeypatch):
    build_site(field_of_results, tmp_path / "one")
    from unbench.leaderboard import parallel

    # Other tests leave threads behind, beside which nothing is forked.
    monkeypatch.setattr(parallel.threading, "active_count", lambda: 1)
    monkeypatch.setattr(parallel, "WORTH", 1)
    build_site(field_of_results, tmp_path / "two")
    for name in names_in(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_check_names_what_differs_is_missing_or_left_over(tmp_path, field_of_results):
    site = Site(field_of_results)
    build_site(site, tmp_path)
    assert check_site(site, tmp_path) == []
    fewer = Site(field_of_results[:-1])
    assert {"index.html", "results.csv", "results.json"} <= set(check_site(fewer, tmp_path))
    (tmp_path / "feed.xml").unlink()
    (tmp_path / "about.html").write_text("changed")
    (tmp_path / "runs/aaaaaaaaaaaa.html").write_text("old")
    assert check_site(site, tmp_path) == ["about.html", "feed.xml", "runs/aaaaaaaaaaaa.html"]
    build_site(site, tmp_path)
    assert check_site(site, tmp_path) == []
    assert not (tmp_path / "runs/aaaaaaaaaaaa.html").exists()


def test_a_build_leaves_what_it_did_not_make(tmp_path, make):
    for name in ("runs/bios/fact/npo/0123456789ab/result.json", "runs/notes.txt", "tasks/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    build_site([make()], tmp_path)
    assert {"runs/bios/fact/npo/0123456789ab/result.json", "runs/notes.txt", "tasks/README.md"} <= set(
        names_in(tmp_path)
    )


def test_a_build_imports_no_heavy_library():
    probe = "import sys, unbench.leaderboard, unbench.compare; print([m for m in ('torch', 'pandas', 'matplotlib', "
    probe += "'jinja2') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout.strip() == "[]"


def test_missing_values_and_intervals_show_their_reason(tmp_path, make, missing, read_page):
    one = "one subject: fewer than 6 clusters"
    scores = {"forget": missing(0.5, one), "trace": missing(None, "no ranks"), "retain": missing(0.25, None)}
    page = read_page(build_site([make(scores=scores)], tmp_path))
    cells = [cell["text"] for cell in page.all("td")]
    assert cells[3:5] == ["0.900.85–0.95", "0.501"]
    assert cells[6:8] == ["–2", "0.253"]
    notes = page.all("ol", class_="notes")[0]["text"].split("\n")
    assert [note for note in notes if note] == [one, "no ranks", "no reason was recorded", "not measured"]


def test_a_board_without_points_says_so_instead_of_a_plot(tmp_path, make, missing, read_page):
    page = read_page(build_site([make(scores={"forget": missing(None, "nothing known")})], tmp_path))
    assert page.all("svg", role="img") == []
    assert "No plot" in page.all("p", class_="noplot")[0]["text"]


def test_no_results_says_how_to_make_one(tmp_path, make, read_page):
    for results in ([], [make(split="select")]):
        text = read_page(build_site(results, tmp_path)).all("main")[0]["text"]
        assert "unbench run" in text
        assert "unbench leaderboard build" in text
    assert "1 result of other splits" in (tmp_path / "index.html").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["boards"] == []


def test_kind_formula_and_citation_of_a_built_in(tmp_path, make, read_page):
    build_site(Site([make("unbench:npo")], method_cards()), tmp_path)
    assert "preference" in read_page(tmp_path / "index.html").all("th", scope="row")[0]["text"]
    page = read_page(tmp_path / "methods/npo.html")
    assert "L = −(2/β) log σ" in page.all("pre", class_="formula")[0]["text"]
    assert [a["attrs"]["href"] for a in page.all("a") if "arxiv" in a["attrs"]["href"]] == [
        "https://arxiv.org/abs/2404.05868"
    ]
    assert "zhang2024npo" in (tmp_path / "cite.bib").read_text()


def test_a_card_from_elsewhere_gives_kind_and_citation(tmp_path, make, read_page):
    card = MethodCard("mine", "Mine", "preference", "@misc{mine,\n  title={Mine}\n}")
    build_site([make("lab:mine")], tmp_path, cards={"lab:mine": card})
    assert "preference" in read_page(tmp_path / "index.html").all("th", scope="row")[0]["text"]
    assert card.bibtex in (tmp_path / "cite.bib").read_text()


def test_the_page_of_a_task_shows_its_questions_where_the_version_is_ours(tmp_path, make, read_page):
    facts = task_facts({"bios/fact", "somebody/else"})
    assert list(facts) == ["bios/fact"]
    ours, other = make(task_hash=facts["bios/fact"].hash), make(task_hash="e" * 64)
    build_site(Site([ours, other], tasks=facts), tmp_path)
    texts = sorted(
        (read_page(page).all("main")[0]["text"] for page in (tmp_path / "tasks").iterdir()),
        key=lambda t: "another" in t,
    )
    assert "same subject" in texts[0]
    assert "Right answer" in texts[0]
    assert "unbench run --task bios/fact" in texts[0]
    assert "another version of the task" in texts[1]
    assert "Right answer" not in texts[1]


def test_the_legend_is_the_schema(tmp_path, make, read_page):
    text = read_page(build_site([make()], tmp_path)).all("details", id="legend")[0]["text"]
    for field in Scores.model_fields.values():
        assert str(field.description) in text


def test_the_method_on_the_submit_page_is_the_one_of_the_docs(tmp_path, repository, make, read_page):
    build_site([make()], tmp_path)
    (shown,) = read_page(tmp_path / "submit.html").all("pre", id="my_npo.py")
    assert shown["text"] in (repository / "docs/add-a-method.md").read_text(encoding="utf-8")
    compile(shown["text"], "my_npo.py", "exec")


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, make, monkeypatch):
    from pathlib import Path

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
    roots = re.findall(r":root \{([^}]+)\}", style)[:2]
    themes = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block)) for block in roots]
    assert len(themes) == 2
    grounds = ("page", "panel", "control")
    pairs = [(ink, ground) for ink in ("ink", "soft", "accent") for ground in grounds]
    pairs += [(f"{name}-ink", name) for name in ("caution", "alert", "good")]
    for theme in themes:
        for ink, ground in pairs:
            high, low = sorted((_luminance(theme[ink]), _luminance(theme[ground])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)
