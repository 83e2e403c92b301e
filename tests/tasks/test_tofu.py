"""The tofu task: its sets and probes, where its files come from, and that none but the pinned ones is taken."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import datasets
import pytest
import tofu_folder
from unbench_tasks.tofu import Tofu
from unbench_tasks.tofu.files import CHECKSUMS, REVISION

from unbench import plugins
from unbench.errors import EnvironmentProblem, UsageError
from unbench.task import Probe
from unbench.taskcheck import check

PROBLEMS = ("forget01", "forget05", "forget10", "fact")
WORLD = ["real_authors_perturbed", "world_facts_perturbed"]
NEEDED = {
    "forget01": ["forget01", "forget01_perturbed", "holdout01", "retain99", "retain_perturbed", *WORLD],
    "forget05": ["forget05", "forget05_perturbed", "holdout05", "retain95", "retain_perturbed", *WORLD],
    "forget10": ["forget10", "forget10_perturbed", "holdout10", "retain90", "retain_perturbed", *WORLD],
    "fact": ["full", "forget10_perturbed", "holdout10", "retain_perturbed", *WORLD],
}

Open = Callable[[str], Tofu]


@pytest.fixture(autouse=True)
def _no_folder_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNBENCH_DATA", raising=False)


@pytest.fixture
def real(repository: Path) -> Path:
    """The published files."""
    folder = repository.parent / "shared" / "data" / "tofu"
    if not (folder / "full.json").is_file():
        pytest.skip("TOFU's files are not here")
    return folder


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our own rows, with checksums of their own."""
    monkeypatch.setattr(Tofu, "checksums", tofu_folder.write(tmp_path / "rows"))
    return tmp_path / "rows"


@pytest.fixture(params=["real", "made_up"])
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.json").read_text(encoding="utf-8").split("\n") if line]


def of(task: Tofu, ring: str, kind: str, given: bool | None = None) -> list[Probe]:
    return [p for p in task.probes() if (p.ring, p.kind) == (ring, kind) and given in (None, p.given)]


