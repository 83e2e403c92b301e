"""Gradient norms equal plain autograd over one sequence, and leave the model as it was."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_llama import model, tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from unbench.engines.base import ScoreRequest
from unbench.engines.hf import HFEngine
from unbench.engines.hf_forward import Forward
from unbench.errors import EnvironmentProblem
from unbench.method import Unlearned

REQUESTS = [ScoreRequest([3, 5, 7], [[11, 13, 17, 2], [11]]), ScoreRequest([9], [[4, 4, 4, 4, 4, 2]])]


def plain(net: torch.nn.Module, prompt: list[int], continuation: list[int], everything: bool = False) -> float:
    """Labels, one backward pass, the norm of all gradients laid end to end."""
    parameters = [p for p in net.parameters() if everything or p.requires_grad]
    ids = torch.tensor([prompt + continuation])
    loss = net(input_ids=ids, labels=torch.tensor([[-100] * len(prompt) + continuation])).loss
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return math.sqrt(sum(g.double().square().sum().item() for g in gradients if g is not None))


def check(net: torch.nn.Module, got: list[list[float]]) -> None:
    for request, norms in zip(REQUESTS, got, strict=True):
        want = [plain(net, request.prompt, continuation) for continuation in request.continuations]
        assert norms == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_equal_to_plain_autograd(tied: bool) -> None:
    net = model(tie_word_embeddings=tied)
    shown = []
    with HFEngine(net, tokenizer()) as engine:
        engine.progress = lambda *step: shown.append(step)
        got = engine.gradient_norms(REQUESTS)
    assert shown[-1] == ("gradnorm", 3, 3)
    check(net, got)
    assert got[0][0] != pytest.approx(got[0][1])


def test_another_architecture_and_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.2)
    net = GPT2LMHeadModel(config).eval()
    monkeypatch.setattr(Forward, "slice_rows", 2)
    with HFEngine(net, tokenizer()) as engine:
        check(net, engine.gradient_norms(REQUESTS))


def test_logits_are_made_a_slice_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    net, most = model(), []
    monkeypatch.setattr(Forward, "slice_rows", 2)
    logits = Forward.logits
    monkeypatch.setattr(Forward, "logits", lambda self, states: (most.append(len(states)), logits(self, states))[1])
    with HFEngine(net, tokenizer()) as engine:
        engine._ready()
        most.clear()
        engine.gradient_norms(REQUESTS)
    assert max(most) == 2


def test_the_model_is_as_before() -> None:
    net = model()
    frozen = net.model.embed_tokens.weight.requires_grad_(False)
    held = torch.ones_like(net.lm_head.weight)
    net.lm_head.weight.grad = held
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with HFEngine(net, tokenizer()) as engine:
        before = engine.score(REQUESTS)
        got = engine.gradient_norms(REQUESTS)
        assert net.lm_head.weight.grad is held
        assert all(p.grad is None for name, p in net.named_parameters() if name != "lm_head.weight")
        assert not frozen.requires_grad
        assert not any(p._post_accumulate_grad_hooks for p in net.parameters() if p.requires_grad)
        assert engine.score(REQUESTS) == before
    assert all(torch.equal(weights[name], tensor) for name, tensor in net.state_dict().items())
    check(net, got)  # over what requires a gradient: the embedding doesn't


def test_a_served_adapter_takes_all_parameters(tmp_path: Path) -> None:
    torch.manual_seed(1)
    wrapped = get_peft_model(model(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    wrapped.save_pretrained(tmp_path)
    net = model()
    with HFEngine(net, tokenizer()) as engine:
        bare = engine.gradient_norms(REQUESTS)
        engine.load(Unlearned(tmp_path))
        got = engine.gradient_norms(REQUESTS)
        assert not any(p.requires_grad for p in net.parameters())
    wrapped.requires_grad_(True)
    check(wrapped, got)
    assert got != bare
    assert all(p.requires_grad for p in net.parameters())


def test_out_of_memory_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    net = model()
    with HFEngine(net, tokenizer()) as engine:
        engine._ready()
        monkeypatch.setattr(torch.Tensor, "backward", _full)
        with pytest.raises(EnvironmentProblem, match="gradient of a single sequence"):
            engine.gradient_norms(REQUESTS)
    assert all(p.requires_grad for p in net.parameters())


def _full(self: torch.Tensor) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")
