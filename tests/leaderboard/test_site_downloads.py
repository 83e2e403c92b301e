"""Downloads: JSON, CSV, BibTeX, schemas, the feed."""

from __future__ import annotations

import csv
import json
from xml.etree import ElementTree

import jsonschema

from unbench.leaderboard import build_site, read_entries
from unbench.results.schema import Result

ATOM = "{http://www.w3.org/2005/Atom}"


def test_downloads_hold_every_shown_result(tmp_path, field_of_results):
    build_site(field_of_results, tmp_path)
    body = json.loads((tmp_path / "results.json").read_text())
    runs = [run for board in body["boards"] for run in board["runs"]]
    assert len(runs) == len(field_of_results)
    whole = [Result.model_validate_json((tmp_path / run["file"]).read_text()) for run in runs]
    assert [result.run_id for result in whole] == [run["run_id"] for run in runs]
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(field_of_results)
    assert [row["forget"] for row in rows[:3]] == ["0.93", "0.96", "0.0"]
    assert rows[0]["trace_reason"] == "knowledge is a probability: no ranks"


def test_ranks_and_badges_are_in_the_downloads(tmp_path, four_submissions):
    build_site(four_submissions, tmp_path / "site")
    with (tmp_path / "site/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["rank_best"], row["rank_worst"], row["badge"]) for row in rows] == [
        ("lab:a", "1", "2", "claimed"),
        ("lab:b", "1", "2", "claimed"),
        ("lab:c", "3", "3", "claimed"),
        ("unbench:retrain", "", "", "claimed"),
    ]
    body = json.loads((tmp_path / "site/results.json").read_text())
    assert body["boards"][0]["runs"][0]["rank"] == [1, 2]
    assert body["boards"][0]["runs"][0]["submitter"] == "A. Tester"


def test_the_published_schemas_fit_what_they_describe(tmp_path, make, make_submission):
    home = tmp_path / "leaderboard"
    folder = make_submission(make(), home)
    build_site(read_entries(home), tmp_path / "site")
    for schema, file in (
        ("unbench.submission-1.schema.json", folder / "submission.json"),
        ("unbench.result-1.schema.json", tmp_path / f"site/runs/{folder.name}.json"),
    ):
        jsonschema.validate(json.loads(file.read_text()), json.loads((tmp_path / "site" / schema).read_text()))


def test_the_feed_has_no_clock_and_ids_of_its_runs(tmp_path, make):
    results = [
        make(run_id="a" * 12, created="2026-01-01T00:00:00Z"),
        make("lab:new", run_id="b" * 12, created="2026-03-01T01:00:00+01:00"),
        make("lab:odd", run_id="c" * 12, created="no date"),
    ]
    build_site(results, tmp_path)
    feed = ElementTree.parse(tmp_path / "feed.xml").getroot()
    entries = feed.findall(f"{ATOM}entry")
    assert [e.findtext(f"{ATOM}updated") for e in entries] == [
        "2026-03-01T00:00:00Z", "2026-01-01T00:00:00Z", "1970-01-01T00:00:00Z",
    ]  # fmt: skip
    assert feed.findtext(f"{ATOM}updated") == "2026-03-01T00:00:00Z"
    ids = [e.findtext(f"{ATOM}id") for e in entries]
    assert len(set(ids)) == 3
    assert all(one.startswith("urn:uuid:") for one in ids)
    assert "overall 0.90" in entries[0].findtext(f"{ATOM}summary")
    links = [e.find(f"{ATOM}link").get("href") for e in entries]
    assert all((tmp_path / link).is_file() for link in links)
    build_site(results[:1], tmp_path)
    again = ElementTree.parse(tmp_path / "feed.xml").getroot()
    assert again.findtext(f"{ATOM}entry/{ATOM}id") == ids[1]
