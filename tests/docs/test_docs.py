"""The documentation site: it builds without a warning, no link is broken, nothing is loaded from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest
from documented import BLOCK, PAGES, ROOT

from unbench.cli import cli
from unbench.metrics.catalogue import CATALOGUE
from unbench.results.schema import Scores, Worst

LOADS = {
    "audio": "src", "embed": "src", "iframe": "src", "img": "src", "input": "src", "object": "data", "script": "src",
    "source": "src", "track": "src", "video": "src", "image": "href", "use": "href",
}  # fmt: skip
"""Elements that load what they name. Of ``link`` every kind does but a name of another page."""
ONLY_NAMES = {"index", "search", "next", "prev", "author", "copyright", "canonical", "top", "up"}
URL = re.compile(r"""url\(\s*['"]?([^'")]+)|@import\s+['"]([^'"]+)""")


@dataclass
class Page(HTMLParser):
    """What a page links to, loads, and can be linked at."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.tags.append(tag)
        self.ids.update(found[key] for key in ("id", "name") if key in found)
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "link" and set(found.get("rel", "").split()) - ONLY_NAMES:
            self.loaded.append(found.get("href", ""))
        if tag in LOADS and LOADS[tag] in found:
            self.loaded.append(found[LOADS[tag]])
        self.loaded += [part.split()[0] for part in found.get("srcset", "").split(",") if part.strip()]
        self.loaded += urls(found.get("style", ""))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def urls(css: str) -> list[str]:
    return [a or b for a, b in URL.findall(css)]


@cache
def page(path: Path) -> Page:
    found = Page()
    found.feed(path.read_text(encoding="utf-8"))
    return found


def is_elsewhere(link: str) -> bool:
    return bool(urlsplit(link).scheme) or link.startswith("//")


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def test_every_page_is_built(site: Path) -> None:
    sources = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert sources <= {path.stem for path in pages(site)}
    assert {"index", "getting-started", "concepts", "metrics", "cli", "python", "gpu-and-ray"} <= sources


def test_no_link_of_the_site_is_broken(site: Path) -> None:
    broken = []
    for path in pages(site):
        for link in page(path).links:
            if is_elsewhere(link):
                parts = urlsplit(link)
                if parts.scheme not in ("http", "https", "mailto") or not (parts.netloc or parts.path):
                    broken.append(f"{path.name}: {link}")
                continue
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file() or not target.is_relative_to(site.resolve()):
                broken.append(f"{path.name}: {link}")
            elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in page(target).ids:
                broken.append(f"{path.name}: {link} (no such anchor)")
    assert not broken


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """It works from a file, without a network."""
    missing, elsewhere = [], []
    for path in [*pages(site), *site.rglob("*.css")]:
        text = path.read_text(encoding="utf-8")
        named = urls(text) if path.suffix == ".css" else [*page(path).loaded, *urls(text)]
        for name in named:
            if name.startswith(("data:", "#")):
                continue
            if is_elsewhere(name):
                elsewhere.append(f"{path.name}: {name}")
            elif not (path.parent / unquote(urlsplit(name).path)).is_file():
                missing.append(f"{path.name}: {name}")
    assert not elsewhere
    assert not missing


def test_both_colour_schemes_are_there(site: Path) -> None:
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert "prefers-color-scheme:dark" in styles.replace(" ", "")


def test_formulas_are_written_when_the_site_is_built(site: Path) -> None:
    found = page(site / "metrics.html")
    assert found.tags.count("math") >= 30
    assert not re.search(r"\\[a-zA-Z]+|\$", re.sub(r"\\b", "", "".join(found.text)))
    assert not any("mathjax" in name.lower() for path in pages(site) for name in page(path).loaded)


def test_every_metric_has_its_formula_page() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    families = ("forget", "retain", "real_authors", "world_facts")
    named = set(re.findall(r"`([a-z_<>]+)`", text)) | set(re.findall(r"^\*\*([a-z]+)\*\*:", text, re.M))
    named |= {name.replace("<family>", family) for name in named for family in families}
    wanted = {*Scores.model_fields, *CATALOGUE, *(name for name in Worst.model_fields if name.endswith("_worst"))}
    assert not wanted - named


def every_command(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from every_command(below, f"{path} {name}")


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    found = page(site / "cli.html")
    missing = []
    for path, command in every_command(cli, "unbench"):
        anchor = path.replace(" ", "-")
        names = [name for option in command.params if isinstance(option, click.Option) and not option.hidden
                 for name in (*option.opts, *option.secondary_opts) if name.startswith("--")]  # fmt: skip
        wanted = [anchor, *(anchor + name for name in [*names, "--help"])]
        missing += [name for name in wanted if name not in found.ids]
    assert not missing


@pytest.mark.parametrize(
    "name",
    ["run", "evaluate", "load_target", "Result", "UnlearningCallback", "method.Method", "method.LossMethod",
     "method.UnlearnContext", "task.Task", "task.Probe", "attack.Attack", "attack.AttackContext"],
)  # fmt: skip
def test_the_public_api_is_in_the_reference(site: Path, name: str) -> None:
    assert f"unbench.{name}" in page(site / "python.html").ids


def test_fields_of_models_have_their_descriptions(site: Path) -> None:
    text = " ".join(" ".join(page(site / "python.html").text).split())
    assert "words the answer starts with, up to where the candidates differ" in text
    assert "Lower end of the 95 % interval (jackknife-t)" in text


def slug(heading: str) -> str:
    """An anchor as code hosts and MyST make it of a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", plain))


def anchors(path: Path) -> set[str]:
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.M)} | set(
        re.findall(r"^\(([\w-]+)\)=$", text, re.M)
    )


@pytest.mark.parametrize("source", PAGES, ids=lambda path: path.name)
def test_no_link_of_the_sources_is_broken(source: Path) -> None:
    """As a reader meets them in the folder or on a code host."""
    text = re.sub(r"`[^`\n]*`", "", BLOCK.sub("", source.read_text(encoding="utf-8")))
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if is_elsewhere(link):
            continue
        parts = urlsplit(link)
        target = source.parent / unquote(parts.path) if parts.path else source
        if not target.exists() or (parts.fragment and target.suffix == ".md" and parts.fragment not in anchors(target)):
            broken.append(link)
    assert not broken
