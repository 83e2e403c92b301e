"""Plugins as strangers write them: single files, and packages that are only their metadata and a module."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

GOOD = """
from pydantic import Field
from unbench.method import LossConfig, LossMethod, Loss, MethodCard

BIBTEX = "@misc{good, title={Good}}"


class Good(LossMethod):
    card = MethodCard(name="good", title="A good one", kind="gradient", bibtex=BIBTEX,
                      paper="arXiv:0000.00001", year=2030)
    api = 1
    tuned = {"nano": {"lr": 5e-4}}

    class Config(LossConfig):
        margin: float = Field(8.0, gt=0, description="nats")

    def forget_loss(self, batch):
        return Loss.per_token((self.config.margin + batch.token_logprobs()).clamp(min=0), batch.answer_mask)
"""

NOTHING = """
from unbench.method import Method, MethodCard, Unlearned


class Nothing(Method):
    card = MethodCard(name="{name}", title="{name}", kind="control", bibtex="")
    trains = False

    def unlearn(self, context):
        {body}
"""


def nothing(name: str, body: str = "return Unlearned()") -> str:
    """A method that trains nothing and does ``body``."""
    return NOTHING.format(name=name, body=body.replace("\n", "\n        "))


def install(site: Path, distribution: str, name: str, target: str, group: str = "unbench.methods") -> None:
    """What an installer leaves of a package's metadata."""
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")


def unbench(
    *words: str, site: Path | None = None, cwd: Path | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """The command line, with the packages in ``site`` installed."""
    env = {**os.environ, **more} | ({"PYTHONPATH": str(site)} if site else {})
    return subprocess.run(
        [sys.executable, "-m", "unbench", *words], capture_output=True, text=True, cwd=cwd, env=env, check=False
    )


class Venv:
    """A fresh environment that sees this one's packages (torch and UnBench are not installed again) and no network."""

    def __init__(self, folder: Path) -> None:
        # Without pip: with it comes an old setuptools, which would hide the one here.
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.bin = folder / "bin"
        (site,) = folder.glob("lib/python*/site-packages")
        # addsitedir, not a plain path: it follows the links of editable installs too.
        links = [f"import site; site.addsitedir({path!r})" for path in sys.path if path.endswith("site-packages")]
        (site / "around.pth").write_text("\n".join(links) + "\n")
        for name, module in (("unbench", "unbench.cli"), ("pip", "pip._internal.cli.main")):
            code = f"#!{self.bin / 'python'}\nimport sys\nfrom {module} import main\nsys.exit(main())\n"
            (self.bin / name).write_text(code)
            (self.bin / name).chmod(0o755)

    def run(self, command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """A line or block of shell, stopped at its first failure."""
        env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        # pip finds setuptools here and the dependencies in place, and asks no index.
        env |= {"PATH": f"{self.bin}{os.pathsep}{env['PATH']}", "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1",
                "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}  # fmt: skip
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], capture_output=True, text=True, cwd=cwd, env=env, check=False
        )
