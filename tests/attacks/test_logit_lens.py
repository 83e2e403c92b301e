"""The lens against straight hidden states, the model's own scores at the last layer, and what it sees behind a mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from world import Tried, context, hiding, load, nothing_back, probes

from unbench.attack import NotPossible
from unbench.attacks.harness import run
from unbench.attacks.lens import Lens, Out, spread
from unbench.attacks.logit_lens import LogitLens, apart, known, pieces, read
from unbench.engines.base import ScoreRequest, TokenScores
from unbench.metrics.knowledge import per_probe
from unbench.responses import Answers, respond
from unbench.task import Message, Probe

REQUESTS = [
    ScoreRequest([3, 5, 7], [[9, 2], [9, 4, 6], [1]]),
    ScoreRequest([8], [[9], [2]]),
    ScoreRequest([3, 5, 7, 7, 7, 4], [[5, 5, 5, 5]]),
]


def llama(seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    config = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
              "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**(config | changes))).eval()


def straight(model: Any, norm: Any, head: Any, request: ScoreRequest, continuation: Sequence[int],
             layer: int) -> list[float]:  # fmt: skip
    """One sequence, one layer: the hidden state before the model's own final norm, read by hand."""
    ids = torch.tensor([[*request.prompt, *continuation]])
    with torch.no_grad():
        caught = []
        blocks = model.model.layers if hasattr(model, "model") else model.transformer.h
        handle = blocks[layer].register_forward_hook(lambda m, i, o: caught.append(o[0] if isinstance(o, tuple) else o))
        model(ids)
        handle.remove()
        logp = head(norm(caught[0])).float().log_softmax(-1)[0]
    start = len(request.prompt)
    return [float(logp[start + i - 1, token]) for i, token in enumerate(continuation)]


def check(lens: Lens, model: Any, norm: Any, head: Any, requests: Sequence[ScoreRequest]) -> None:
    with torch.no_grad():
        got = lens.score(requests)
    for layer, of_layer in enumerate(got):
        for request, scores in zip(requests, of_layer, strict=True):
            for continuation, score in zip(request.continuations, scores, strict=True):
                want = straight(model, norm, head, request, continuation, layer)
                assert score.logprob == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_equals_straight_hidden_states(batch_size: int | None) -> None:
    model, target = llama(0), llama(1)
    lens = Lens(model, target, batch_size)
    assert lens.trees
    check(lens, model, target.model.norm, target.lm_head, REQUESTS)
    lens.trees = False  # prompts repeated, in one batch and in several
    check(lens, model, target.model.norm, target.lm_head, REQUESTS)


def test_another_architecture() -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3)
    model = GPT2LMHeadModel(config).eval()
    check(Lens(model, model), model, model.transformer.ln_f, model.lm_head, REQUESTS)


