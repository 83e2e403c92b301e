"""These tests want vLLM, which has an environment of its own (``make test-vllm``); elsewhere they are not collected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unbench.engines.vllm_options import installed

if installed() is None:
    collect_ignore_glob = ["test_*.py"]


NOISE = {"whole": 0.05, "far whole": 0.5}
"""Of each tensor's own spread."""
SPREAD = {"adapter": 0.02, "far adapter": 0.2}
"""Of an adapter's second factors."""


def _silent(description: str, done: int, total: int) -> None: ...


@pytest.fixture(scope="session")
def model_folder() -> Callable[[str], Path]:
    from unbench.models.load import model_folder

    return lambda name: model_folder(name, None, _silent)


@pytest.fixture(scope="session")
def changed(tmp_path_factory: pytest.TempPathFactory, model_folder: Callable[[str], Path]) -> Callable[..., Path]:
    """Folder of an adapter (kind "adapter") or of a whole model (kind "whole") that answers otherwise than its base;
    "far" ones have lost part of what their base knows."""
    from peft import LoraConfig, get_peft_model

    from unbench.models.load import load_model, load_tokenizer

    made: dict[tuple[str, str, int], Path] = {}

    def make(name: str, kind: str, seed: int = 0) -> Path:
        if (name, kind, seed) in made:
            return made[name, kind, seed]
        torch.manual_seed(seed)
        base, folder = model_folder(name), tmp_path_factory.mktemp(f"{name}-{kind}")
        net = load_model(base, "cpu", torch.float32)
        with torch.no_grad():
            if kind in SPREAD:
                lora = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
                net = get_peft_model(net, lora)
                for label, parameter in net.named_parameters():
                    if "lora_B" in label:
                        parameter.normal_(std=SPREAD[kind])
            else:
                # Every tensor moves, the shared input and output layer too: one that is not reloaded shows.
                for parameter in net.parameters():
                    parameter.add_(torch.randn_like(parameter) * NOISE[kind] * parameter.std())
        net.save_pretrained(str(folder))
        load_tokenizer(base).save_pretrained(str(folder))
        made[name, kind, seed] = folder
        return folder

    return make
