"""Quantisation against a straight loop over groups, rows and weights."""

from __future__ import annotations

import pytest
import torch

from unbench.attacks.quantize import quantize_model, rounded


def straight(weight: torch.Tensor, bits: int, group: int) -> list[list[float]]:
    most = 2 ** (bits - 1) - 1
    out = []
    for row in weight.tolist():
        made: list[float] = []
        for first in range(0, len(row), group):
            piece = row[first : first + group]
            scale = max(abs(w) for w in piece) / most
            for w in piece:
                level = 0 if scale == 0 else max(-most - 1, min(most, round(w / scale)))
                made.append(level * scale)
        out.append(made)
    return out


@pytest.mark.parametrize(("bits", "group"), [(8, 128), (4, 128), (4, 32), (2, 7), (3, 1000)])
def test_equals_a_loop(bits: int, group: int) -> None:
    weight = torch.randn(5, 300, generator=torch.Generator().manual_seed(0))
    weight[2, :140] = 0.0
    torch.testing.assert_close(rounded(weight, bits, group), torch.tensor(straight(weight, bits, group)),
                               atol=1e-6, rtol=0)  # fmt: skip


def test_by_hand() -> None:
    """Two bits: levels -2, -1, 0, 1 times the largest weight."""
    weight = torch.tensor([[1.0, 0.6, 0.4, -0.4, -0.6, -1.0]])
    assert rounded(weight, 2, 6).tolist() == [[1.0, 1.0, 0.0, 0.0, -1.0, -1.0]]


@pytest.mark.parametrize("bits", [8, 4])
def test_levels_and_error(bits: int) -> None:
    """At most 2^bits values a group, none further off than half a step."""
    weight = torch.randn(4, 128, generator=torch.Generator().manual_seed(1))
    made = rounded(weight, bits, 128)
    for row, was in zip(made, weight, strict=True):
        assert row.unique().numel() <= 2**bits
        assert float((row - was).abs().max()) <= float(was.abs().max()) / (2 ** (bits - 1) - 1) / 2 + 1e-6


def test_embeddings_and_output_layer_stay() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                                         num_attention_heads=2, tie_word_embeddings=False))  # fmt: skip
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantize_model(model, 3, 16)
    changed = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert changed == {name for name in before if "proj" in name}
