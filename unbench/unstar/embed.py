"""Sentence embeddings for the cosine tests, with plain transformers."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from unbench.errors import UsageError

if TYPE_CHECKING:
    import torch

    from unbench.unstar.filter import Cosine


def load_cosine(name: str, device: str) -> Cosine:
    """Cosine of mean-pooled last hidden states under the sentence encoder ``name`` (a folder or a hub id).

    Meant for encoders trained for it: the mean-pooled states of a causal LM lie above 0.8 for unrelated sentences.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModel.from_pretrained(name).to(device).eval()
    except (OSError, ValueError) as problem:
        first = str(problem).splitlines()[0]
        raise UsageError(
            f"The sentence encoder {name!r} can't be loaded ({first}).",
            "Name a folder with its weights by `--set embedding_model=…`, or leave it out.",
        ) from None

    @lru_cache(maxsize=65536)
    def embed(text: str) -> torch.Tensor:
        batch = tokenizer([text], return_tensors="pt", truncation=True).to(device)
        with torch.inference_mode():
            states = model(**batch).last_hidden_state[0]
        mask = batch["attention_mask"][0].unsqueeze(-1).to(states.dtype)
        pooled = (states * mask).sum(0) / mask.sum().clamp_min(1)
        return torch.nn.functional.normalize(pooled.float(), dim=0)

    def cosine(a: str, b: str) -> float:
        return float(embed(a) @ embed(b))

    return cosine
