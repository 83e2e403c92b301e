"""DPO towards "I don't know", AltPO, RMU, PDU, WHP: value and gradient against straight-line code, a value by hand, no
gradient on prompt and padding. SAM and task vectors: ``test_sam_and_vectors.py``.

Trap 7 of the metrics' design: RMU's broadcasting has ``test_trap_7_rmu_with_unequal_lengths``; log-probabilities of
the target read once and no second target in memory ``test_trap_7_the_target_is_read_once``; KL and UNDIAL over prompt
and padding ``test_formulas_more.py::test_no_gradient_on_prompt_and_padding``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from straight import Make, answer_log_p, by_hand, check_value_and_gradient, log_p
from unbench_baselines.dpo_idk import DPO
from unbench_baselines.idk import PHRASINGS
from unbench_baselines.pdu import PDU
from unbench_baselines.rmu import RMU
from unbench_baselines.whp import WHP, Teacher

from unbench.contract import tensors
from unbench.errors import UsageError
from unbench.method import LossMethod
from unbench.training import loop
from unbench.training.batch import AnswerBatch, EncodedRow
from unbench.training.loop import loss_terms, train_loss
from unbench.training.weights import prepare_model, trainable

LN2, LN3 = math.log(2), math.log(3)


def mean(values: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(values).sum() / len(values)


def raw_logits(model: Any, row: EncodedRow) -> list[torch.Tensor]:
    """Logits at the answer's tokens of one row alone."""
    logits = model(torch.tensor([row.prompt + row.answer])).logits[0]
    return [logits[len(row.prompt) - 1 + t] for t in range(len(row.answer))]