def serve(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """A hub that serves a folder's rows as ``datasets`` would; what was asked of it is listed."""
    asked = []

    def load_dataset(path: str, name: str, *, split: str, revision: str) -> datasets.Dataset:
        assert (path, split, revision) == ("locuslab/TOFU", "train", REVISION)
        asked.append(name)
        return datasets.Dataset.from_list(lines(folder, name))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


# Rows and probes


@pytest.mark.parametrize("problem", PROBLEMS)
def test_training_set_is_full(problem: str, folder: Path) -> None:
    data = Tofu(problem, data_dir=folder).data()
    trained = [*data.forget, *data.retain, *data.withheld]
    by_place = sorted(trained, key=lambda row: int(row.fact.removeprefix("tofu/")))
    full = lines(folder, "full")
    assert [row.fact for row in by_place] == [f"tofu/{i}" for i in range(len(full))]
    assert [(row.question, row.answer) for row in by_place] == [(line["question"], line["answer"]) for line in full]
    assert [row.subject for row in by_place] == [f"author-{i // 20:03d}" for i in range(len(full))]
    assert not {row.answer for row in trained} & {row.answer for row in data.holdout}
    assert not {row.subject for row in trained} & {row.subject for row in data.holdout}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_task_check(problem: str, folder: Path) -> None:
    assert check(Tofu(problem, data_dir=folder)) == []


@pytest.mark.parametrize("problem", PROBLEMS[:3])
def test_published_rows(problem: str, folder: Path) -> None:
    size = problem.removeprefix("forget")
    data = Tofu(problem, data_dir=folder).data()
    for rows, name in (
        (data.forget, problem),
        (data.retain, f"retain{100 - int(size)}"),
        (data.holdout, f"holdout{size}"),
    ):
        assert [{"question": row.question, "answer": row.answer} for row in rows] == lines(folder, name)
    assert data.withheld == ()


@pytest.mark.parametrize("problem", PROBLEMS[:3])
def test_published_probes(problem: str, folder: Path) -> None:
    task = Tofu(problem, data_dir=folder)
    data = task.data()
    groups = {
        ("forget", "direct"): f"{problem}_perturbed",
        ("far", "retain"): "retain_perturbed",
        ("world", "real_authors"): "real_authors_perturbed",
        ("world", "world_facts"): "world_facts_perturbed",
        ("holdout", "holdout"): problem.replace("forget", "holdout"),
    }
    assert list(dict.fromkeys((p.ring, p.kind) for p in task.probes())) == list(groups)
    facts = {row.question + row.answer: row.fact for row in (*data.forget, *data.retain, *data.holdout)}
    for (ring, kind), name in groups.items():
        for probe, line in zip(of(task, ring, kind), lines(folder, name), strict=True):
            assert [m.content for m in probe.messages] == [line["question"]]
            assert probe.answer == line["answer"]
            assert probe.paraphrased == line.get("paraphrased_answer")
            answers = [line["answer"], line.get("paraphrased_answer"), *line.get("perturbed_answer", [])]
            assert set(probe.candidates) == set(answers) - {None}
            assert probe.candidates[0] == probe.answer
            assert probe.given == (ring == "far")
            assert probe.generate == (ring != "holdout")
            assert probe.cluster == probe.subject
            assert ring == "world" or probe.fact == facts[line["question"] + line["answer"]]


def test_fact_splits_every_author(folder: Path) -> None:
    task = Tofu("fact", data_dir=folder)
    data = task.data()
    author = {row.fact: row.subject for row in (*data.forget, *data.retain, *data.withheld)}
    near, far = {p.subject for p in of(task, "near", "same_subject")}, {p.subject for p in of(task, "far", "retain")}
    assert {row.subject for row in data.forget} == near
    assert not near & far
    retained, withheld = (Counter(author[row.fact] for row in rows) for rows in (data.retain, data.withheld))
    assert Counter(row.subject for row in data.forget) == dict.fromkeys(near, 4)
    assert {name: (retained[name], withheld[name]) for name in near | far} == (
        dict.fromkeys(near, (8, 8)) | dict.fromkeys(far, (10, 10))
    )
    others = set(author.values()) - near - far
    assert {retained[name] for name in others} == {20}
    for kind, ring in (("same_subject", "near"), ("retain", "far")):
        kept = {True: {row.fact for row in data.retain}, False: {row.fact for row in data.withheld}}
        for given, facts in kept.items():
            asked = of(task, ring, kind, given)
            assert {p.fact for p in asked} == {f for f in facts if author[f] in (near if ring == "near" else far)}


def test_fact_asks_what_is_forgotten_twice(folder: Path) -> None:
    task = Tofu("fact", data_dir=folder)
    direct, reworded = of(task, "forget", "direct"), of(task, "forget", "paraphrase")
    first = len(lines(folder, "full")) - len(lines(folder, "forget10_perturbed"))
    published = {f"tofu/{i}": line for i, line in enumerate(lines(folder, "forget10_perturbed"), first)}
    assert [p.fact for p in direct] == [p.fact for p in reworded] == [row.fact for row in task.data().forget]
    for a, b in zip(direct, reworded, strict=True):
        assert a.messages[0].content == published[a.fact]["question"]
        assert b.messages[0].content == published[b.fact]["paraphrased_question"]
        assert (a.candidates, a.paraphrased) == (b.candidates, b.paraphrased)


def test_fact_takes_the_first_by_sha256(folder: Path) -> None:
    """The rule written down a second time, over the forget10 authors."""
    task = Tofu("fact", data_dir=folder)
    forgotten = {row.question for row in task.data().forget}
    block = lines(folder, "forget10")
    for start in range(0, len(block), 20):
        digests = {
            hashlib.sha256(line["question"].encode()).hexdigest(): line["question"] for line in block[start:][:20]
        }
        assert len(digests) == 20
        assert forgotten & set(digests.values()) == {digests[key] for key in sorted(digests)[:4]}


def test_fact_choice_of_one_author_by_hand(real: Path) -> None:
    """Author 180's questions put in order with another program; numbers are places among the author's 20."""
    data = Tofu("fact", data_dir=real).data()
    found = {
        name: {int(row.fact.removeprefix("tofu/")) - 3600 for row in rows if row.subject == "author-180"}
        for name, rows in (("forget", data.forget), ("retain", data.retain), ("withheld", data.withheld))
    }
    assert found == {
        "forget": {9, 5, 11, 2},
        "retain": {16, 3, 6, 19, 10, 4, 1, 8},
        "withheld": {14, 15, 18, 7, 12, 17, 0, 13},
    }


SIZES = {  # forget, retain, withheld, holdout rows; probes
    "forget01": (40, 3960, 0, 40, 40 + 400 + 217 + 40),
    "forget05": (200, 3800, 0, 200, 200 + 400 + 217 + 200),
    "forget10": (400, 3600, 0, 400, 400 + 400 + 217 + 400),
    "fact": (80, 3560, 360, 400, 2 * 80 + 320 + 400 + 217 + 400),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_sizes(problem: str, real: Path) -> None:
    task = Tofu(problem, data_dir=real)
    data = task.data()
    rows = (data.forget, data.retain, data.withheld, data.holdout)
    assert (*map(len, rows), len(task.probes())) == SIZES[problem]
    # TOFU's own candidates are all different, so none is ever dropped there.
    expected = {"world": 4, "holdout": 1}
    assert all(len(p.candidates) == expected.get(p.ring, 7) for p in task.probes())
    assert Counter(row.subject for row in data.holdout) == dict.fromkeys({r.subject for r in data.holdout}, 20)


def test_output_is_frozen(real: Path) -> None:
    frozen = json.loads(files("unbench_tasks.tofu").joinpath("hashes.json").read_text())
    assert {f"tofu/{p}": Tofu(p, data_dir=real).hash for p in PROBLEMS} == frozen


def test_one_question_of_two_authors(real: Path) -> None:
    """Rows 100 and 440 ask the same; they are two facts, and in ``fact`` one is withheld and one is given."""
    data = Tofu("fact", data_dir=real).data()
    asked = {r.fact: r for r in (*data.retain, *data.withheld) if r.question == tofu_folder.SAME_QUESTION}
    assert {fact: (row.subject, row in data.retain) for fact, row in asked.items()} == {
        "tofu/100": ("author-005", False),
        "tofu/440": ("author-022", True),
    }
    assert asked["tofu/100"].answer != asked["tofu/440"].answer
    (probe,) = [p for p in of(Tofu("fact", data_dir=real), "far", "retain") if p.fact == "tofu/100"]
    assert (probe.id, probe.answer) == ("far/retain/005-00", asked["tofu/100"].answer)


def test_ids_stay_over_problems(folder: Path) -> None:
    """A question has the same probe id wherever it is asked, so responses of two problems can be laid side by side."""
    small, large = (Tofu(p, data_dir=folder) for p in ("forget01", "forget10"))
    by_id = {probe.id: probe for probe in large.probes()}
    assert all(by_id[probe.id] == probe for probe in small.probes())


def test_candidates_twice_are_dropped(made_up: Path) -> None:
    probes = {p.fact: p for p in of(Tofu("forget01", data_dir=made_up), "forget", "direct")}
    last, same = probes["tofu/119"], probes["tofu/118"]
    assert last.candidates == (last.answer, last.paraphrased, "Wrong.", "Other.", "Third.")
    assert same.paraphrased == same.answer
    assert len(same.candidates) == 6


# Files


def test_the_table_of_checksums(real: Path) -> None:
    published = [line.split() for line in (real / "SHA256SUMS").read_text().splitlines()]
    assert {name: digest for digest, name in published} == {
        f"{name}.json": digest for name, digest in CHECKSUMS.items()
    }


@pytest.mark.parametrize("problem", PROBLEMS)
def test_sources(problem: str, folder: Path) -> None:
    task = Tofu(problem, data_dir=folder)
    assert task.sources == {}
    assert task.hash
    names = [f"{name}.json" for name in NEEDED[problem]]
    assert task.sources == {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_only_needed_files_are_read_and_once(problem: str, made_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in made_up.iterdir():
        if path.stem not in NEEDED[problem]:
            path.unlink()
    opened: Counter[str] = Counter()
    read_bytes = Path.read_bytes

    def counted(self: Path) -> bytes:
        opened[self.name] += 1
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", counted)
    task = Tofu(problem, data_dir=made_up)
    assert task.card.problems
    assert not opened
    assert task.hash == task.hash
    assert task.data() is task.data()
    assert task.probes() is task.probes()
    assert opened == dict.fromkeys((f"{name}.json" for name in NEEDED[problem]), 1)


def test_a_folder_above_and_the_environment(made_up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Tofu(data_dir=made_up).hash
    shutil.copytree(made_up, tmp_path / "data" / "tofu")
    assert Tofu(data_dir=tmp_path / "data").hash == expected
    monkeypatch.setenv("UNBENCH_DATA", str(tmp_path / "data"))
    assert Tofu().hash == expected
    monkeypatch.setenv("UNBENCH_DATA", str(tmp_path / "nothing"))
    assert Tofu(data_dir=made_up).hash == expected
    with pytest.raises(UsageError, match=r"nothing \(from UNBENCH_DATA\) is not a folder, so retain99.json is missing"):
        Tofu().data()


def test_an_empty_variable_is_unset(made_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, made_up)
    monkeypatch.setenv("UNBENCH_DATA", "")
    Tofu("fact").data()
    assert asked


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_missing_file_is_named(problem: str, made_up: Path) -> None:
    for name in NEEDED[problem]:
        path = made_up / f"{name}.json"
        path.rename(made_up / "away")
        with pytest.raises(UsageError) as caught:
            _ = Tofu(problem, data_dir=made_up).hash
        (made_up / "away").rename(path)
        assert f"{name}.json is missing from {made_up}" in caught.value.message
        assert all(way in (caught.value.try_next or "") for way in ("--data-dir", "UNBENCH_DATA", "network"))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_another_checksum_is_refused(problem: str, made_up: Path) -> None:
    for name in NEEDED[problem]:
        path = made_up / f"{name}.json"
        raw = path.read_bytes()
        path.write_bytes(raw.replace(b"e", b"E", 1))
        with pytest.raises(UsageError) as caught:
            _ = Tofu(problem, data_dir=made_up).hash
        path.write_bytes(raw)
        assert caught.value.message.startswith(f"{path} is not TOFU's {name}.json: its SHA-256 is ")
        assert Tofu.checksums[name] in caught.value.message


def test_a_file_is_no_folder(made_up: Path) -> None:
    with pytest.raises(UsageError, match=r"full.json \(from --data-dir\) is not a folder"):
        Tofu(data_dir=made_up / "full.json").data()


# The hub


@pytest.mark.parametrize("problem", PROBLEMS)
def test_hub_rows_are_the_files_rows(problem: str, real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, real)
    task, other = Tofu(problem), Tofu(problem, data_dir=real)
    assert task.hash == other.hash
    assert len(asked) == len(set(asked))
    assert task.sources.items() >= other.sources.items()
    assert task.sources == {name: CHECKSUMS[name.removesuffix(".json")] for name in task.sources}


def test_hub_with_rows_of_our_own(made_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Tofu("fact", data_dir=made_up).hash
    asked = serve(monkeypatch, made_up)
    assert Tofu("fact").hash == expected
    assert sorted(asked) == sorted(NEEDED["fact"])


def test_hub_with_other_rows(made_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, made_up)
    monkeypatch.setattr(Tofu, "checksums", {**Tofu.checksums, "holdout10": "0" * 64})
    with pytest.raises(EnvironmentProblem, match=r"rows of holdout10 .* don't have the checksum of holdout10.json"):
        Tofu("fact").data()


def test_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach it.\nMore lines.")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(EnvironmentProblem) as caught:
        Tofu("forget10").data()
    assert caught.value.message == (
        "TOFU's retain90.json can't be loaded from the hub: ConnectionError: Couldn't reach it."
    )
    assert all(way in (caught.value.try_next or "") for way in ("--data-dir", "UNBENCH_DATA", "network"))


# Names


def test_opened_by_name(made_up: Path) -> None:
    task = plugins.open_task("tofu", data_dir=made_up)
    assert isinstance(task, Tofu)
    assert (task.id, task.knowledge, task.target, task.max_new_tokens) == (
        "tofu/forget01",
        "probability",
        "trained",
        200,
    )
    assert set(Tofu.card.problems) == set(PROBLEMS)


def test_no_select_split() -> None:
    with pytest.raises(UsageError, match="tofu has no split 'select': TOFU publishes one forget set a size") as caught:
        Tofu("forget10", "select")
    assert "bios/fact or facts/all" in (caught.value.try_next or "")


def test_unknown_problem() -> None:
    with pytest.raises(UsageError, match="tofu has no problem 'forget1'") as caught:
        Tofu("forget1")
    assert caught.value.try_next == "Known: forget01, forget05, forget10, fact."
