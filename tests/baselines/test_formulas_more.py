"""The further baselines: value and gradient against straight-line code, a value by hand, no gradient on padding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from straight import Make, answer_log_p, by_hand, check_value_and_gradient, log_p, straight_token
from unbench_baselines.ceu import CEU
from unbench_baselines.jensun import JensUn
from unbench_baselines.kl_min import KLMin
from unbench_baselines.palu import PALU
from unbench_baselines.prompt_guard import PromptGuard
from unbench_baselines.satimp import SatImp
from unbench_baselines.simnpo import SimNPO
from unbench_baselines.undial import UNDIAL
from unbench_baselines.wga import WGA

from unbench.errors import UsageError
from unbench.method import LossMethod
from unbench.training import loss as loss_maths
from unbench.training.batch import AnswerBatch, EncodedRow

LN2, LN3 = math.log(2), math.log(3)


def mean(values: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(values).sum() / len(values)


def straight_simnpo(model: Any, target: Any, rows: list[EncodedRow], method: Any) -> torch.Tensor:
    beta, delta, values = method.config.beta, method.config.delta, []
    for row in rows:
        tokens = answer_log_p(model, row)
        nll = -sum(tokens[1:], tokens[0]) / len(tokens)
        values.append(-2 / beta * torch.log(1 / (1 + torch.exp(-beta * (nll - delta)))))
    return mean(values)


def straight_undial(model: Any, target: Any, rows: list[EncodedRow], method: Any) -> torch.Tensor:
    values = []
    for row in rows:
        for p, p0, token in zip(log_p(model, row), log_p(target, row).detach(), row.answer, strict=True):
            q = torch.exp(p0)
            q[token] = q[token] * math.exp(-method.config.beta)
            values.append(-(q / q.sum() * p).sum())
    return mean(values)


def straight_weighted(model: Any, target: Any, rows: list[EncodedRow], method: Any) -> torch.Tensor:
    config, values = method.config, []
    for row in rows:
        for value in answer_log_p(model, row):
            p = math.exp(float(value.detach()))
            weight = p**config.beta if isinstance(method, WGA) else p**config.beta1 * (1 - p) ** config.beta2
            values.append(weight * value)
    return mean(values)


def straight_ceu(model: Any, target: Any, rows: list[EncodedRow], method: Any) -> torch.Tensor:
    values = []
    for row in rows:
        lines = list(zip(log_p(model, row), row.answer, strict=True))
        for p, token in lines[method.config.skip :] or lines[-1:]:
            others = [v for v in range(len(p)) if v != token]
            q = torch.exp(p.detach()[others])
            values.append(-(q / q.sum() * p[others]).sum())
    return mean(values)


def jsd(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Of two rows of probabilities, term by term as it is written; q may hold zeros."""
    m = (p + q) / 2
    some = q > 0
    return ((p * torch.log(p / m)).sum() + (q[some] * torch.log(q[some] / m[some])).sum()) / 2


def straight_jensun(model: Any, target: Any, rows: list[EncodedRow], method: Any) -> torch.Tensor:
    values = []
    for row in rows:
        for t, p in enumerate(log_p(model, row)):
            one = torch.zeros_like(p)
            one[method.refusal_ids[t % len(method.refusal_ids)]] = 1
            values.append(jsd(torch.exp(p), one))
    return mean(values)


def straight_jsd(model: Any, target: Any, rows: list[EncodedRow], method: Any) -> torch.Tensor:
    pairs = [pair for row in rows for pair in zip(log_p(model, row), log_p(target, row).detach(), strict=True)]
    return mean([jsd(torch.exp(p), torch.exp(p0)) for p, p0 in pairs])


def straight_palu(model: Any, target: Any, rows: list[EncodedRow], method: Any) -> torch.Tensor:
    config, total, count = method.config, torch.zeros((), dtype=torch.float64), 0
    for row in rows:
        heads, rest = 0, []
        for t, (p, p0) in enumerate(zip(log_p(model, row), log_p(target, row).detach(), strict=True)):
            if config.first is not None and t >= config.first:
                rest.append((torch.exp(p0) * (p0 - p)).sum())
                continue
            top = sorted(range(len(p)), key=lambda v, p0=p0: -float(p0[v]))[: config.top]
            total = total + mean([(p[j] - p.mean()) ** 2 for j in top])
            heads += 1
        if rest:
            total = total + config.alpha / config.gamma * heads * mean(rest)
        count += heads
    return total / count