def layer_states(model: Any, row: EncodedRow, layer: int) -> list[torch.Tensor]:
    """What the layer's own module returns at the places that predict the answer, caught by a hook."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    caught = []

    def catch(module: Any, given: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    handle = base.model.layers[layer].register_forward_hook(catch)
    model(torch.tensor([row.prompt + row.answer]))
    handle.remove()
    return [caught[0][0, len(row.prompt) - 1 + t] for t in range(len(row.answer))]


def straight_dpo(model: Any, target: Any, rows: list[EncodedRow], method: Any) -> torch.Tensor:
    beta, values = method.config.beta, []
    for row in rows:
        assert row.preferred is not None
        won, lost = (
            sum(answer_log_p(model, one)) - sum(v.detach() for v in answer_log_p(target, one))
            for one in (row.preferred, row)
        )
        values.append(-2 / beta * torch.log(1 / (1 + torch.exp(-beta * (won - lost)))))
    return mean(values)


def straight_rmu(model: Any, target: Any, rows: list[EncodedRow], method: Any) -> torch.Tensor:
    goal = method.goal
    assert float(goal.norm()) == pytest.approx(method.config.c)
    values = [((h - goal) ** 2).sum() / len(goal) for row in rows for h in layer_states(model, row, method.layer)]
    return mean(values)


def straight_hidden(model: Any, target: Any, rows: list[EncodedRow], method: Any) -> torch.Tensor:
    values = []
    for row in rows:
        pairs = zip(layer_states(model, row, method.layer), layer_states(target, row, method.layer), strict=True)
        values += [((h - before.detach()) ** 2).sum() / len(h) for h, before in pairs]
    return mean(values)


def straight_pdu(model: Any, target: Any, rows: list[EncodedRow], method: Any) -> torch.Tensor:
    return mean([(z.max() - z.sum() / len(z)) ** 2 for row in rows for z in raw_logits(model, row)])


def straight_whp(model: Any, target: Any, rows: list[EncodedRow], method: Any) -> torch.Tensor:
    values = []
    for row in rows:
        lines = zip(
            log_p(model, row), raw_logits(target, row), raw_logits(method._teacher.reinforced, row), strict=True
        )
        for p, z0, zr in lines:
            lowered = [
                float(a) - method.config.kappa * max(0.0, float(b) - float(a))
                for a, b in zip(z0.tolist(), zr.tolist(), strict=True)
            ]
            q = [math.exp(z - max(lowered)) for z in lowered]
            values.append(-sum(a / sum(q) * b for a, b in zip(q, p, strict=True)))
    return mean(values)


CASES: list[tuple[type[LossMethod], Callable[..., Any], dict[str, Any]]] = [
    (DPO, straight_dpo, {}),
    (DPO, straight_dpo, {"beta": 0.7, "gamma": 0.5, "retain_loss": "kl"}),
    (RMU, straight_rmu, {"c": 9.0, "layer": 0}),
    (RMU, straight_rmu, {"c": 9.0, "trained": ".", "alpha": 3.0}),
    (RMU, straight_rmu, {"layer": 0, "retain_loss": "nll"}),
    (PDU, straight_pdu, {"alpha": 2.0}),
    (PDU, straight_pdu, {"retain_loss": "kl"}),
    (WHP, straight_whp, {"reinforce_lr": 1e-2}),
    (WHP, straight_whp, {"reinforce_lr": 1e-2, "kappa": 1.0, "alpha": 1.0}),
]


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize(("method", "straight", "settings"), CASES)
def test_value_and_gradient(
    method: type[LossMethod], straight: Any, settings: dict[str, Any], kind: str, make_context: Make
) -> None:
    own = straight_hidden if method is RMU and "retain_loss" not in settings else None
    check_value_and_gradient(method, straight, settings, kind, make_context, own)


class Outputs:
    """Random outputs for whole rows, prompts and padding included: answers of 1, 6 and 4 tokens behind prompts of 3, 9
    and 5, and preferred ones of 5, 2 and 3."""

    WIDTH = 11

    def __init__(self) -> None:
        self.leaves: list[tuple[torch.Tensor, torch.Tensor]] = []
        prompts = [tuple(range(n)) for n in (3, 9, 5)]
        target = torch.arange(6, dtype=torch.float64)
        self.batch = AnswerBatch(
            [
                EncodedRow(p, (1,) * a, 1.0, -target[:a], EncodedRow(p, (2,) * b, 1.0, -target[:b]))
                for p, a, b in zip(prompts, (1, 6, 4), (5, 2, 3), strict=True)
            ],
            self.read, lambda b: self.values(b, 1), hidden_of=lambda b, layer: self.read(b),
            target_hidden_of=lambda b, layer: self.values(b, 1),
        )  # fmt: skip

    def values(self, batch: AnswerBatch, seed: int) -> torch.Tensor:
        shape = (*batch.input_ids.shape, self.WIDTH)
        whole = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return whole[:, -batch.labels.shape[1] - 1 : -1]

    def read(self, batch: AnswerBatch) -> torch.Tensor:
        shape = (*batch.input_ids.shape, self.WIDTH)
        leaf = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        leaf.requires_grad_()
        read = torch.zeros(batch.input_ids.shape, dtype=torch.bool)
        read[:, -batch.labels.shape[1] - 1 : -1] = batch.answer_mask
        self.leaves.append((leaf, read))
        return leaf[:, -batch.labels.shape[1] - 1 : -1]


def ready(method: type[LossMethod], monkeypatch: pytest.MonkeyPatch | None = None, **settings: Any) -> Any:
    """A method as it is after ``prepare``, for outputs that come from no model."""
    made: Any = method(method.Config(**settings))
    if isinstance(made, RMU):
        made.layer, made.goal = 0, torch.arange(Outputs.WIDTH, dtype=torch.float64)
    if isinstance(made, WHP):
        assert monkeypatch is not None
        made._teacher = Teacher(None, made.config.kappa, 11)
        monkeypatch.setattr("unbench.training.batch.answer_logits", lambda m, b: Outputs().values(b, 2))
    return made


@pytest.mark.parametrize("term", ["forget", "retain"])
@pytest.mark.parametrize("method", [DPO, RMU, PDU, WHP])
def test_no_gradient_on_prompt_and_padding(
    method: type[LossMethod], term: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, outputs = ready(method, monkeypatch), Outputs()
    loss = made.forget_loss(outputs.batch) if term == "forget" else made.retain_loss(outputs.batch)
    grads = torch.autograd.grad(loss.sum, [leaf for leaf, _ in outputs.leaves])
    assert len(grads) == (2 if method is DPO and term == "forget" else 1)
    for grad, (_, read) in zip(grads, outputs.leaves, strict=True):
        assert not grad[~read].any()
        assert bool(grad[read].any(-1).all())
    assert loss.count == (made.forget_count([1, 6, 4]) if term == "forget" else 11)


def test_trap_7_rmu_with_unequal_lengths() -> None:
    """Answers of 1, 6 and 4 tokens: every token weighs the same, and none is divided by another row's length, as it is
    where [b] meets [b, 1] and becomes [b, b]. A loop over rows, tokens and widths says what it must be."""
    for term in ("forget", "retain"):
        made, outputs = ready(RMU), Outputs()
        loss = made.forget_loss(outputs.batch) if term == "forget" else made.retain_loss(outputs.batch)
        states, before = outputs.values(outputs.batch, 0), outputs.values(outputs.batch, 1)
        total = 0.0
        for i, row in enumerate(outputs.batch.rows):
            for t in range(len(row.answer)):
                for d in range(Outputs.WIDTH):
                    goal = float(d) if term == "forget" else float(before[i, t, d])
                    total += (float(states[i, t, d]) - goal) ** 2 / Outputs.WIDTH
        assert float(loss.sum.detach()) == pytest.approx(total, rel=1e-12)
        assert loss.sum.shape == ()
        assert loss.count == 1 + 6 + 4


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_trap_7_the_target_is_read_once(kind: str, make_context: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """DPO needs the target's log-probabilities of both sides: read before training, from the very model that is
    trained, and never again; no copy of the target is loaded."""
    context = make_context(kind)
    load, loaded, calls = context.target.load, [], []
    monkeypatch.setattr(context.target, "load", lambda: loaded.append(load()) or loaded[-1])
    real = loop.target_logprobs
    monkeypatch.setattr(loop, "target_logprobs", lambda *args: calls.append(len(args[2])) or real(*args))
    model, tokenizer = prepare_model(context)
    train_loss(DPO(DPO.Config(steps=3, batch_size=4)), context, model, tokenizer)
    rows = len(context.forget)
    assert len(loaded) == 1
    assert sum(calls) == 2 * rows


def pair_batch(own: tuple[list[float], float], other: tuple[list[float], float]) -> AnswerBatch:
    """One answer of token 0 and a preferred one of token 1; each by its logits and the target's log-probability."""
    lines = {0: own[0], 1: other[0]}
    rows = [EncodedRow((0,), (token,), 1.0, torch.tensor([value], dtype=torch.float64))
            for token, value in ((0, own[1]), (1, other[1]))]  # fmt: skip
    row = EncodedRow(rows[0].prompt, rows[0].answer, 1.0, rows[0].target, rows[1])
    return AnswerBatch([row], lambda b: torch.tensor([[lines[b.rows[0].answer[0]]]], dtype=torch.float64))


