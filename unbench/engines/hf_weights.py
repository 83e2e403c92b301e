"""Swapping weights in a running engine: a peft adapter over the target, a whole model in its place, and back again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unbench.errors import UsageError


class Weights:
    """The weights that a model in memory has at the moment.

    ``target`` is the folder that the model was loaded from; without one (a model handed over in memory) a copy of its
    weights is kept on the CPU from the first whole model that replaces them.
    """

    def __init__(self, model: Any, target: Path | None) -> None:
        self.base = model
        self.model = model
        """What is to be called: the model itself, or a peft model around it."""
        self._target = target
        self._copy: dict[str, Tensor] | None = None
        self._replaced = False
        self._children: list[tuple[torch.nn.Module, dict[str, Any]]] = []
        """Every module's children before an adapter was put in."""

    def load(self, folder: Path | None) -> None:
        """Weights of ``folder`` (a whole model or an adapter for the target); None is the target itself."""
        if folder is None and self.model is self.base and not self._replaced:
            return
        if hasattr(self.base, "peft_config") and self.model is self.base:
            raise UsageError(
                "This engine serves a peft model in memory, so no other weights can be loaded over it.",
                "Open the target with HFEngine.open instead.",
            )
        adapter = folder is not None and (folder / "adapter_config.json").is_file()
        self._unload_adapter()
        if adapter or folder is None:
            self._restore()
        if folder is None:
            return
        if adapter:
            self._load_adapter(folder)
        else:
            self._keep_copy()
            # Set before: a load that fails half-way must be undone too.
            self._replaced = True
            copy_in_place(self.base, folder)

    def _load_adapter(self, folder: Path) -> None:
        from peft import PeftConfig, PeftModel

        config = PeftConfig.from_pretrained(str(folder))
        if getattr(config, "is_prompt_learning", False):
            raise UsageError(
                f"{folder} holds a prompt-learning adapter ({config.peft_type}), which can't be served.",
                "Use LoRA or another adapter of weights.",
            )
        if not list(folder.glob("adapter_model*.safetensors")):
            raise UsageError(f"{folder} holds no adapter_model.safetensors.", "Save the adapter as safetensors.")
        if getattr(config, "bias", "none") != "none":
            # Trained biases go into the target's own parameters.
            self._keep_copy()
            self._replaced = True
        self._children = [(module, dict(module._modules)) for module in self.base.modules()]
        try:
            self.model = PeftModel.from_pretrained(self.base, str(folder), is_trainable=False)
        except (RuntimeError, ValueError, KeyError) as problem:
            self._unload_adapter()
            first = str(problem).strip().splitlines()[0]
            raise UsageError(
                f"The adapter in {folder} doesn't fit the target: {first}", "Was it trained on this model?"
            ) from problem

    def _unload_adapter(self) -> None:
        """Every module that the adapter wrapped or replaced goes back to its place; peft's own ``unload`` would leave
        the modules that were trained whole."""
        if not self._children:
            return
        for module, children in self._children:
            module._modules.clear()
            module._modules.update(children)
        self._children = []
        # peft leaves its mark on the base model and would warn of a second adapter over the first.
        for name in ("peft_config", "_hf_peft_config_loaded"):
            vars(self.base).pop(name, None)
        self.model = self.base

    def _keep_copy(self) -> None:
        if self._target is None and self._copy is None:
            self._copy = {name: t.detach().to("cpu", copy=True) for name, t in self.base.state_dict().items()}

    def _restore(self) -> None:
        if not self._replaced:
            return
        if self._target is not None:
            copy_in_place(self.base, self._target)
        elif self._copy is not None:
            _copy(self.base.state_dict(), self._copy.items())
        self._replaced = False

    def close(self) -> None:
        """A model that was handed over in memory gets its own weights back."""
        self._unload_adapter()
        if self._target is None:
            self._restore()


def copy_in_place(model: Any, folder: Path) -> None:
    """Copy a folder's weights (safetensors) into ``model``; raises ``UsageError`` where they are another model's."""
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{folder} holds no weights (safetensors).", "Was the run that made them finished?")
    own = model.state_dict()
    stored = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dictionary
                stored[name] = file
    filled = {own[name].data_ptr() for name in stored if name in own}
    whole = set(stored) <= set(own) and all(tensor.data_ptr() in filled for tensor in own.values())
    if not whole:
        # Names that transformers renames or regroups as it loads: let it.
        _copy_loaded(model, own, folder)
        return
    for file in files:
        with safe_open(file, framework="pt") as opened:
            _copy(own, ((name, opened.get_tensor(name)) for name in opened.keys()), folder)  # noqa: SIM118


def _copy_loaded(model: Any, own: dict[str, Tensor], folder: Path) -> None:
    from unbench.models.load import load_model

    loaded = load_model(folder, "cpu", next(model.parameters()).dtype).state_dict()
    if set(loaded) != set(own):
        raise _other_model(folder)
    _copy(own, loaded.items(), folder)


def _copy(own: dict[str, Tensor], tensors: Any, folder: Path | None = None) -> None:
    with torch.no_grad():
        for name, tensor in tensors:
            if own[name].shape != tensor.shape:
                raise _other_model(folder)
            own[name].copy_(tensor)


def _other_model(folder: Path | None) -> UsageError:
    return UsageError(
        f"The weights in {folder} belong to a model of another shape than the target.",
        "Load what was made from this target.",
    )
