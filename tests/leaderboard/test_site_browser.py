"""The site in a real browser: Debian's Chromium, driven by Playwright; axe-core judges how accessible it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unbench.leaderboard import Site, build_site, read_entries
from unbench.leaderboard.known import task_facts
from unbench.metaeval.record import read as read_metaeval
from unbench.plugins import method_cards
from unbench.results.schema import Result

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
REPRODUCED, HOSTILE = "f" * 12, "e" * 12
COMMITTED = ("leaderboard/submissions/bios/fact", "results/facts/hogwarts")
"""Folders of committed results."""


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory,
    repository: Path,
    make: Callable[..., Result],
    missing: Callable[..., dict[str, Any]],
    make_submission: Callable[..., Path],
    make_verification: Callable[..., None],
) -> Path:
    """A site of committed results, one submission that was reproduced, and one with hostile texts."""
    home = tmp_path_factory.mktemp("browser") / "leaderboard"
    committed = [entry for name in COMMITTED for entry in read_entries(repository / name)]
    # One that was not attacked: its cell is empty.
    committed = [
        replace(entry, result=entry.result.model_copy(update={"worst": None, "attacks": []}))
        if entry.result.method == "unbench:idk" else entry
        for entry in committed
    ]  # fmt: skip
    (real,) = [entry.result for entry in committed if entry.result.model == "smollm2"]
    result = make("lab:reproduced", run_id=REPRODUCED, task=real.task, task_hash=real.hashes.task, model=real.model)
    make_verification(make_submission(result, home), home, "reproduced", {"overall": 0.9})
    broken = "</li><script>document.title = 'broken'</script>"
    hostile = make("lab:hostile", run_id=HOSTILE, task="evil/task", device="<b>" + "x" * 300,
                   scores={"trace": missing(None, broken)})  # fmt: skip
    make_submission(hostile, home, submitter="w" * 400, command=broken * 9)
    entries = [*committed, *read_entries(home)]
    metaeval = read_metaeval(repository / "results/metaeval")
    build_site(Site(entries, method_cards(), task_facts({"bios/fact"}), metaeval), home / "site")
    return home / "site"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; skipped with a sentence where there is none, a failure where CI must have one."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path, why = None, "the package playwright is missing: make installs it"
    else:
        why = "there is no Chromium here, and nobody may install it: apt install chromium"
    if path is None:
        if os.environ.get("CI", "") not in ("", "0", "false"):
            pytest.fail(f"The browser tests can't run: {why}.")
        pytest.skip(f"The browser tests did not run: {why}.")
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, site: Path) -> Iterator[Any]:
    """``visit(name, width=…, dark=…)``: a page of the site; it must say nothing on the console and ask no host."""
    said: list[str] = []
    contexts = []

    def asked(request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "http://127.0.0.1")):
            said.append(f"asked {request.url}")

    def visit(name: str, width: int = 1280, dark: bool = False, address: str | None = None, **options: Any) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", **options
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", asked)
        page.goto(address or (site / name).as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert said == []


def kinds_of_pages(site: Path) -> list[str]:
    """One page of each kind, those with most in them."""
    largest = [
        max((site / folder).glob("*.html"), key=lambda path: (path.stat().st_size, path.name))
        for folder in ("boards", "methods", "tasks", "runs")
    ]
    flat = sorted(path.name for path in site.glob("*.html"))
    inner = [str(path.relative_to(site)) for path in largest]
    return [*flat, *inner, f"runs/{REPRODUCED}.html", f"runs/{HOSTILE}.html"]


def board(page: Any, task: str = "bios/fact") -> Any:
    return page.locator(f'section.board[data-task="{task}"]')


def column(page: Any, number: int, task: str = "bios/fact") -> list[str]:
    rows = board(page, task).locator("tbody tr:not([hidden])")
    return rows.evaluate_all("(rows, n) => rows.map((row) => row.cells[n].firstChild.textContent.trim())", number)


def numbers(texts: list[str]) -> list[float]:
    return [float(text) for text in texts if text != "–"]


def test_sorting_by_mouse(visit):
    page = visit("index.html")
    before = column(page, 1)
    head = board(page).locator('th[data-key="forget"]')
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    found = numbers(column(page, 5))
    assert found == sorted(found, reverse=True)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    found = numbers(column(page, 5))
    assert found == sorted(found)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "none"
    assert column(page, 1) == before


def test_sorting_by_keyboard_and_what_is_missing_stays_last(visit):
    page = visit("index.html")
    head = board(page).locator('th[data-key="overall_worst"]')
    button = head.locator("button")
    board(page).locator('th[data-key="method"] button').focus()
    page.keyboard.press("Tab")
    assert button.evaluate("(node) => node === document.activeElement")
    assert button.evaluate("(node) => getComputedStyle(node).outlineStyle") == "solid"
    for key, direction in (("Enter", "descending"), ("Space", "ascending")):
        page.keyboard.press(key)
        assert head.get_attribute("aria-sort") == direction
        texts = column(page, 3)
        assert "–" in texts
        assert "–" not in texts[: len(numbers(texts))]
    assert numbers(texts) == sorted(numbers(texts))


def test_every_column_sorts_without_losing_a_row(visit):
    page = visit("index.html")
    rows = sorted(column(page, 1))
    for button in board(page).locator("thead button").all():
        button.click()
        assert sorted(column(page, 1)) == rows


def test_filters_and_their_count(visit):
    page = visit("index.html")
    page.fill("#q", "npo")
    # Two runs of one method stand with the starts of their run-ids.
    assert {text.partition(" · ")[0] for text in column(page, 1)} == {"npo", "simnpo"}
    assert "runs shown" in page.inner_text("#status")
    page.select_option("#kind", "control")
    assert page.locator("section.board:visible").count() == 0
    page.click("#reset")
    page.select_option("#model", "smollm2")
    assert page.locator("section.board:visible").count() == 1
    page.select_option("#model", "")
    page.select_option("#task", "bios/fact")
    assert page.locator("section.board:visible").count() == 1
    page.select_option("#task", "")
    page.select_option("#train", "lora")
    assert page.locator("section.board:visible").count() == 1
    page.select_option("#train", "")
    page.check("#verified")
    assert column(page, 1, "facts/hogwarts") == ["reproduced"]
    checked = page.locator("section.board:visible tbody tr:visible .badge:not(.controlled)").all_inner_texts()
    assert set(checked) <= {"re-evaluated", "reproduced"}
    assert len(checked) < board(page).locator("tbody tr").count()


def test_a_permalink_restores_the_state(visit):
    page = visit("index.html")
    page.fill("#q", "o")
    page.select_option("#kind", "preference")
    board(page).locator('th[data-key="seconds"] button').click()
    page.click(".choose summary")
    page.uncheck('input[value="trace"]')
    address = page.url
    assert "kind=preference" in address
    seen = column(page, 1)
    again = visit("index.html", address=address)
    assert column(again, 1) == seen
    assert again.input_value("#q") == "o"
    assert board(again).locator('th[data-key="seconds"]').get_attribute("aria-sort") == "descending"
    assert board(again).locator('th[data-key="trace"]').is_hidden()
    again.click("#reset")
    assert "?" not in again.url
    assert board(again).locator('th[data-key="trace"]').is_visible()


def test_a_hostile_permalink_does_nothing(visit, site):
    address = (site / "index.html").as_uri() + "?q=%3Cscript%3E&sort=x-up&hide=%27){}.a&kind=nothing&task=%22"
    page = visit("index.html", address=address)
    assert page.input_value("#task") == ""
    assert page.title().startswith("Leaderboard")


def test_columns_can_be_chosen_and_the_list_closes(visit):
    page = visit("index.html")
    page.click(".choose summary")
    page.uncheck('input[value="tokens"]')
    assert board(page).locator('th[data-key="tokens"]').is_hidden()
    assert board(page).locator("tbody tr").first.locator("td").nth(11).is_hidden()
    page.keyboard.press("Escape")
    assert page.locator(".choose fieldset").is_hidden()


def test_no_page_scrolls_sideways_and_none_breaks(visit, site):
    for width in (360, 1920):
        for name in kinds_of_pages(site):
            page = visit(name, width=width)
            found = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert found[0] <= found[1], (name, width)
            assert page.title() != "broken", name
            page.context.close()


def test_dark_mode_follows_the_system(visit):
    def ground(page: Any) -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.strip("rgb()").split(",")[:3])

    light, dark = visit("index.html"), visit("index.html", dark=True)
    assert ground(light) > 600
    assert ground(dark) < 150


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(visit, site, dark):
    from axe_playwright_python.sync_playwright import Axe

    axe = Axe()
    # In the dark only colours differ.
    options = {"runOnly": {"type": "rule", "values": ["color-contrast"]}} if dark else None
    for name in kinds_of_pages(site):
        page = visit(name, dark=dark, width=1280 if dark else 360)
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        found = [
            (one["id"], one["impact"], [node["html"][:120] for node in one["nodes"]][:3])
            for one in axe.run(page, options=options).response["violations"]
        ]
        assert found == [], name
        page.context.close()


def test_without_javascript_every_number_is_there(visit, repository):
    page = visit("index.html", java_script_enabled=False)
    assert page.locator("#controls").is_hidden()
    results = [entry.result for name in COMMITTED for entry in read_entries(repository / name)]
    assert len(results) > 20
    for result in results:
        row = page.locator("tr", has=page.locator(f'a[href="runs/{result.run_id}.html"]'))
        text = row.inner_text()
        for value in (getattr(result.scores, name).value for name in type(result.scores).model_fields):
            assert f"{value:.2f}" in text, (result.method, text)


def test_on_paper_there_are_no_controls(visit):
    page = visit("index.html")
    page.emulate_media(media="print")
    assert page.locator("#controls").is_hidden()
    assert board(page).locator("tbody tr").first.is_visible()