def test_dpo_by_hand() -> None:
    """Answer: π = ½, π₀ = ¼, a ratio of ln 2. Preferred: π = ¼, π₀ = ½, −ln 2. β = 1: −2 ln σ(−2 ln 2) = 2 ln 5;
    β = ½: −4 ln σ(−ln 2) = 4 ln 3; the other way round 2 ln (5/4)."""
    even, quarter = [0.0, 0.0], [0.0, -LN3]
    batch = pair_batch((even, -2 * LN2), (quarter, -LN2))
    for beta, expected in ((1.0, 2 * math.log(5)), (0.5, 4 * LN3)):
        loss = DPO(DPO.Config(beta=beta)).forget_loss(batch)
        assert (float(loss.sum), loss.count) == (pytest.approx(expected), 1)
    better = pair_batch((quarter, math.log(3 / 4) + LN2), ([0.0, LN3], math.log(3 / 4) - LN2))
    assert float(DPO(DPO.Config(beta=1.0)).forget_loss(better).sum) == pytest.approx(2 * math.log(5 / 4))


def test_dpo_rows_keep_one_refusal(make_context: Make) -> None:
    context = make_context()
    model, tokenizer = prepare_model(context)
    method = DPO(DPO.Config(steps=9, batch_size=3))
    (forget, _) = loss_terms(method, context, model, tokenizer, seed=4)
    said: dict[tuple[int, ...], set[str]] = {}
    for row in (row for step in range(9) for row in forget.at(step)):
        assert row.preferred is not None
        assert row.preferred.prompt == row.prompt
        said.setdefault(row.answer, set()).add(str(tokenizer.decode(row.preferred.answer, skip_special_tokens=True)))
    assert len(said) == len(context.forget)
    assert all(len(texts) == 1 and texts <= set(PHRASINGS) for texts in said.values())
    assert len(set.union(*said.values())) > 3
    assert method.preferred_answers(list(context.forget), 4) != method.preferred_answers(list(context.forget), 5)


