"""One digit of one number changed, by somebody who makes every hash anew: it is found."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unbench.submissions import files as names
from unbench.submissions.check import compare, computed
from unbench.submissions.read import open_submission, yardsticks
from unbench.submissions.strict import parse

from .conftest import Run
from .world import Forged, World

SAMPLE = 200
FIELDS = ("scores", "per_seed", "metrics", "groups", "attacks", "worst")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def numbers(text: str) -> list[tuple[int, int]]:
    """Where the numbers of the scores stand in the text of a submission.json."""
    found = []
    holder, path = [], []  # type: ignore[var-annotated]
    for line in re.finditer(r"[^\n]+", text):
        bare = line[0].strip().rstrip(",")
        key = re.match(r'"((?:[^"\\]|\\.)*)": ', bare)
        value = bare[key.end() :] if key else bare
        if value in ("{", "["):
            holder.append(key[1] if key else "")
        elif bare in ("}", "]"):
            holder.pop()
        elif NUMBER.fullmatch(value):
            path = [*holder, key[1] if key else ""]
            scored = path[1:2] == ["ranking"] or (path[1:2] == ["result"] and path[2:3] and path[2] in FIELDS)
            told = "wall_s" in path or "notes" in path
            if scored and not told:
                start = line.start() + line[0].index(value, key.end() if key else 0)
                found.append((start, start + len(value)))
    return found


def tampered(text: str, draw: random.Random) -> Iterator[str]:
    """The text with one digit of one number changed, again and again."""
    places = [at for start, end in numbers(text) for at in range(start, end) if text[at].isdigit()]
    assert len(places) > SAMPLE
    while True:
        at = draw.choice(places)
        digit = draw.choice([one for one in "0123456789" if one != text[at]])
        yield f"{text[:at]}{digit}{text[at + 1 :]}"


def refused_or_found(text: str, expected: dict[str, Any], honest: dict[str, Any]) -> bool:
    """Whether a changed text is no JSON any more (01), says the very same number (1e-06 as 1e-06), or is found."""
    try:
        body = json.loads(text)
    except ValueError:
        return True
    return any(compare(body, expected)) or body == honest


def check_sample(folder: Path, root: Path, count: int) -> None:
    text = (folder / names.SUBMISSION_FILE).read_text("utf-8")
    opened = open_submission(folder)
    yard = yardsticks(root).find(opened.submission.result.task, opened.submission.yardstick)
    expected = computed(opened, yard)
    assert not list(compare(opened.body, expected))
    changes = tampered(text, random.Random(folder.name))
    for _ in range(count):
        changed = next(changes)
        assert refused_or_found(changed, expected, opened.body), difference(text, changed)


def difference(text: str, changed: str) -> str:
    at = next(i for i, (a, b) in enumerate(zip(text, changed, strict=False)) if a != b)
    return f"…{text[at - 80 : at + 20]}… -> {changed[at]}"


def test_where_the_numbers_stand(forged: Forged) -> None:
    text = (forged.folder / names.SUBMISSION_FILE).read_text("utf-8")
    ours = sorted(float(text[start:end]) for start, end in numbers(text))

    def walk(value: Any) -> Iterator[float]:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key not in ("wall_s", "notes"):
                    yield from walk(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield float(value)

    fields = [forged.result[name] for name in FIELDS]
    assert ours == sorted(walk([*fields, forged.body["ranking"]]))


def test_any_digit_of_a_made_up_submission(forged: Forged, small: World) -> None:
    check_sample(forged.folder, small.root, SAMPLE)


@pytest.mark.slow
def test_any_digit_of_what_is_committed(repository: Path, tmp_path: Path) -> None:
    root = repository / "leaderboard"
    folders = [path.parent for path in sorted((root / "submissions").glob("*/*/*/*/submission.json"))]
    if not folders:
        pytest.skip("nothing is submitted yet")
    for folder in folders:
        # Without what a look at it may have left there.
        copy = tmp_path / folder.relative_to(root)
        copy.mkdir(parents=True)
        for name in (names.SUBMISSION_FILE, *names.MAX_SIZES):
            if (folder / name).is_file():
                shutil.copy(folder / name, copy / name)
        check_sample(copy, root, -(-SAMPLE // len(folders)) if len(folders) > 4 else SAMPLE)


@pytest.mark.parametrize("number", range(5))
def test_through_the_command_line(number: int, forged: Forged, small: World, unbench: Run) -> None:
    text = (forged.folder / names.SUBMISSION_FILE).read_text("utf-8")
    (forged.folder / names.SUBMISSION_FILE).write_text(next(tampered(text, random.Random(number))), "utf-8")
    assert unbench("validate", small.submissions).code == 1


def one_digit(forged: Forged) -> None:
    """One digit of a log-probability."""
    rows = forged.lines()
    rows[2]["lp"][0] = round(rows[2]["lp"][0] - 0.1, 4)
    forged.put_lines(rows)


def test_a_row_is_tampered_with(forged: Forged, small: World, unbench: Run) -> None:
    honest = dict(forged.body["files"])
    one_digit(forged)
    # The hash in submission.json is the old one.
    forged.body["files"] = honest
    forged.seal()
    done = unbench("validate", small.submissions)
    assert (done.code, "is not the file whose hash" in done.out) == (1, True)


def test_a_row_is_tampered_with_and_hashed(forged: Forged, small: World, unbench: Run) -> None:
    one_digit(forged)
    forged.seal()
    done = unbench("validate", small.submissions)
    assert (done.code, "and the rows give" in done.out) == (1, True)


def test_forged_all_through_passes_as_what_it_says(forged: Forged, small: World, unbench: Run) -> None:
    """What only doing it again can find: rows made up, and every number computed from them."""
    one_digit(forged)
    forged.rescore()
    forged.seal()
    assert unbench("validate", small.submissions).code == 0


@pytest.mark.parametrize("value", [True, "0.5", None, [], -0.0, 10**19, 1e300])
def test_compare_takes_nothing_for_a_number(value: Any, forged: Forged, small: World) -> None:
    opened = open_submission(forged.folder)
    yard = yardsticks(small.root).find(opened.submission.result.task, opened.submission.yardstick)
    expected = computed(opened, yard)
    body = parse((forged.folder / names.SUBMISSION_FILE).read_bytes())
    body["result"]["metrics"]["suppressed"]["low"] = value
    expected["metrics"]["suppressed"]["low"] = 0.0
    assert list(compare(body, expected))