CASES: list[tuple[type[LossMethod], Callable[..., Any], dict[str, Any]]] = [
    (KLMin, straight_token(1), {"gamma": 0.5}),
    (SimNPO, straight_simnpo, {}),
    (SimNPO, straight_simnpo, {"beta": 0.7, "delta": 1.5, "retain_loss": "kl"}),
    (UNDIAL, straight_undial, {}),
    (UNDIAL, straight_undial, {"beta": 2.0, "alpha": 1.0}),
    (WGA, straight_weighted, {}),
    (WGA, straight_weighted, {"beta": 0.5, "retain_loss": "kl"}),
    (SatImp, straight_weighted, {}),
    (SatImp, straight_weighted, {"beta1": 0.5, "beta2": 0.3, "gamma": 2.0}),
    (CEU, straight_ceu, {}),
    (CEU, straight_ceu, {"skip": 1000, "alpha": 1.0}),
    (JensUn, straight_jensun, {}),
    (JensUn, straight_jensun, {"refusal": "lives in nowhere at all", "retain_loss": "nll"}),
    (PALU, straight_palu, {"top": 7}),
    (PALU, straight_palu, {"first": 3, "gamma": 0.5, "alpha": 2.0, "retain_loss": "nll"}),
]


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize(("method", "straight", "settings"), CASES)
def test_value_and_gradient(
    method: type[LossMethod], straight: Any, settings: dict[str, Any], kind: str, make_context: Make
) -> None:
    own = straight_jsd if method is JensUn and "retain_loss" not in settings else None
    check_value_and_gradient(method, straight, settings, kind, make_context, own)


def ready(method: type[LossMethod], **settings: Any) -> LossMethod:
    made = method(method.Config(**settings))
    if isinstance(made, JensUn):
        made.refusal_ids = [0, 1]
    return made


READY = [(KLMin, {}), (SimNPO, {}), (UNDIAL, {}), (WGA, {}), (SatImp, {}), (CEU, {}), (JensUn, {}), (PALU, {"top": 3}),
         (PALU, {"first": 2})]  # fmt: skip


def gradient(method: LossMethod, term: str) -> tuple[float, torch.Tensor, AnswerBatch, int]:
    """A term and its gradient by the logits of whole rows, prompts and padding included: answers of 1, 6 and 4 tokens
    behind prompts of 3, 9 and 5."""
    rows = [EncodedRow(tuple(range(p)), tuple(v % 11 for v in range(p, p + a))) for p, a in ((3, 1), (9, 6), (5, 4))]
    generator = torch.Generator().manual_seed(4)
    logits = (3 * torch.randn(3, 15, 11, generator=generator, dtype=torch.float64)).requires_grad_()
    target = 3 * torch.randn(3, 15, 11, generator=generator, dtype=torch.float64)
    batch = AnswerBatch(rows, lambda b: logits[:, 8:14], lambda b: target[:, 8:14])
    loss = method.forget_loss(batch) if term == "forget" else method.retain_loss(batch)
    (grad,) = torch.autograd.grad(loss.sum, logits)
    return float(loss.sum.detach()), grad, batch, loss.count


@pytest.mark.parametrize("term", ["forget", "retain"])
@pytest.mark.parametrize(("method", "settings"), READY)
def test_no_gradient_on_prompt_and_padding(method: type[LossMethod], settings: dict[str, Any], term: str) -> None:
    made = ready(method, **settings)
    _, grad, batch, count = gradient(made, term)
    read = torch.zeros(3, 15, dtype=torch.bool)
    read[:, 8:14] = batch.answer_mask
    assert not grad[~read].any()
    assert bool(grad[read].any(-1).all()) or isinstance(made, CEU)
    assert count == (made.forget_count([1, 6, 4]) if term == "forget" else 11)