def test_a_model_that_scales_or_caps_its_logits() -> None:
    """What stands between output layer and logits is the target's too."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=8,
                          num_attention_heads=4, num_key_value_heads=2, final_logit_softcapping=2.0,
                          initializer_range=0.3)  # fmt: skip
    model = Gemma2ForCausalLM(config).eval()
    with torch.no_grad():
        last = Lens(model, model).score(REQUESTS)[-1]
        for request, scores in zip(REQUESTS, last, strict=True):
            for continuation, score in zip(request.continuations, scores, strict=True):
                logits = model(torch.tensor([[*request.prompt, *continuation]])).logits[0].log_softmax(-1)
                places = range(len(request.prompt) - 1, len(request.prompt) + len(continuation) - 1)
                want = [float(logits[at, token]) for at, token in zip(places, continuation, strict=True)]
                assert score.logprob == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("kinds", [("direct", "choice"), ("multi_hop",)])
def test_the_last_layer_is_the_model_itself(kinds: tuple[str, ...], tmp_path: Path) -> None:
    """Log-probabilities to 1e-5, and κ as the harness has it."""
    from unbench.engines.hf import HFEngine
    from unbench.responses import candidate_ids

    made = context("target", probes(*kinds, facts=8), tmp_path)
    requests = [r for a in candidate_ids(made.tokenizer, made.probes) for r in a.requests]
    with HFEngine(made.model, made.tokenizer) as engine:
        want = engine.score(requests)
        frame = respond(engine, made.tokenizer, [p.model_copy(update={"generate": False}) for p in made.probes],
                        role="target", max_new_tokens=1)  # fmt: skip
    with torch.no_grad():
        got = Lens(made.model, made.model).score(requests)[-1]
    for mine, own in zip(got, want, strict=True):
        for a, b in zip(mine, own, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-5)
    layers = read(made, made.model, made.model, None)
    assert layers.shape == (4, len(made.probes))
    assert layers[-1] == pytest.approx(per_probe(frame)["known"].to_numpy(), abs=1e-5)


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = context("target", probes("direct", facts=8), tmp_path)
    whole = read(made, made.model, made.model, None)
    for size in (1, 100_000, 1_000_000):
        monkeypatch.setattr("unbench.attacks.logit_lens.STATES_BYTES", size)
        assert read(made, made.model, made.model, None) == pytest.approx(whole, abs=1e-5)


def test_pieces() -> None:
    def requests(*lengths: int) -> list[ScoreRequest]:
        return [ScoreRequest([0] * n, [[0]]) for n in lengths]

    work = [requests(3), requests(2), requests(9), requests(1, 1), requests(1)]
    assert list(pieces(work, 7)) == [(0, 2), (2, 3), (3, 5)]
    assert list(pieces(work, 0)) == [(i, i + 1) for i in range(5)]
    assert list(pieces([], 5)) == []


def test_layers_are_spread() -> None:
    assert spread(4, 16) == spread(4, 4) == [1, 2, 3, 4]
    assert spread(30, 1) == [30]
    assert spread(30, 3) == [10, 20, 30]
    for count in range(1, 40):
        for most in range(1, count + 1):
            numbers = spread(count, most)
            assert len(numbers) == most
            assert numbers[-1] == count
            assert min(numbers) >= 1


def test_some_layers_are_what_they_are_among_all(tmp_path: Path) -> None:
    made = context("target", probes("direct", facts=8), tmp_path)
    whole = read(made, made.model, made.model, None)
    some = read(made, made.model, made.model, None, 2)
    assert some == pytest.approx(whole[[1, 3]], abs=1e-5)


def probe(*candidates: str) -> Probe:
    return Probe(id="p", ring="forget", kind="direct", subject="s", cluster="s", fact="f", answer=candidates[0],
                 messages=(Message(role="user", content="Where?"),), candidates=candidates)  # fmt: skip


def test_known_by_hand() -> None:
    """Weights 1 : 3; and p(a|q), the mean over tokens."""
    order = [(0, 0), (0, 1)]

    def scores(*logprobs: list[float]) -> list[list[TokenScores]]:
        return [[TokenScores(row, [False] * len(row)) for row in logprobs]]

    two = scores([-1.0, float(np.log(0.1)) + 1], [float(np.log(0.3))])
    assert known(probe("a", "b"), order, two, "candidates") == pytest.approx((0.25 - 0.5) / 0.5)
    assert known(probe("a", "b"), order, two, "probability") == pytest.approx(0.1**0.5)
    assert known(probe("a", "b"), order[::-1], two, "candidates") == pytest.approx(0.5)
    assert known(probe("a", "b"), order, scores([-2000.0], [-2000.0]), "candidates") == 0.0


def test_shared_tokens_go_with_the_prompt() -> None:
    answers = Answers([1], [ScoreRequest([1, 2], [[3, 4, 5], [3, 4, 6, 7]])], [(0, 0), (0, 1)], [2, 2])
    assert apart(answers) == [ScoreRequest([1, 2, 3, 4], [[5], [6, 7]])]
    whole = Answers([1], [ScoreRequest([1, 2], [[3, 4]]), ScoreRequest([1], [[9]])], [(0, 0), (1, 0)], [0, 0])
    assert apart(whole) == whole.requests


def test_the_sum_weights_layers_by_what_the_target_holds(tmp_path: Path) -> None:
    """(u - r) / (t - r) of the recorded value is the weighted mean of the layers' own shares."""
    asked = (*probes("direct", facts=10), *probes("multi_hop", facts=4))
    tables = {role: run(LogitLens(LogitLens.Config(least=0.3)), context(role, asked, tmp_path))
              for role in ("target", "reference")}  # fmt: skip
    noisy = load("target")
    with torch.no_grad():
        for block in noisy.model.layers:
            block.mlp.down_proj.weight *= 0.6
    tables["unlearned"] = run(LogitLens(LogitLens.Config(least=0.3)), context("", asked, tmp_path, lambda: noisy))
    kinds = {who: t.groupby(["series", "strength", "kind"])["known"].mean() for who, t in tables.items()}
    means = {who: t.groupby(["series", "strength"]).mean() for who, t in kinds.items()}
    layers = {who: t["layer"] for who, t in means.items()}
    whole = {who: float(t["all layers"].iloc[0]) for who, t in means.items()}
    keep = layers["target"] >= 0.3
    assert 0 < keep.sum() <= 4
    assert whole["target"] == pytest.approx(1.0)
    u, t, r = (layers[who][keep] for who in ("unlearned", "target", "reference"))
    weights = (t - r) / (t - r).sum()
    share = (whole["unlearned"] - whole["reference"]) / (whole["target"] - whole["reference"])
    assert share == pytest.approx(float((weights * (u - r) / (t - r)).sum()), abs=1e-9)
    assert not tables["target"].loc[tables["target"]["series"] == "layer", "counted"].any()
    assert tables["target"].loc[tables["target"]["series"] == "all layers", "counted"].all()


