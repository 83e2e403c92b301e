"""The machinery of ``logit_lens``: the scoring engine's forward pass, read behind every block.

The engine's own plan of the work (``engines.hf_score``) is used, so prompts and beginnings are shared and logits made a
slice at a time; only where hidden states are taken from, and what turns them into logits, is replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unbench.attack import NotPossible
from unbench.engines.base import ScoreRequest, TokenScores
from unbench.engines.hf import MAX_TOKENS
from unbench.engines.hf_forward import Forward
from unbench.engines.hf_memory import Backoff
from unbench.engines.hf_score import score

NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "final_norm")
"""Names that architectures have for the norm behind their last block."""


class Lens(Forward):
    """``model`` read through the norm and output layer of ``target``, behind every block or ``most`` of them.

    Raises ``NotPossible`` for a model that can't be read so."""

    def __init__(self, model: Any, target: Any, batch_size: int | None = None, most: int | None = None) -> None:
        self._open = False
        super().__init__(model.eval())
        decoder = model.get_decoder()
        count = depth(model)
        lists = (m for m in decoder.modules() if isinstance(m, torch.nn.ModuleList))
        found = next((blocks for blocks in lists if len(blocks) == count), None)
        if found is None:
            raise NotPossible("the model's blocks can't be told apart")
        self.blocks = [found[number - 1] for number in spread(count, most or count)]
        self.layer = 0
        self._decoder = decoder
        self._out = Out(target)
        self._batch_size = batch_size
        self._kept: dict[tuple[bytes, bytes], list[Tensor]] = {}
        # From here on hidden states come from a block, and logits from the target.
        self._open = self.split = True

    @property
    def token_bytes(self) -> int:
        """Hidden states of one token behind the blocks that are read, in bytes."""
        width = int(self.model.config.get_text_config().hidden_size)
        return len(self.blocks) * width * int(self.parameter.element_size())

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[list[TokenScores]]]:
        """Scores of every continuation, one list a layer; the model itself runs once."""
        limit = MAX_TOKENS.get(self.device.type, MAX_TOKENS["cuda"])
        backoff, found = Backoff(lambda text: None), []
        for layer in range(len(self.blocks)):
            self.layer = layer
            found.append(score(self, requests, backoff, limit, self._batch_size)[0])
        self._kept.clear()
        return found

    def states(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any = None, keep: bool = False) -> Any:
        """As ``Forward.states``, behind the block ``layer``. Those of all blocks are kept for the other layers, which
        are asked for the same batches."""
        if not self._open:
            return super().states(ids, mask, positions, cache, keep)
        # A tree's tokens stand in depth-first order: with their positions they say who follows whom.
        key = (ids.cpu().numpy().tobytes(), positions.cpu().numpy().tobytes())
        if key not in self._kept:
            self._kept[key] = self._run(ids, mask, positions)
        return self._kept[key][self.layer], None

    def _run(self, ids: Tensor, mask: Tensor, positions: Tensor) -> list[Tensor]:
        caught: list[Tensor] = []

        def catch(module: Any, inputs: Any, output: Any) -> None:
            caught.append(output[0] if isinstance(output, tuple) else output)

        handles = [block.register_forward_hook(catch) for block in self.blocks]
        try:
            self._decoder(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return caught

    def logits(self, states: Tensor) -> Tensor:
        return self._out.logits(states) if self._open else super().logits(states)


def depth(model: Any) -> int:
    """Number of a model's blocks, by its configuration."""
    return int(model.config.get_text_config().num_hidden_layers)


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers 1 to ``count``, as evenly as may be, the last among them."""
    return sorted({-(-count * i // most) for i in range(1, most + 1)}) if most < count else list(range(1, count + 1))


class Out:
    """What a model does to the hidden state behind its last block."""

    def __init__(self, model: Any) -> None:
        decoder = model.get_decoder()
        self._norm = next((getattr(decoder, name) for name in NORMS if hasattr(decoder, name)), None)
        self._forward = Forward(model.eval())
        if self._norm is None or not self._forward.split:
            raise NotPossible("the target's norm and output layer can't be told apart")

    def logits(self, states: Tensor) -> Tensor:
        """(rows, width) → (rows, vocabulary) float32."""
        norm: Any = self._norm
        weight = self._forward.parameter
        return self._forward.logits(norm(states.to(weight.device, weight.dtype)))