@pytest.mark.parametrize("term", ["forget", "retain"])
@pytest.mark.parametrize(("method", "settings"), READY)
def test_chunks_change_nothing(
    method: type[LossMethod], settings: dict[str, Any], term: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, whole_grad, _, _ = gradient(ready(method, **settings), term)
    real, calls = loss_maths.chunked, []

    def small(function: Any, logits: torch.Tensor, *others: torch.Tensor, chunk_elements: int = 0) -> torch.Tensor:
        calls.append(function)
        return real(function, logits, *others, chunk_elements=4 * 11)

    monkeypatch.setattr(loss_maths, "chunked", small)
    value, grad, _, _ = gradient(ready(method, **settings), term)
    assert calls
    assert value == pytest.approx(whole, abs=1e-12)
    assert torch.allclose(grad, whole_grad, rtol=0, atol=1e-12)


def test_kl_min_by_hand() -> None:
    """Forget: −5 ln 2, as gradient ascent. Retain: KL((½, ½) ‖ (¾, ¼)) = ½ ln (4/3)."""
    assert by_hand(KLMin()) == (pytest.approx(-5 * LN2), 3)
    batch = one_token([0.0, -LN3], [0.0, 0.0])
    assert float(KLMin().retain_loss(batch).sum) == pytest.approx(math.log(4 / 3) / 2)
    with pytest.raises(ValidationError):
        KLMin.Config(retain_loss="nll")


def one_token(logits: list[float], target: list[float], token: int = 0) -> AnswerBatch:
    z, z0 = (torch.tensor([[line]], dtype=torch.float64) for line in (logits, target))
    return AnswerBatch([EncodedRow((0,), (token,))], lambda b: z, lambda b: z0)


def test_simnpo_by_hand() -> None:
    """β = 1. NLL a token: 1.5 ln 2 and 2 ln 2; −2 ln σ(x) = 2 ln (1 + e^−x)."""
    assert by_hand(ready(SimNPO, beta=1.0)) == (pytest.approx(2 * math.log(1 + 2**-1.5) + 2 * math.log(5 / 4)), 2)
    shifted = by_hand(ready(SimNPO, beta=1.0, delta=LN2))
    assert shifted == (pytest.approx(2 * math.log(1 + 2**-0.5) + 2 * math.log(3 / 2)), 2)


def test_undial_by_hand() -> None:
    """Uniform target, β = ln 3: q = ¼ at the true token, ¾ at the other. CE: ln 2, then twice ½ ln 2 + ¾ ln (4/3)."""
    found = by_hand(ready(UNDIAL, beta=LN3), target_logits=torch.zeros(2, 2, 2, dtype=torch.float64))
    assert found == (pytest.approx(2 * LN2 + 1.5 * math.log(4 / 3)), 3)


def test_wga_by_hand() -> None:
    """½ ln ½ + 2 · ¼ ln ¼ = −1.5 ln 2; β = 2: ¼ ln ½ + 2 · (1/16) ln ¼ = −½ ln 2; β = 0: gradient ascent."""
    assert by_hand(ready(WGA)) == (pytest.approx(-1.5 * LN2), 3)
    assert by_hand(ready(WGA, beta=2.0)) == (pytest.approx(-0.5 * LN2), 3)
    assert by_hand(ready(WGA, beta=0.0)) == (pytest.approx(-5 * LN2), 3)


def test_satimp_by_hand() -> None:
    """β₁ = β₂ = 1: ¼ ln ½ + 2 · (3/16) ln ¼ = −ln 2."""
    assert by_hand(ready(SatImp, beta1=1.0)) == (pytest.approx(-LN2), 3)


def test_satimp_at_certainty() -> None:
    """In float32 p can come out above 1; a power of 1 − p below 0 would be no number."""
    for gap in (0.0, 5.0, 20.0, 200.0):
        z = torch.tensor([[[gap, 0.0, 0.1]]], dtype=torch.float32, requires_grad=True)
        loss = ready(SatImp, beta2=0.5).forget_loss(AnswerBatch([EncodedRow((0,), (0,))], lambda b, z=z: z))
        (grad,) = torch.autograd.grad(loss.sum, z)
        assert bool(torch.isfinite(loss.sum))
        assert bool(torch.isfinite(grad).all())


def test_ceu_by_hand() -> None:
    """Two tokens in the vocabulary: the other one takes all, −ln (1 − p). Answer 1 loses its first token; answer 2,
    of one token, keeps it."""
    assert by_hand(ready(CEU)) == (pytest.approx(2 * math.log(4 / 3)), 2)
    assert by_hand(ready(CEU, skip=0)) == (pytest.approx(LN2 + 2 * math.log(4 / 3)), 3)
    assert ready(CEU).forget_count([1, 2, 5]) == 1 + 1 + 4
    # p = (½, ⅓, ⅙), true token 0: q = (0, ⅔, ⅓); ⅔ ln 3 + ⅓ ln 6.
    batch = one_token([LN3, LN2, 0.0], [0.0, 0.0, 0.0])
    assert float(ready(CEU).forget_loss(batch).sum) == pytest.approx(LN3 + LN2 / 3)


def test_jensun_by_hand() -> None:
    """Refusal 0 1: p = ½ and ¼ in answer 1, ¾ (token 0 again) in answer 2; each JSD((p, 1 − p), (1, 0)) written out."""
    half = (math.log(4 / 3) + 0.5 * math.log(2 / 3) + 0.5 * LN2) / 2
    quarter = (math.log(8 / 5) + 0.25 * math.log(2 / 5) + 0.75 * LN2) / 2
    three = (math.log(8 / 7) + 0.75 * math.log(6 / 7) + 0.25 * LN2) / 2
    assert by_hand(ready(JensUn)) == (pytest.approx(half + quarter + three), 3)
    # Retain: JSD((¾, ¼), (¼, ¾)), m = (½, ½): ¾ ln (3/2) + ¼ ln (1/2) = ¾ ln 3 − ln 2.
    batch = one_token([LN3, 0.0], [0.0, LN3])
    assert float(ready(JensUn).retain_loss(batch).sum) == pytest.approx(0.75 * LN3 - LN2)


def test_jensun_stays_below_ln_2() -> None:
    """At p → 0 it ends at ln 2 with a finite gradient, in float32 too; at p = 1 it is 0."""
    for gap, expected in ((-200.0, LN2), (200.0, 0.0)):
        z = torch.tensor([[[gap, 0.0]]], dtype=torch.float32, requires_grad=True)
        loss = ready(JensUn).forget_loss(AnswerBatch([EncodedRow((0,), (1,))], lambda b, z=z: z))
        (grad,) = torch.autograd.grad(loss.sum, z)
        assert float(loss.sum.detach()) == pytest.approx(expected, abs=1e-6)
        assert bool(torch.isfinite(grad).all())


def test_jensun_takes_the_tokens_that_an_answer_starts_with(make_context: Make) -> None:
    context = make_context()
    tokenizer: Any = context.target.tokenizer
    method = JensUn()
    method.prepare(context, None)
    assert tokenizer.decode(method.refusal_ids) == "No idea"
    assert tokenizer.eos_token_id not in method.refusal_ids


def test_palu_by_hand() -> None:
    """K = 2: logits (0, −ln 3) lie ½ ln 3 from their mean, (0, 0) none. N = 1: answer 1 gives 0 and KL ½ ln (4/3)."""
    zeros = torch.zeros(2, 2, 2, dtype=torch.float64)
    assert by_hand(ready(PALU), target_logits=zeros) == (pytest.approx(2 * LN3**2 / 4), 3)
    cut = by_hand(ready(PALU, first=1, alpha=3.0), target_logits=zeros)
    assert cut == (pytest.approx(LN3**2 / 4 + 3 * math.log(4 / 3) / 2), 2)
    # K = 1 of three logits (3, 0, 0), mean 1: the target's likeliest counts, not the model's.
    for likeliest, expected in ((0, 4.0), (1, 1.0)):
        batch = one_token([3.0, 0.0, 0.0], [float(v == likeliest) for v in range(3)])
        assert float(ready(PALU, top=1).forget_loss(batch).sum) == pytest.approx(expected)


def test_prompt_guard_names_each_subject_once(make_context: Make) -> None:
    context = make_context()
    unlearned = PromptGuard().unlearn(context)
    assert unlearned.weights is None
    assert unlearned.system_prompt is not None
    for subject in context.forget["subject"]:
        assert unlearned.system_prompt.count(f" {subject};") + unlearned.system_prompt.count(f" {subject}.") == 1
    assert not set(context.retain["subject"]) & set(unlearned.system_prompt.replace(";", ".").split("."))
    assert context.usage.tokens_trained == 0
    assert not context.usage.notes


def test_prompt_guard_settings(make_context: Make) -> None:
    context = make_context()
    config = PromptGuard.Config(text="Not {forget}!", names="question", max_tokens=25)
    prompt = PromptGuard(config).unlearn(context).system_prompt
    assert prompt is not None
    questions = list(context.forget["question"])
    left = context.usage.notes["prompt_guard_left_out"]
    assert prompt == f"Not {'; '.join(questions[: len(questions) - left])}!"
    assert 0 < left < len(questions)
    assert len(context.target.tokenizer.encode(prompt)) <= 25
    with pytest.raises(UsageError, match="no room"):
        PromptGuard(PromptGuard.Config(max_tokens=3)).unlearn(context)
    with pytest.raises(ValidationError, match="forget"):
        PromptGuard.Config(text="Say nothing.")
