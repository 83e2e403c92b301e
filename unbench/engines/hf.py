"""The ``hf`` engine: generation and scoring on a transformers model, on a GPU or a CPU.

Everything is batched by length; memory decides the batch's size, and running out of it costs a retry with half of it.
The results do not depend on how the work was cut into batches, but for rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from unbench.engines.base import Closing, EngineStats, Generation, Sampling, ScoreRequest, TokenScores, end_ids
from unbench.engines.hf_forward import Forward
from unbench.engines.hf_generate import Decoder
from unbench.engines.hf_memory import Backoff
from unbench.engines.hf_score import TABLE_BYTES, score
from unbench.engines.hf_weights import Weights
from unbench.errors import UsageError
from unbench.method import Unlearned

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_TOKENS = {"cpu": 4096, "cuda": 32768}
"""Tokens of a scoring pass, padding included, by the kind of device."""
MAX_ROWS = {"cpu": 256, "cuda": 1024}
"""Prompts of a generated batch."""
CPU_CACHE_BYTES = 1 << 30
"""Key-value cache that a generated batch may take on a CPU; on a GPU it is a share of what is free."""
GPU_SHARE = 0.4


class HFEngine(Closing):
    """Serves ``model`` (transformers, or peft around it). A context manager.

    A model handed over in memory is put into evaluation mode; ``close`` restores each module's training mode, which
    parameters require gradients, and the weights where ``load`` changed them. Its configuration, its tokenizer and the
    global random state are never touched.

    ``device``: where the model is to run; None leaves it where it is. ``batch_size``: most sequences a forward pass
    may hold; None lets memory decide. ``target``: the folder that ``model`` was loaded from, which ``load`` goes back
    to; None keeps a copy of the weights when they are first replaced.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        device: str | torch.device | None = None,
        batch_size: int | None = None,
        target: Path | None = None,
    ) -> None:
        self.stats = EngineStats()
        self.progress: Callable[[str, int, int], None] | None = None
        """Told what is done of a ``generate`` or ``score`` call, in sequences."""
        self._tokenizer: Any = tokenizer
        self._batch_size = batch_size
        if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
            raise UsageError("A prompt-learning adapter can't be served.", "Use LoRA or another adapter of weights.")
        self._training = [(module, module.training) for module in model.modules()]
        self._gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        if device is not None and torch.device(device) != _device(model):
            model.to(device)  # type: ignore[arg-type]
        model.train(False)
        self._weights = Weights(model, target)
        self._forward: Forward | None = None
        self._backoff = {"score": Backoff(self._note), "generate": Backoff(self._note)}

    @classmethod
    def open(
        cls,
        target: Path | str,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        batch_size: int | None = None,
    ) -> Self:
        """An engine on a folder's model; ``dtype`` None is bfloat16 on CUDA and float32 elsewhere."""
        from unbench.models.load import load_model, load_tokenizer, pick_dtype

        folder = Path(target)
        model = load_model(folder, device, dtype or pick_dtype("auto", device))
        return cls(model, load_tokenizer(folder), batch_size=batch_size, target=folder)

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, numbers: Sequence[int] | None = None
    ) -> list[Generation]:
        """One continuation a prompt. ``text`` is what ``tokens`` decode to, special tokens left out, cut before a stop
        string (the token that completed it is left out of ``tokens``); outer blanks stay.

        Greedy texts of equal prompts are generated once. Sampled ones differ: each prompt has its own stream of random
        numbers, set by the seed and its place in ``prompts``, or its number where ``prompts`` is part of a larger call.
        """
        if not all(prompts):
            raise ValueError("a prompt needs at least one token")
        start = time.perf_counter()
        sampling = self._within(max(map(len, prompts), default=1), sampling)
        greedy = sampling.temperature <= 0
        own = range(len(prompts)) if numbers is None else numbers
        places = {tuple(prompt) if greedy else (i,): i for i, prompt in reversed(list(enumerate(prompts)))}
        done: dict[int, Generation] = {}
        with torch.no_grad():
            forward = self._ready()
            decoder = Decoder(forward, self._tokenizer, sampling, self._ends(), _most(MAX_TOKENS, forward))

            def run(batch: list[int]) -> None:
                texts, drawn = decoder.run([prompts[i] for i in batch], [own[i] for i in batch])
                done.update(zip(batch, texts, strict=True))
                self.stats.tokens_generated += drawn
                self._report("generate", len(done), len(places))

            def size(batch: Sequence[int]) -> int:
                return len(batch) * (max(len(prompts[i]) for i in batch) + sampling.max_new_tokens)

            order = sorted(places.values(), key=lambda i: (-len(prompts[i]), prompts[i], i))
            self._backoff["generate"].each(self._batches(order, size, forward, prompts), run, size)
        self.stats.generate_s += time.perf_counter() - start
        return [done[places[tuple(prompt) if greedy else (i,)]] for i, prompt in enumerate(prompts)]

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[TokenScores]]:
        """Scores of every continuation, in nats. Equal prompts and what continuations share are computed once."""
        start = time.perf_counter()
        self._within(max((len(r.prompt) + max(map(len, r.continuations), default=0) for r in requests), default=1))
        with torch.no_grad():
            forward = self._ready()
            scores, tokens = score(
                forward,
                requests,
                self._backoff["score"],
                _most(MAX_TOKENS, forward),
                self._batch_size,
                lambda done, total: self._report("score", done, total),
            )
        self.stats.tokens_scored += tokens
        self.stats.score_s += time.perf_counter() - start
        return scores

    def gradient_norms(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Norm of the loss's gradient for every continuation (see ``hf_gradnorm``); a backward pass each."""
        from unbench.engines.hf_gradnorm import gradient_norms

        with torch.no_grad():
            forward = self._ready()
        return gradient_norms(forward, requests, lambda done, total: self._report("gradnorm", done, total))

    def load(self, unlearned: Unlearned) -> None:
        """Swap the weights in place: the target's (None), an adapter's over the target, or a whole model's.

        Raises ``UsageError`` for a folder without safetensors or of another model.
        """
        # What a forward pass may do is found out anew: an adapter may change the output layer.
        self._forward = None
        self._weights.load(unlearned.weights)
        self._weights.model.eval()

    @property
    def parameters(self) -> int:
        """Of the model itself, without an adapter's."""
        return sum(parameter.numel() for parameter, _ in self._gradients)

    @property
    def dtype(self) -> torch.dtype:
        return self._gradients[0][0].dtype

    def close(self) -> None:
        """Give back the model as it came."""
        self._forward = None
        self._weights.close()
        for module, training in self._training:
            module.training = training
        for parameter, needed in self._gradients:
            parameter.requires_grad_(needed)

    def _ready(self) -> Forward:
        if self._forward is None:
            self._forward = Forward(self._weights.model)
            if self._forward.note and self._forward.note not in self.stats.notes:
                self._note(self._forward.note)
        return self._forward

    def _within(self, longest: int, sampling: Sampling | None = None) -> Sampling:
        """Keeps a call within the model's context: texts end where positions that were learned end, and a prompt that
        doesn't fit is refused (``UsageError``); where positions are rotated it is only noted."""
        sampling = sampling or Sampling(max_new_tokens=0)
        config = self._weights.base.config
        limit = getattr(config, "max_position_embeddings", None)
        if not isinstance(limit, int) or longest + sampling.max_new_tokens <= limit:
            return sampling
        if getattr(config, "rope_parameters", None) is not None:
            note = f"some texts are longer than the {limit} tokens that the model was made for"
            if longest > limit and note not in self.stats.notes:
                self._note(note)
            return sampling
        if longest > limit or (sampling.max_new_tokens and longest == limit):
            raise UsageError(
                f"A prompt with its answer takes {longest} tokens, and this model has {limit} positions.",
                "Use a model with a longer context, or shorter questions.",
            )
        return replace(sampling, max_new_tokens=limit - longest)

    def _note(self, text: str) -> None:
        self.stats.notes.append(text)

    def _report(self, what: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(what, done, total)

    def _ends(self) -> frozenset[int]:
        return end_ids(self._tokenizer, getattr(self._weights.base.generation_config, "eos_token_id", None))

    def _batches(
        self,
        order: list[int],
        size: Callable[[Sequence[int]], int],
        forward: Forward,
        prompts: Sequence[list[int]],
    ) -> Iterator[list[int]]:
        room = _free(forward.device) // max(1, forward.cache_bytes)
        rows = self._batch_size or _most(MAX_ROWS, forward)
        batch: list[int] = []
        for i in order:
            # ``order`` has the longest prompt first.
            if not batch and not forward.split:
                # The prompts' logits are then made whole.
                rows = min(rows, max(1, TABLE_BYTES // (4 * forward.vocabulary * len(prompts[i]))))
            if batch and (len(batch) >= rows or (len(batch) + 1) * size(batch[:1]) > room):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch


def _most(limits: dict[str, int], forward: Forward) -> int:
    return limits.get(forward.device.type, limits["cuda"])


def _free(device: torch.device) -> int:
    """Bytes that the key-value cache of a generated batch may take."""
    if device.type != "cuda":
        return CPU_CACHE_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    # What torch holds without using it is as good as free.
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(GPU_SHARE * (free + unused))


def _device(model: Any) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device
