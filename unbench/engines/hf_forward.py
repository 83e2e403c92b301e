"""One forward pass in two halves: hidden states of all tokens, then logits of the few positions that are read.

A table of tokens × vocabulary is thus never made: the output layer runs on the wanted positions only, a slice at a
time. Both halves, and the tree mask that lets the answers of one prompt share it, are checked against the model's own
plain forward pass before they are used; a model for which one of them doesn't hold is run the plain way.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unbench.engines.hf_cache import is_plain
from unbench.training.memory import is_out_of_memory

SLICE_BYTES = {"cpu": 32 << 20, "cuda": 128 << 20}
"""Size of a logits slice in float32, by the kind of device: a GPU reads the whole output layer once a slice, so a small
one would leave it waiting for memory. A few tensors of its size live at once; each stays well below 256 MB."""


class Forward:
    """A causal LM as the engine uses it. ``trees`` and ``split`` say which of the two short cuts hold for it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.parameter = next(model.parameters())
        self.device: torch.device = self.parameter.device
        config = model.config.get_text_config()
        self.vocabulary: int = config.vocab_size
        self.split = model.get_output_embeddings() is not None
        self.trees = False
        self.longest_tree = _window(config)
        """Longest sequence inside a tree, in tokens; None without a limit. A tree mask replaces the model's own, so
        it may not reach beyond a sliding window."""
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
        self.note = self._check()
        """What the check turned off, in words; empty where everything holds."""

    def states(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any = None, keep: bool = False) -> Any:
        """Hidden states before the output layer (batch, length, width), and the key-value cache where ``keep``.

        ``ids``, ``positions`` (batch, length); ``mask`` (batch, past + length) bool, or (batch, 1, length, length)
        additive. Where the halves can't be parted the "states" are the logits, in the model's dtype.
        """
        caught: list[Tensor] = []

        def catch(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            caught.append(inputs[0])
            # No rows left: the model's own output layer then costs nothing.
            return (inputs[0][:, :0], *inputs[1:])

        handle = self.model.get_output_embeddings().register_forward_pre_hook(catch) if self.split else None
        try:
            out = self.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=keep
            )
        finally:
            if handle is not None:
                handle.remove()
        return (caught[0] if self.split else out.logits), (out.past_key_values if keep else None)

    def logits(self, states: Tensor) -> Tensor:
        """(rows, width) → (rows, vocabulary) float32. The caller keeps rows within ``slice_rows``."""
        if not self.split:
            return states.float()
        values: Tensor = self.model.get_output_embeddings()(states)
        if self._scale != 1:
            values = values * self._scale
        if self._softcap is not None:
            values = torch.tanh(values / self._softcap) * self._softcap
        return values.float()

    @property
    def slice_rows(self) -> int:
        """Positions whose logits are made at once."""
        return max(1, SLICE_BYTES.get(self.device.type, SLICE_BYTES["cuda"]) // (4 * self.vocabulary))

    @cached_property
    def plain_cache(self) -> bool:
        """Whether the model's key-value cache is the ordinary one in every layer (found out with one token)."""
        one = torch.zeros((1, 1), dtype=torch.long, device=self.device)
        _, cache = self.states(one, torch.ones_like(one, dtype=torch.bool), one, keep=True)
        return is_plain(cache)

    @property
    def cache_bytes(self) -> int:
        """Key-value cache of one token, in bytes (an upper bound where layers differ)."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_attention_heads", 1) or 1
        kept = getattr(config, "num_key_value_heads", None) or heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        layers = int(config.num_hidden_layers)
        return 2 * layers * int(kept) * int(width) * int(self.parameter.element_size())

    def tree_mask(self, parents: list[list[int]], length: int) -> Tensor:
        """Additive mask (batch, 1, length, length) in the model's dtype: a token sees its ancestors and itself."""
        seen = np.zeros((len(parents), length, length), dtype=bool)
        everyone = np.arange(length)
        seen[:, everyone, everyone] = True  # padding too: a row that sees nothing would turn to NaN
        lower = np.tril(np.ones((length, length), dtype=bool))
        for one, above in zip(seen, parents, strict=True):
            for start, end in _runs(above):
                if above[start] >= 0:
                    one[start:end] |= one[above[start]]
                one[start:end, start:end] = lower[: end - start, : end - start]
        dtype = self.parameter.dtype if self.parameter.dtype.is_floating_point else torch.float32
        visible = torch.from_numpy(seen).to(self.device)[:, None]
        mask = torch.full(visible.shape, torch.finfo(dtype).min, dtype=dtype, device=self.device)
        return mask.masked_fill_(visible, 0.0)

    def _check(self) -> str:
        """Turn off what doesn't reproduce the plain forward pass on six tokens."""
        a, b, c, d, e = (i % self.vocabulary for i in (3, 5, 7, 11, 13))
        plain = torch.tensor([[a, b, c, d], [a, b, e, a]], device=self.device)
        ones = torch.ones_like(plain, dtype=torch.bool)
        order = torch.arange(4, device=self.device).expand(2, 4)
        want = self.model(input_ids=plain, attention_mask=ones, use_cache=False).logits.float()
        if self.split and not self._agrees(lambda: self._logits_of(plain, ones, order), want):
            self.split = False
        tree = torch.tensor([[a, b, c, d, e, a]], device=self.device)
        depth = torch.tensor([[0, 1, 2, 3, 2, 3]], device=self.device)

        def branches() -> Tensor:
            got = self._logits_of(tree, self.tree_mask([[-1, 0, 1, 2, 1, 4]], 6), depth)[0]
            return got[torch.tensor([[0, 1, 2, 3], [0, 1, 4, 5]], device=self.device)]

        self.trees = self._agrees(branches, want)
        off = [] if self.split else ["the output layer can't be run apart, so logits of whole sequences are made"]
        if not self.trees:
            off.append("answers of one prompt can't share it in one pass, so prompts are repeated")
        return "; ".join(off)

    def _logits_of(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        states, _ = self.states(ids, mask, positions)
        return self.logits(states.reshape(-1, states.shape[-1])).reshape(*ids.shape, -1)

    def _agrees(self, attempt: Any, want: Tensor) -> bool:
        try:
            got: Tensor = attempt()
        except Exception as error:
            # Whatever a model makes of a mask it doesn't know: it is then run the plain way.
            if is_out_of_memory(error):
                raise
            return False
        # A lower precision rounds differently in a different shape; a wrong mask is off by far more.
        tolerance = 1e-4 if self.parameter.dtype == torch.float32 else 5e-2
        return got.shape == want.shape and bool((got - want).abs().max() <= tolerance * want.abs().max())


def _runs(parents: list[int]) -> list[tuple[int, int]]:
    """The tree's unbranched stretches, (start, end): every token but the first follows the one before it."""
    starts = [i for i, parent in enumerate(parents) if parent != i - 1 or i == 0]
    return list(zip(starts, [*starts[1:], len(parents)], strict=True))


def _window(config: Any) -> int | None:
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "attention_window")]
    found = [window for window in windows if isinstance(window, int) and window > 0]
    return min(found) if found else None
