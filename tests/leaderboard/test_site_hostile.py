"""What strangers write stays text, in pages, spreadsheets and the feed."""

from __future__ import annotations

import csv
from xml.etree import ElementTree

from unbench.leaderboard import build_site, read_entries
from unbench.method import MethodCard

HOSTILE = "evil:<script>alert('x')</script>\"><img src=x onerror=1>"


def check_pages(site, read_page) -> int:
    pages = sorted(site.rglob("*.html"))
    for path in pages:
        page = read_page(path)
        assert len(page.all("script")) == (path == site / "index.html"), path
        assert not {e["tag"] for e in page.elements} & {"img", "u", "s", "iframe"}, path
        for element in page.elements:
            assert not [key for key in element["attrs"] if key.startswith("on")], path
            assert not str(element["attrs"].get("href", "")).lower().startswith(("javascript:", "data:t")), path
        assert not [c for c in page.source if not c.isprintable() and c != "\n"], path
    return len(pages)


def test_hostile_results_stay_text(tmp_path, make, missing, read_page):
    reason = "</li><script>alert(2)</script>"
    results = [
        make(HOSTILE, task="bios/<u>", model='m"><script>', device="<s>", plan={"task_version": "<u>"}, run_id="<s>"),
        make("=cmd|' /C calc'!A0", run_id="+1", scores={"trace": missing(None, reason)}, created="@<now>"),
        make("\t-x\x00\x1b\u202e", run_id="../../../x"),
    ]
    card = MethodCard("x", "<img src=x>", "gradient", "@misc{x, title={</pre><script>alert(3)</script>}}",
                      paper="javascript:alert(4)", summary="<iframe>")  # fmt: skip
    index = build_site(results, tmp_path / "site", cards={HOSTILE: card})
    assert check_pages(tmp_path / "site", read_page) > 12
    page = read_page(index)
    assert any(HOSTILE.partition(":")[2] in row["text"] for row in page.all("th", scope="row"))
    assert reason in [note["text"] for note in page.all("li")]
    assert [path for path in tmp_path.rglob("*x*.html") if path.parent == tmp_path] == []
    with (tmp_path / "site/results.csv").open(encoding="utf-8", newline="") as file:
        cells = [cell for row in list(csv.reader(file))[1:] for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert "'=cmd|' /C calc'!A0" in cells
    assert "'@<now>" in cells
    ElementTree.parse(tmp_path / "site/feed.xml")


def test_hostile_submissions_stay_text(tmp_path, make, make_submission, read_page):
    home = tmp_path / "leaderboard"
    evil = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\x1b\u202e"
    method = {"name": "lab:x", "version": evil, "source": "d" * 64, "title": evil, "kind": evil, "summary": evil,
              "paper": "javascript:alert(5)", "licence": evil, "bibtex": evil}  # fmt: skip
    result = make("lab:x", task="bios/fact").model_copy(update={"notes": {evil: [evil]}})
    folder = make_submission(
        result, home, method=method, command=evil, submitter=evil, retracted=None,
        files={"method.py": "d" * 64, evil: "d" * 64, "../../../secret": "d" * 64},
        tuning={"trials": 3, "space": {evil: [evil]}}, weights={"url": "https://example.org/a", "revision": evil},
    )  # fmt: skip
    (folder / "method.py").write_text(f"# {evil}\n")
    build_site(read_entries(home), tmp_path / "site")
    check_pages(tmp_path / "site", read_page)
    page = read_page(tmp_path / f"site/runs/{result.run_id}.html")
    assert "alert(1)" in page.all("pre")[0]["text"]
    assert not [a for a in page.all("a") if "secret" in a["attrs"]["href"]]
    assert "https://example.org/a" in [a["attrs"]["href"] for a in page.all("a")]


def test_files_that_are_no_files_are_left_out(tmp_path, make, make_submission, read_page):
    home = tmp_path / "leaderboard"
    folder = make_submission(make("lab:x"), home, files={"method.py": "d" * 64})
    (folder / "method.py").symlink_to("/etc/hostname")
    (folder / "anti_samples.jsonl.gz").write_bytes(b"\x1f\x8b broken")
    (folder / "responses.jsonl.gz").write_bytes(b"no rows")
    build_site(read_entries(home), tmp_path / "site")
    text = read_page(tmp_path / f"site/runs/{folder.name}.html").all("main")[0]["text"]
    assert "as it was submitted" not in text
    assert "don't lie beside this result" in text
