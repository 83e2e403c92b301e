"""The page of a run: its probes, examples, anti-samples, curves."""

from __future__ import annotations

import gzip
import json

import pandas as pd
import pytest

from unbench.leaderboard import build_site, read_entries
from unbench.leaderboard.curves import attack_svgs, ring_points
from unbench.leaderboard.probes import ProbeRow, probes_of
from unbench.leaderboard.render import docstring_parts
from unbench.results.schema import AttackPoint, AttackResult, Group, Score


def probe_frame(facts: int = 30, seeds=(0, 1, 2)) -> pd.DataFrame:
    rows = []
    for fact in range(facts):
        for kind in ("direct", "cloze"):
            rows.append({"probe": f"forget/{kind}/{fact}", "ring": "forget", "kind": kind, "fact": f"f{fact}",
                         "given": False, "question": f"Where does person {fact} live ({kind})?", "known_target": 0.99,
                         "known_reference": 0.01, "text_target": f"Person {fact} lives in Rome."}
                        | {f"known_seed_{k}": fact / facts + 0.01 * k for k in seeds}
                        | {f"text_seed_{k}": f"Person {fact} lives in Oslo." for k in seeds})  # fmt: skip
        for given in (False, True):
            known = 0.98 - (fact == 7) * 0.5 - given * 0.9
            rows.append({"probe": f"near/{given}/{fact}", "ring": "near", "kind": "same_subject", "fact": f"n{fact}",
                         "given": given, "question": f"What does person {fact} play?", "known_target": 0.99,
                         "known_reference": None, "text_target": "The drum.\nIndeed."}
                        | {f"known_seed_{k}": known for k in seeds}
                        | {f"text_seed_{k}": "The drum.\nIndeed." for k in seeds})  # fmt: skip
    return pd.DataFrame(rows).astype({"known_reference": float})


@pytest.fixture
def run_with_probes(tmp_path, make):
    folder = tmp_path / "runs/a"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(make().model_dump_json(by_alias=True))
    probe_frame().to_parquet(folder / "probes.parquet")
    return folder


def test_probes_are_shown_fact_by_fact_and_the_others_by_what_changed(run_with_probes, tmp_path, read_page):
    (entry,) = read_entries(tmp_path / "runs")
    found = probes_of(entry, None)
    assert (len(found.forget.rows), found.forget.total, found.forget.left_out) == (60, 60, 0)
    first, second = found.forget.rows[:2]
    assert (first.after, first.before, first.reference, first.spread) == ("0.98", "0.99", "0.01", "")
    assert (first.said_before, first.change) == ("Person 29 lives in Rome.", "… Oslo.")
    assert (first.again, second.again) == (False, True)
    # Given facts are not scored, so they are not what changed.
    assert found.others.total == 30
    assert found.others.rows[0].question == "What does person 7 play?"
    assert (found.others.rows[0].after, found.others.rows[0].change) == ("0.48", "")
    assert [(row.ring, row.kind) for row in found.examples] == [
        ("forget", "cloze"), ("forget", "direct"), ("near", "same subject"),
    ]  # fmt: skip
    build_site([entry], tmp_path / "site")
    text = read_page(tmp_path / f"site/runs/{entry.result.run_id}.html").all("main")[0]["text"]
    assert "Forgotten facts: 60 of 60 probes" in text
    assert "The drum. Indeed." in text


def test_a_page_stays_small_and_says_what_it_leaves_out(run_with_probes, tmp_path):
    probe_frame(facts=2000).to_parquet(run_with_probes / "probes.parquet")
    (entry,) = read_entries(tmp_path / "runs")
    index = build_site([entry], tmp_path / "site")
    page = index.parent / f"runs/{entry.result.run_id}.html"
    text = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 80_000
    assert "of 4000 probes" in text
    assert "are left out here" in text


@pytest.mark.parametrize("damage", [b"", b"PAR1 no", None])
def test_broken_probes_leave_a_page_without_them(run_with_probes, tmp_path, damage, read_page):
    if damage is None:
        probe_frame().drop(columns="ring").to_parquet(run_with_probes / "probes.parquet")
    else:
        (run_with_probes / "probes.parquet").write_bytes(damage)
    (entry,) = read_entries(tmp_path / "runs")
    build_site([entry], tmp_path / "site")
    assert "don't lie beside" in read_page(tmp_path / f"site/runs/{entry.result.run_id}.html").all("main")[0]["text"]