def test_some_layers_are_told_by_their_number(tmp_path: Path) -> None:
    made = context("target", probes("direct", facts=6), tmp_path)
    table = run(LogitLens(LogitLens.Config(most=2)), made)
    assert list(table.loc[table["series"] == "layer", "strength"].unique()) == [2, 4]
    assert list(made.notes["target_holds"]) == ["layer 2", "layer 4"]
    assert list(table.loc[table["series"] == "all layers", "strength"].unique()) == [4]


def test_both_forms_of_a_pair_are_one(tmp_path: Path) -> None:
    asked = [p.model_copy(update={"pair": f"pair-{p.fact}"}) for p in probes("direct", "cloze", facts=6)]
    asked = [p.model_copy(update={"kind": "yes_no"}) for p in asked]
    table = run(LogitLens(), context("target", asked, tmp_path))
    one = table[table["series"] == "all layers"]
    assert sorted(one["probe"]) == sorted({str(p.pair) for p in asked})
    made = context("target", asked, tmp_path)
    made.record(1, {asked[0].id: 0.0, asked[1].id: 1.0})
    got = made.tables[-1].set_index("probe")["known"]
    assert got.mean() == pytest.approx(0.5)
    with pytest.raises(ValueError, match="nan"):
        made.record(1, {asked[0].id: float("nan")})


def test_what_cannot_be_read(tmp_path: Path) -> None:
    asked = probes("direct", facts=6)
    with pytest.raises(NotPossible, match="target's output layer"):
        run(LogitLens(), context("target", asked, tmp_path, load_target=None))
    with pytest.raises(NotPossible, match="as many layers"):
        run(LogitLens(), context("", asked, tmp_path, lambda: shorter(load("target"))))
    blocks = llama()
    blocks.config.num_hidden_layers = 7
    with pytest.raises(NotPossible, match="blocks"):
        Lens(blocks, llama())
    with pytest.raises(NotPossible, match="norm"):
        Out(Renamed(llama()))


class Renamed:
    """A model with its final norm under a name that nobody knows."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def get_decoder(self) -> Any:
        return torch.nn.Module()


def shorter(model: Any) -> Any:
    model.model.layers = model.model.layers[:3]
    model.config.num_hidden_layers = 3
    return model


@pytest.mark.parametrize("bad", [{"least": 0}, {"least": 2}, {"most": 0}, {"layers": 3}])
def test_bad_config(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LogitLens.Config.model_validate(bad)


def test_what_comes_back(tmp_path: Path) -> None:
    """All of it from a model whose output layer hides it, nothing from retrain."""
    tried = Tried(LogitLens(), probes("direct", "multi_hop"), tmp_path)
    reference = tried.table("reference")

    def masked() -> Any:
        return hiding(tried.probes)

    assert context("", tried.probes, tmp_path, masked).ask(0)["known"].mean() < 0.05
    point = tried.curve(tried.table("", masked), reference)["all layers", 4.0]
    assert (point.shown.excess.value or 0) >= 0.5
    assert point.shown.forget.value == pytest.approx(0.0, abs=1e-6)
    assert point.clear
    curve = tried.curve(tried.table("retrain"), reference)
    nothing_back({at: point for at, point in curve.items() if at[0] == "all layers"})
