"""What the pages say is to be typed: fenced blocks with their markers, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md")

BLOCK = re.compile(r"(?:^<!-- (?P<marker>[^\n]*) -->\n)?^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.M | re.S)
SHELL = ("bash", "sh", "shell", "console", "")
INLINE = re.compile(r"(?<!`)`(unbench [^`]+)`(?!`)")

NEEDS = ("a GPU", "several GPUs", "a package index", "a model", "rows", "a cluster", "an environment", "the checkout")
"""A block may be left out for one of these; its marker says ``not run: …`` or ``run by tests/…: …``."""

README_NOT_RUN = {
    "make ": "makes an environment of its own",
    "pip install": "needs a package index",
    "smollm2": "fetches a model",
    "owner/name": "fetches a model",
    "tofu": "needs TOFU's rows",
    "vllm": "needs an environment with vLLM",
}
"""The README shows several such commands in one block, so its lines are told apart by what they hold."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    file: str
    """The file that the page says to save it as, if any."""
    text: str
    marker: str

    @property
    def is_shell(self) -> bool:
        return self.language in SHELL

    @property
    def marked(self) -> bool:
        return self.marker.startswith(("not run: ", "run by "))

    @property
    def place(self) -> str:
        return f"{self.page}, line {self.line}"

    def lines(self) -> Iterator[str]:
        """Command lines without their comments; two that stand side by side are two."""
        if not self.is_shell:
            return
        for line in self.text.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s{3,}(?=unbench )", line):
                if command := re.sub(r"(^|\s)#.*", "", part).strip():
                    yield command


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page but Sphinx's own directives."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        info = match["info"].strip()
        if info.startswith("{"):
            continue
        title = re.search(r'title="([^"]+)"', info)
        found.append(
            Block(
                page=page.name,
                line=text[: match.start()].count("\n") + 1,
                language=info.split()[0] if info else "",
                file=title.group(1) if title else "",
                text=match["text"],
                marker=match["marker"] or "",
            )
        )
    return found


def left_out(block: Block, line: str) -> bool:
    """Whether a command line is not run here: by its block's marker, or in the README by what it holds."""
    if block.page == "README.md":
        return any(word in line for word in README_NOT_RUN)
    return block.marked


def commands(line: str) -> list[list[str]]:
    """The words behind each ``unbench`` of a shell line: pipes, ``$(…)`` and alternatives told apart."""
    inner = re.findall(r"\$\(([^)]*)\)", line)
    outer = re.sub(r"\$\([^)]*\)", "x", line).replace("…", "x")
    found = []
    for part in [*re.split(r"[|;&]", outer), *inner]:
        words = shlex.split(part)
        starts = [i for i, word in enumerate(words) if word == "unbench" or word.endswith("/unbench")]
        if words[:1] in (["accelerate"], ["torchrun"]):  # … -m unbench run …
            starts = [words.index("-m") + 1]
        if starts:
            found.append(words[starts[0] + 1 :])
    return found


def inline_commands(page: Path) -> Iterator[str]:
    """``unbench …`` in running text."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for match in INLINE.finditer(text):
        yield " ".join(match.group(1).split())