def test_the_answer_after_is_told_from_where_it_differs():
    def change(before: str, after: str) -> str:
        return ProbeRow("forget", "direct", "q", "", "", "", "", before, after).change

    assert change("He lives in Rome.", "He lives in Oslo.") == "… Oslo."
    assert change("He lives in Rome.", "He lives in Rome.") == ""
    assert change("He lives in Rome.", "I don't know.") == "I don't know."
    assert change("He lives in Rome.", "He lives in") == "He lives in"
    assert change("He lives in", "He lives in Rome now.") == "He lives in Rome now."
    assert change("", "Something.") == "Something."


def test_anti_samples_of_a_submission(tmp_path, make, make_submission, read_page):
    home = tmp_path / "leaderboard"
    folder = make_submission(make("lab:x"), home)
    line = {"round": 1, "role": "forget", "stage": "anti_sample", "fact": "f", "question": "Where?", "kept": True,
            "paraphrase": "In which city?", "completion": "In <b>Oslo</b>."}  # fmt: skip
    lines = [
        line,
        line,
        line | {"kept": False, "completion": "dropped"},
        line | {"role": "retain", "completion": "kept"},
    ]
    packed = gzip.compress("\n".join(json.dumps(one) for one in lines).encode())
    (folder / "anti_samples.jsonl.gz").write_bytes(packed)
    build_site(read_entries(home), tmp_path / "site")
    page = read_page(tmp_path / f"site/runs/{folder.name}.html")
    assert "a few of the 2 anti-samples that lie beside this result, of 1 fact." in page.all("main")[0]["text"]
    (shown,) = page.all("ul", class_="anti")
    assert shown["text"].strip() == "In which city? → In <b>Oslo</b>. round 1"


def test_rings_run_from_the_forgotten_facts_outwards(make):
    def group(ring: str, kind: str, known: float, n: int, given: bool = False) -> Group:
        return Group(
            ring=ring, kind=kind, given=given, n=n, known_unlearned=known, known_target=1.0, known_reference=None
        )

    groups = [group("world", "world", 0.9, 5), group("near", "same_answer", 0.7, 5), group("forget", "direct", 0.0, 30),
              group("forget", "cloze", 0.4, 10), group("near", "same_answer", 1.0, 5, given=True)]  # fmt: skip
    points = ring_points(make().model_copy(update={"groups": groups}))
    assert [(p.label, p.n, p.after, p.reference) for p in points] == [
        ("forget", 40, pytest.approx(0.1), None), ("same answer", 5, 0.7, None), ("world", 5, 0.9, None),
    ]  # fmt: skip


def test_panels_of_attacks_ring_the_worst_point_and_share_one_grid():
    def point(strength: float, value: float | None, series: str = "") -> AttackPoint:
        return AttackPoint(series=series, strength=strength, known_unlearned=0.1, excess=Score(value=0.1),
                           forget=Score(value=value, reason=None if value is not None else "none"))  # fmt: skip

    whole = AttackResult(name="unbench:quantize", kind="weights", points=[point(8, 0.9), point(4, 0.2)], worst=1,
                         forget=Score(value=0.2))  # fmt: skip
    lone = AttackResult(name="lab:<b>", kind="prompt", points=[point(1, 0.5)], forget=Score(value=0.5))
    drawn = attack_svgs([lone, whole, whole])
    assert drawn[0] == ""
    assert drawn[1].count('class="worst"') == 1
    assert 'id="pg"' in drawn[1]
    assert 'href="#pg"' in drawn[2]
    assert "<b>" not in "".join(drawn)


def test_docstrings_are_prose_and_formulas():
    assert docstring_parts("Title.\n\n    L = x\n      + y\n\nSaid of ``x``\nand y.\n") == [
        ("p", "Title."), ("pre", "L = x\n  + y"), ("p", "Said of x and y."),
    ]  # fmt: skip
