"""Weights are swapped and put back; a model in memory leaves as it came; running out of memory halves a batch."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tiny_llama import model, straight, tokenizer
from transformers import LlamaForCausalLM

from unbench.engines.base import Sampling, ScoreRequest
from unbench.engines.hf import HFEngine
from unbench.errors import EnvironmentProblem, UsageError
from unbench.method import Unlearned

REQUEST = ScoreRequest([5, 6, 7], [[8, 9, 10], [8, 11]])


def logprobs(engine: HFEngine) -> list[float]:
    return [token for score in engine.score([REQUEST])[0] for token in score.logprob]


def wanted(net: object) -> list[float]:
    return [t for c in REQUEST.continuations for t in straight(net, REQUEST.prompt, c)["logprob"]]


def adapted(seed: int, **settings: object) -> torch.nn.Module:
    """The target under a LoRA adapter that does something."""
    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **settings)
    net = get_peft_model(model(), config)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn_like(parameter)
            if "lora_" in name:
                assert parameter.requires_grad
    return net.eval()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def test_open_serves_a_folder(target: Path) -> None:
    with HFEngine.open(target) as engine:
        assert logprobs(engine) == pytest.approx(wanted(model()), abs=1e-5)
        assert engine.generate([[5, 6]], Sampling(max_new_tokens=3))[0].tokens


@pytest.mark.parametrize("in_memory", [False, True])
def test_load_and_unload(target: Path, tmp_path: Path, in_memory: bool) -> None:
    """Adapter, whole model, adapter with a trained output layer, target: in any order, each serves its own weights."""
    one, two, full = adapted(1), adapted(2, modules_to_save=["lm_head"]), model(seed=9)
    # modules_to_save: a copy of the output layer that is trained whole.
    one.save_pretrained(tmp_path / "one")
    two.save_pretrained(tmp_path / "two")
    full.save_pretrained(tmp_path / "full")
    cases = {"one": wanted(one), "two": wanted(two), "full": wanted(full), None: wanted(model())}
    assert len({tuple(values) for values in cases.values()}) == 4
    net = model()
    engine = HFEngine(net, tokenizer()) if in_memory else HFEngine.open(target)
    with engine, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for name in (None, "one", "two", "full", "two", None, "full", "one", None, "full"):
            engine.load(Unlearned(None if name is None else tmp_path / name))
            assert logprobs(engine) == pytest.approx(cases[name], abs=1e-5), name
    if in_memory:
        assert wanted(net) == cases[None]
        assert not hasattr(net, "peft_config")


def test_tied_weights_and_half_precision_on_disk(tmp_path: Path) -> None:
    net, other = model(tie_word_embeddings=True), model(seed=4, tie_word_embeddings=True)
    other.to(torch.float16).save_pretrained(tmp_path)
    with HFEngine(net, tokenizer()) as engine:
        engine.load(Unlearned(tmp_path))
        rounded = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        assert logprobs(engine) == pytest.approx(wanted(rounded), abs=1e-5)


def test_several_files(tmp_path: Path) -> None:
    other = model(seed=4)
    other.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    with HFEngine(model(), tokenizer()) as engine:
        engine.load(Unlearned(tmp_path))
        assert logprobs(engine) == pytest.approx(wanted(other), abs=1e-5)


def test_wrong_folders_are_one_sentence(target: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    model(hidden_size=64).save_pretrained(tmp_path / "wide")
    model(num_hidden_layers=1).save_pretrained(tmp_path / "flat")
    wide = get_peft_model(model(hidden_size=64), LoraConfig(r=4, target_modules=["q_proj"]))
    wide.save_pretrained(tmp_path / "lora")
    with HFEngine.open(target) as engine:
        cases = {"empty": "no weights", "wide": "another shape", "flat": "another shape", "lora": "fit the target"}
        for name, words in cases.items():
            with pytest.raises(UsageError, match=words):
                engine.load(Unlearned(tmp_path / name))
        engine.load(Unlearned(None))
        assert logprobs(engine) == pytest.approx(wanted(model()), abs=1e-5)


def test_a_model_in_memory_is_left_as_it_was() -> None:
    net, words = model(), tokenizer()
    net.train()
    net.model.layers[0].eval()
    net.lm_head.requires_grad_(False)
    modes = [module.training for module in net.modules()]
    grads = [parameter.requires_grad for parameter in net.parameters()]
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    config, generation = net.config.to_dict(), net.generation_config.to_dict()
    with HFEngine(net, words) as engine:
        assert not any(module.training for module in net.modules())
        logprobs(engine)
        engine.generate([[4, 5], [6]], Sampling(max_new_tokens=3))
    assert [module.training for module in net.modules()] == modes
    assert [parameter.requires_grad for parameter in net.parameters()] == grads
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert (net.config.to_dict(), net.generation_config.to_dict()) == (config, generation)
    assert words.padding_side == "right"
    assert not net.lm_head._forward_pre_hooks


def test_a_peft_model_in_memory() -> None:
    net = adapted(1)
    net.train()
    grads = [parameter.requires_grad for parameter in net.parameters()]
    with HFEngine(net, tokenizer()) as engine:
        got = logprobs(engine)
        assert engine.stats.notes == []
        greedy = engine.generate([[4, 5]], Sampling(max_new_tokens=4))[0].tokens
        engine.load(Unlearned(None))
        with pytest.raises(UsageError, match="peft model in memory"):
            engine.load(Unlearned(Path("anything")))
    assert net.training
    assert [parameter.requires_grad for parameter in net.parameters()] == grads
    assert got == pytest.approx(wanted(net.eval()), abs=1e-5)
    out = net.generate(input_ids=torch.tensor([[4, 5]]), do_sample=False, max_new_tokens=4, pad_token_id=0)
    assert greedy == out[0, 2 : 2 + len(greedy)].tolist()


def test_prompt_learning_is_refused() -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(UsageError, match="prompt-learning"):
        HFEngine(get_peft_model(model(), config), tokenizer())


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …"),
]


@pytest.mark.parametrize("error", ERRORS)
def test_out_of_memory_halves_the_batch(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    net = model()
    requests = [ScoreRequest([i, i + 1], [[7, 8]]) for i in range(10, 30)]
    prompts = [[i, i + 1] for i in range(10, 30)]
    with HFEngine(net, tokenizer()) as engine:
        scores, texts = engine.score(requests), engine.generate(prompts, Sampling(max_new_tokens=4))
    plain = net.forward

    def forward(**inputs: torch.Tensor) -> object:
        if len(inputs["input_ids"]) > 6:
            raise error
        return plain(**inputs)

    net.forward = forward  # type: ignore[method-assign]
    with HFEngine(net, tokenizer()) as engine, caplog.at_level(logging.WARNING):
        again = engine.score(requests)
        for a, b in zip(scores, again, strict=True):
            assert a[0].logprob == pytest.approx(b[0].logprob, abs=1e-5)
        assert engine.generate(prompts, Sampling(max_new_tokens=4)) == texts
        assert "Out of memory with 20 sequences" in engine.stats.notes[0]
    assert "halved" in caplog.text


def test_out_of_memory_with_one_sequence_gives_up() -> None:
    net = model()
    with HFEngine(net, tokenizer()) as engine:
        engine._ready()

        def forward(**inputs: torch.Tensor) -> object:
            raise MemoryError

        net.forward = forward  # type: ignore[method-assign]
        with pytest.raises(EnvironmentProblem, match="single sequence"):
            engine.score([REQUEST, ScoreRequest([1], [[2]])])
        with pytest.raises(EnvironmentProblem, match="single sequence"):
            engine.generate([[1], [2]], Sampling())


def test_another_error_is_not_swallowed() -> None:
    net = model()
    with HFEngine(net, tokenizer()) as engine:
        engine._ready()

        def forward(**inputs: torch.Tensor) -> object:
            raise RuntimeError("shapes differ")

        net.forward = forward  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="shapes differ"):
            engine.score([REQUEST])
