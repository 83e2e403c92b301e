"""Boards: their order, their rows, rank sets and badges."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from unbench.leaderboard import build_site, read_entries
from unbench.leaderboard.boards import make_boards
from unbench.leaderboard.names import method_page, paper_link, run_pages, task_page
from unbench.metrics.ranks import rank_sets
from unbench.results.schema import Score


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


def test_one_device_is_named_once(make):
    """Runs on one thread were once said to have "1 threads"; eleven stay eleven."""
    devices = ["CPU, 1 threads", "CPU, 1 thread", "CPU, 11 threads", "NVIDIA H100"]
    results = [
        make(f"lab:m{i}", run_id=f"{i}" * 12).model_copy(update={"device": one}) for i, one in enumerate(devices)
    ]
    (board,) = make_boards(results, {})
    assert board.devices == ["CPU, 1 thread", "CPU, 11 threads", "NVIDIA H100"]


def test_runs_of_one_method_are_all_shown_and_told_apart(make):
    results = [make(run_id="aaaaaa111111"), make(run_id="bbbbbb222222"), make("other:npo"), make("unbench:idk")]
    (board,) = make_boards(results, {})
    assert {row.label for row in board.rows} == {
        "unbench:npo · aaaaaa",
        "unbench:npo · bbbbbb",
        "other:npo",
        "idk",
    }


def test_controls_and_limited_runs_are_marked_and_off_the_front(tmp_path, make, read_page):
    results = [
        make("unbench:retrain", forget=1.0, specificity=1.0),
        make("unbench:npo", forget=0.99, specificity=0.99, plan={"limit": 5}),
        make("unbench:idk", forget=0.5, specificity=0.5),
    ]
    page = read_page(build_site(results, tmp_path))
    fronts = [p["text"].partition(" On the front: ")[2] for p in page.all("p") if "On the front: " in p["text"]]
    assert fronts == ["idk.", "idk."]
    rows = [row["text"] for row in page.all("tr") if "seed" in row["text"]]
    assert ["limited" in row for row in rows] == [False, True, False]
    assert [row["attrs"].get("class") for row in page.all("tr")][-1] == "control"


def test_attacked_runs_come_first_controls_last(make, make_attacked):
    results = [
        make("lab:high", overall=0.99),
        make_attacked(make("lab:low"), 0.1, 0.1),
        make_attacked(make("lab:mid"), 0.3, 0.4, by="unbench:quantize at 4 bits, 8"),
        make_attacked(make("unbench:retrain"), 0.9, 0.95),
        make("unbench:none", overall=0.0),
    ]
    (board,) = make_boards(results, {})
    assert board.sorted_by == "overall_worst"
    assert [row.name for row in board.rows] == ["mid", "low", "high", "retrain", "none"]
    assert [row.divided for row in board.rows] == [False, False, True, True, True]
    worst = next(cell for cell in board.rows[0].cells if cell.key == "forget_worst")
    assert (worst.text, worst.by) == ("0.30", "quantize")
    assert "no attack was tried" in board.notes
    (quiet,) = make_boards([make("lab:high")], {})
    assert quiet.sorted_by == "overall"
    assert "no attack was tried" not in quiet.notes


def test_rank_sets_leave_controls_out_and_group_what_cannot_be_told_apart(four_submissions):
    (board,) = make_boards(four_submissions, {})
    assert [(row.name, row.rank_text, row.divided) for row in board.rows] == [
        ("a", "1–2", False),
        ("b", "1–2", False),
        ("c", "3", True),
        ("retrain", "–", True),
    ]


def test_ranks_are_those_of_the_metric_over_the_clusters_of_all(tmp_path, make, make_attacked, make_submission):
    """A cluster that one of them doesn't name changes nothing for it; other subjects are a stratum of their own."""
    home = tmp_path / "leaderboard"
    draw = np.random.default_rng(3)
    names = [*(f"s{i}" for i in range(30)), *(f"o{i}" for i in range(10))]
    values, rows, seeds = [0.8, 0.79, 0.5], [], []
    for number, value in enumerate(values):
        left_out = {name: round(value + draw.normal(0, 0.004), 6) for name in names if (number, name) != (1, "o3")}
        own = [value - 0.01, value + 0.01]
        rows.append([left_out.get(name, value) for name in names])
        seeds.append(np.array(own))
        data = {"left_out": left_out, "others": [name for name in left_out if name[0] == "o"], "by_seed": own}
        result = make_attacked(make(f"lab:m{number}", run_id=f"{number}" * 12), value, value)
        make_submission(result, home, ranking={"overall_worst": data})
    strata = np.array([name[0] == "o" for name in names], dtype=np.int64)
    wanted = rank_sets(np.array(values), np.array(rows), seeds, strata=strata)
    (board,) = make_boards(read_entries(home), {})
    assert [row.rank for row in board.rows] == list(zip(wanted.low.tolist(), wanted.high.tolist(), strict=True))
    assert [row.rank_text for row in board.rows] == ["1–2", "1–2", "3"]


def test_without_scores_by_cluster_there_are_no_ranks(make, make_attacked, tmp_path, make_submission):
    results = [make_attacked(make(f"lab:m{i}", run_id=f"{i}" * 12), 0.5, 0.5) for i in range(3)]
    assert [row.rank_text for row in make_boards(results, {})[0].rows] == ["–"] * 3
    home = tmp_path / "leaderboard"
    for number, result in enumerate(results):
        data = {"left_out": {"only": 0.5}, "by_seed": [0.5]} if number < 2 else None
        make_submission(result, home, ranking={"overall_worst": data} if data else {})
    assert [row.rank_text for row in make_boards(read_entries(home), {})[0].rows] == ["–"] * 3