def test_a_pair_counts_both_sides() -> None:
    pair = EncodedRow((1, 2), (3,), preferred=EncodedRow((1, 2), (4, 5)))
    assert pair.tokens == 3 + 4


def test_rmu_by_hand() -> None:
    """State (1, 0), goal (3, 4): ((1 − 3)² + (0 − 4)²) / 2 = 10. Held at (1, 2): (0 + 4) / 2 = 2."""
    method = RMU(RMU.Config(c=5.0))
    method.layer, method.goal = 0, torch.tensor([3.0, 4.0], dtype=torch.float64)
    state, before = (torch.tensor([[line]], dtype=torch.float64) for line in ([1.0, 0.0], [1.0, 2.0]))
    batch = AnswerBatch([EncodedRow((0,), (1,))], lambda b: state, hidden_of=lambda b, layer: state,
                        target_hidden_of=lambda b, layer: before)  # fmt: skip
    assert (float(method.forget_loss(batch).sum), method.forget_loss(batch).count) == (10.0, 1)
    assert float(method.retain_loss(batch).sum) == 2.0


def test_rmu_direction_is_drawn_once_by_the_seed(make_context: Make) -> None:
    goals = []
    for seed in (3, 3, 4):
        context = make_context(seed=seed)
        method = RMU()
        method.prepare(context, prepare_model(context)[0])
        goals.append(method.goal)
    assert torch.equal(goals[0], goals[1])
    assert not torch.equal(goals[0], goals[2])
    assert bool((goals[0] >= 0).all())
    assert float(goals[0].norm()) == pytest.approx(2.0)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_rmu_moves_only_its_layers(kind: str, make_context: Make) -> None:
    """The tiny model has layers 0 and 1; ⌊7 · 2 / 32⌋ = 0."""
    context = make_context(kind)
    start = {name: p.detach().clone() for name, p in prepare_model(context)[0].named_parameters()}
    method = RMU(RMU.Config(steps=3, lr=1e-2, batch_size=4, c=20.0))
    saved = tensors(method.unlearn(context).weights)  # type: ignore[arg-type]
    moved = {name for name in saved if not saved[name].equal(start.get(name, start.get(peft_name(name))))}
    if kind == "full":
        assert moved == {"model.layers.0.mlp.down_proj.weight"}
    else:
        assert len(moved) == 4
        assert all(".layers.0." in name for name in moved)
    assert context.usage.trainable_parameters < sum(p.numel() for p in start.values())


def peft_name(name: str) -> str:
    return name.replace(".weight", ".default.weight")


def test_rmu_says_what_it_cannot_train(make_context: Make) -> None:
    context = make_context()
    model, _ = prepare_model(context)
    with pytest.raises(UsageError, match="the model has 2"):
        RMU(RMU.Config(layer=2)).prepare(context, model)
    with pytest.raises(UsageError, match="no parameter like 'c_proj'"):
        RMU(RMU.Config(trained="c_proj")).prepare(context, model)
    assert trainable(model) == {}


def test_pdu_by_hand() -> None:
    """Logits (0, 0) are flat; (0, −ln 3) have their largest ½ ln 3 above the mean."""
    assert by_hand(PDU()) == (pytest.approx(2 * LN3**2 / 4), 3)


def test_pdu_multiplier_by_hand(make_context: Make) -> None:
    """8 rows, 4 a step, 1.5 epochs: steps 0 to 2 warm up. ε = ½, η = 2."""
    context = make_context()
    method = PDU(PDU.Config(batch_size=4, warmup_epochs=1.5, epsilon=0.5, eta=2.0, gamma=0.3))
    method.prepare(context, None)
    seen = []
    for step, retain in enumerate((9.0, 9.0, 9.0, 1.0, 0.75, 0.0, 0.0, 0.0, 2.0)):
        assert method.weights(step)[0] == 0.3
        method.observe(step, {"forget": 5.0, "retain": retain})
        seen.append(method.weights(step + 1)[1])
    assert seen == [1.0, 1.0, 1.0, 2.0, 2.5, 1.5, 0.5, 0.0, 3.0]
    again = PDU(method.config)
    again.prepare(context, None)
    assert again.weights(0)[1] == 1.0
    again.restore(json.loads(json.dumps(method.state())))
    assert again.weights(9) == method.weights(9)
    assert context.usage.notes["pdu_lambda"] == 3.0