def test_a_copy_of_a_consistent_run_is_only_claimed(tmp_path, make, make_submission):
    home = tmp_path / "leaderboard"
    folder = make_submission(make(), home)
    shutil.copytree(folder, home / "submissions" / "copy" / folder.name)
    entries = read_entries(home / "submissions", consistent={folder})
    assert {entry.folder: entry.badge for entry in entries} == {
        folder: "consistent", home / "submissions" / "copy" / folder.name: "claimed",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "consistent", "badge"),
    [(None, False, "claimed"), (None, True, "consistent"), ("reproduced", True, "reproduced"),
     ("re-evaluated", False, "re-evaluated"), ("refuted", True, "refuted")],
)  # fmt: skip
def test_badges_and_both_numbers(tmp_path, make, make_submission, make_verification, read_page, verdict, consistent,
                                 badge):  # fmt: skip
    home = tmp_path / "leaderboard"
    folder = make_submission(make(), home)
    if verdict:
        make_verification(folder, home, verdict, {"overall": 0.88})
    entries = read_entries(home / "submissions", consistent={folder} if consistent else set())
    assert [entry.badge for entry in entries] == [badge]
    build_site(entries, tmp_path / "site")
    text = read_page(tmp_path / f"site/runs/{folder.name}.html").all("main")[0]["text"]
    if verdict:
        assert "0.90 [0.85, 0.95]" in text
        assert "0.88 [0.83, 0.93]" in text
        assert "-0.0200" in text


def test_a_verification_of_another_file_gives_no_badge(tmp_path, make, make_submission, make_verification):
    home = tmp_path / "leaderboard"
    folder = make_submission(make(), home)
    make_verification(folder, home, "reproduced", {"overall": 0.9})
    path = folder / "submission.json"
    path.write_text(path.read_text().replace("A. Tester", "B. Tester"))
    assert [entry.badge for entry in read_entries(home)] == ["claimed"]


def test_a_plain_run_is_local(tmp_path, make):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/result.json").write_text(make().model_dump_json(by_alias=True))
    (entry,) = read_entries(tmp_path / "runs")
    assert entry.badge == "local"


def test_what_is_retracted_or_superseded_keeps_its_page_and_leaves_the_boards(
    tmp_path, make, make_submission, read_page
):
    home = tmp_path / "leaderboard"
    make_submission(make(run_id="a" * 12), home)
    make_submission(make(run_id="b" * 12, created="2026-02-02T00:00:00Z"), home, supersedes="a" * 12)
    make_submission(make("lab:x", run_id="c" * 12), home, retracted="The data leaked.")
    entries = read_entries(home)
    (board,) = make_boards(entries, {})
    assert [row.result.run_id[0] for row in board.rows] == ["b"]
    build_site(entries, tmp_path / "site")
    old, gone = (read_page(tmp_path / f"site/runs/{one * 12}.html").all("main")[0]["text"] for one in "ac")
    assert "Superseded by run bbbbbbbbbbbb" in old
    assert "Retracted. The data leaked." in gone
    assert "Off the boards" in read_page(tmp_path / "site/index.html").all("main")[0]["text"]


def test_nobody_supersedes_a_rival(tmp_path, make, make_submission):
    home = tmp_path / "leaderboard"
    make_submission(make("lab:good", run_id="a" * 12), home)
    make_submission(make("evil:good", run_id="b" * 12, created="2026-03-03T00:00:00Z"), home, supersedes="a" * 12)
    (board,) = make_boards(read_entries(home), {})
    assert len(board.rows) == 2


def test_a_broken_submission_is_named_and_left_out(tmp_path, make, make_submission, caplog):
    home = tmp_path / "leaderboard"
    make_submission(make(run_id="a" * 12), home)
    for number, text in enumerate(("{", "[]", '{"schema": "unbench.submission/9"}')):
        (home / f"submissions/bad{number}").mkdir()
        (home / f"submissions/bad{number}/submission.json").write_text(text)
    (home / "submissions/link").mkdir()
    (home / "submissions/link/submission.json").symlink_to("/etc/hostname")
    assert len(read_entries(home)) == 1
    assert len([message for message in caplog.messages if "is no submission" in message]) == 4


def test_names_of_pages_are_never_free_text():
    assert method_page("unbench:npo") == "methods/npo.html"
    for name in ("../../x", "lab:npo", "unbench:../x", "unbench:NPO"):
        assert method_page(name).startswith("methods/m-"), name
    assert task_page("bios/fact", "a").startswith("tasks/bios-fact-")
    assert task_page("../etc/x", "a").startswith("tasks/t-")
    keys = [("t", "0123456789ab"), ("t", "../x"), ("t", "cccccccccccc"), ("u", "cccccccccccc")]
    names = run_pages(keys)
    assert names[keys[0]] == "0123456789ab"
    assert all(names[key].startswith("r-") for key in keys[1:])
    assert len(set(names.values())) == 4


def test_links_to_papers():
    assert paper_link("arXiv:2404.05868") == paper_link("2404.05868v2") == "https://arxiv.org/abs/2404.05868"
    assert paper_link("10.1000/xyz(1)") == "https://doi.org/10.1000/xyz(1)"
    assert paper_link("https://example.org/a") == "https://example.org/a"
    for text in (None, "", "javascript:alert(1)", "http://example.org", 'https://x"y', "see our paper"):
        assert paper_link(text) is None


def test_scores_without_an_interval_have_no_whisker_line():
    from unbench.leaderboard.render import whisker

    assert "path" not in whisker(Score(value=0.5))
    assert whisker(Score(value=None)) == ""
    assert 'd="M40 5H60"' in whisker(Score(value=0.5, low=0.4, high=0.6))