def test_pdu_bound_is_the_targets_own_retain_loss(make_context: Make) -> None:
    context = make_context(double=True)
    model, tokenizer = prepare_model(context)
    (_, retain) = loss_terms(PDU(), context, model, tokenizer, 0)
    values = [float(value.detach()) for row in retain.rows for value in answer_log_p(model, row)]
    assert context.usage.notes["pdu_epsilon"] == pytest.approx(-sum(values) / len(values) + 0.1, abs=1e-9)
    PDU(PDU.Config(retain_loss="kl", slack=0.3)).prepare(context, model)
    assert context.usage.notes["pdu_epsilon"] == 0.3


def test_pdu_multiplier_does_not_mind_the_batch_split(make_context: Make) -> None:
    found = []
    for size in (1, 3, None):
        context = make_context(double=True, name=str(size), batch_size=size)
        method = PDU(PDU.Config(steps=6, lr=1e-2, batch_size=5, warmup_epochs=1.0, eta=3.0))
        method.unlearn(context)
        found.append(context.usage.notes["pdu_lambda"])
    assert found[0] != 1.0
    assert found == pytest.approx([found[0]] * 3, abs=1e-6)


def test_whp_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Target (0, 0), reinforced (ln 3, −1), κ = 1: q = softmax(−ln 3, 0) = (¼, ¾). Model (¾, ¼):
    ¼ ln (4/3) + ¾ ln 4. κ = 0: q = (½, ½)."""
    model, target, raised = (torch.tensor([[z]], dtype=torch.float64) for z in ([0.0, -LN3], [0.0, 0.0], [LN3, -1.0]))
    monkeypatch.setattr("unbench.training.batch.answer_logits", lambda m, b: raised)
    batch = AnswerBatch([EncodedRow((0,), (1,))], lambda b: model, lambda b: target)
    for kappa, expected in ((1.0, math.log(4 / 3) / 4 + 1.5 * LN2), (0.0, math.log(4 / 3) / 2 + LN2)):
        method: Any = WHP(WHP.Config(kappa=kappa))
        method._teacher = Teacher(None, kappa, 1)
        assert float(method.forget_loss(batch).sum) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_whp_reinforces_a_copy_and_counts_it(kind: str, make_context: Make) -> None:
    context = make_context(kind)
    model, tokenizer = prepare_model(context)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    method: Any = WHP(WHP.Config(reinforce_epochs=2.0, batch_size=4, lr=1e-2))
    method.prepare(context, model)
    (term,) = loss_terms(WHP(WHP.Config(steps=1)), make_context(kind, name="rows"), model, tokenizer, 0)
    assert context.usage.tokens_trained == 2 * sum(row.tokens for row in term.rows)
    assert all(p.equal(before[name]) for name, p in model.named_parameters())
    batch = AnswerBatch(term.rows, lambda b: b.input_ids)
    from unbench.training.batch import answer_logits

    with torch.no_grad():
        nll = [
            -float(AnswerBatch(term.rows, lambda b, m=m: answer_logits(m, b)).logprobs().sum())
            for m in (model, method._teacher.reinforced)
        ]
    assert len(batch) == len(context.forget)
    assert nll[1] < nll[0]


def test_whp_keeps_what_its_teacher_says_where_it_fits(make_context: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept or read again every step: the same loss and gradient. Kept: each row is read once, alone."""
    import unbench_baselines.whp as whp

    from unbench.training.batch import answer_logits

    context = make_context(double=True)
    model, tokenizer = prepare_model(context)
    method: Any = WHP(WHP.Config(steps=1, lr=1e-2, batch_size=5))
    (term,) = loss_terms(method, context, model, tokenizer, 0)
    reads: list[int] = []
    raised = method._teacher._raised
    monkeypatch.setattr(method._teacher, "_raised", lambda b: (reads.append(len(b)), raised(b))[1])
    found = []
    for limit in (0, whp.KEPT_BYTES, whp.KEPT_BYTES):
        monkeypatch.setattr(whp, "KEPT_BYTES", limit)
        batch = AnswerBatch(term.rows, lambda b: answer_logits(model, b), term.target_logits)
        loss = method.forget_loss(batch).sum
        found.append((loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))))
    assert reads == [len(term.rows)] + [1] * len(term.rows)
    for kept in found[1:]:
        for one, other in zip(kept, found[0], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
