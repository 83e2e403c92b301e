"""The two ways in: ``train_loss_method`` (a method that is a loss) and ``fine_tune`` (a method that trains on rows)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from unbench.errors import RunFailed
from unbench.method import LossMethod, UnlearnContext, Unlearned
from unbench.training import draw
from unbench.training.augment import with_paraphrases
from unbench.training.batch import EncodedRow, TrainRow, encode
from unbench.training.loss import nll
from unbench.training.trainer import Optimisation, Term, UnlearnTrainer, step_tokens, target_logprobs, training
from unbench.training.weights import FrozenTarget, prepare_model, save_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainerCallback

log = logging.getLogger(__name__)


def train_loss_method(method: LossMethod, context: UnlearnContext) -> Unlearned:
    """Load the target, train it on the method's loss, save it under ``context.folder / "model"``."""
    model, tokenizer = prepare_model(context)
    train_loss(method, context, model, tokenizer)
    return Unlearned(weights=save_model(model, tokenizer, context.folder / "model"))


def train_loss(
    method: LossMethod, context: UnlearnContext, model: Any, tokenizer: PreTrainedTokenizerBase, seed: int | None = None
) -> None:
    """Train ``model`` in place on γ · forget + α · retain (``seed``: the context's unless given)."""
    seed = context.seed if seed is None else seed
    terms = loss_terms(method, context, model, tokenizer, seed)
    _train(model, tokenizer, terms, _optimisation(method.config), context, seed, "unlearn", method)


def loss_terms(
    method: LossMethod, context: UnlearnContext, model: Any, tokenizer: PreTrainedTokenizerBase, seed: int
) -> list[Term]:
    """The terms of a method's loss with the rows of every step. A step takes ``batch_size`` forget rows (at most all
    of them) and as many retain rows; a term of weight 0 is left out and costs no tokens."""
    config = method.config
    method.prepare(context, model)
    per_step = min(config.batch_size, len(context.forget))
    frozen = FrozenTarget(context, model)
    terms = []
    if config.gamma > 0:
        rows, steps = _forget_rows(method, context, model, tokenizer, seed)
        per_step = len(steps[0])
        terms.append(Term("forget", config.gamma, rows, steps, method.forget_loss, method.forget_count, frozen,
                          frozen.hidden, method.forget_radius()))  # fmt: skip
    if config.alpha > 0:
        context.usage.questions.update(context.retain["question"])
        rows = encode(tokenizer, [TrainRow.ask(r["question"], r["answer"]) for r in context.retain])
        steps = draw.draw(len(rows), per_step, config.steps, seed, draw.RETAIN)
        terms.append(Term("retain", config.alpha, rows, steps, method.retain_loss, sum, frozen, frozen.hidden))
    return terms


def _forget_rows(
    method: LossMethod, context: UnlearnContext, model: Any, tokenizer: PreTrainedTokenizerBase, seed: int
) -> tuple[list[EncodedRow], list[tuple[int, ...]]]:
    """The forget rows with all that the method needs of them, and which of them each step takes."""
    config = method.config
    forget = [dict(row) for row in context.forget]
    if config.augment == "paraphrases":
        forget = with_paraphrases(forget, config.paraphrases, context)
    answers = method.forget_answers(forget, seed)
    preferred = method.preferred_answers(forget, seed)
    kept = [i for i in range(len(forget)) if preferred is None or preferred[i]]
    if not kept:
        raise RunFailed(
            "There is no forget row with an answer to prefer.", "Try another seed, another model or a larger budget."
        )

    def read(texts: Sequence[tuple[int, str]]) -> list[EncodedRow]:
        rows = encode(tokenizer, [TrainRow.ask(forget[i]["question"], text) for i, text in texts])
        return target_logprobs(model, tokenizer, rows, context) if "target_logprobs" in method.needs else rows

    context.usage.questions.update(forget[i]["question"] for i in kept)
    for i in kept:
        others = [answers[i]] if answers[i] != forget[i]["answer"] else []
        context.usage.teach(str(forget[i]["fact"]), *others, *(preferred[i] if preferred is not None else ()))
    rows = read([(i, answers[i]) for i in kept])
    steps = draw.draw(len(rows), min(config.batch_size, len(rows)), config.steps, seed, draw.FORGET)
    if preferred is None:
        return rows, steps
    return _pairs(rows, [read([(i, text) for text in preferred[i]]) for i in kept], steps, seed)


def _pairs(
    rows: Sequence[EncodedRow], preferred: Sequence[Sequence[EncodedRow]], steps: Sequence[tuple[int, ...]], seed: int
) -> tuple[list[EncodedRow], list[tuple[int, ...]]]:
    """Each row once for every answer preferred to it, and the steps in these numbers: the rows that ``steps`` names,
    each time with one of its preferred answers, drawn by the seed."""
    pairs: list[EncodedRow] = []
    first: list[int] = []
    for row, others in zip(rows, preferred, strict=True):
        first.append(len(pairs))
        pairs += [replace(row, preferred=other) for other in others]
    generator = np.random.default_rng([seed, draw.PREFERRED])
    return pairs, [tuple(first[i] + int(generator.integers(len(preferred[i]))) for i in step) for step in steps]


def step_trainer(
    method: LossMethod, context: UnlearnContext, model: Any, tokenizer: PreTrainedTokenizerBase
) -> UnlearnTrainer:
    """The trainer of a method, not started: ``accumulate`` gives the gradients of single steps (contract test)."""
    terms = loss_terms(method, context, model, tokenizer, context.seed)
    return UnlearnTrainer(model, tokenizer, terms, method.config.steps, _optimisation(method.config), context,
                          seed=context.seed, description="unlearn", method=method)  # fmt: skip


def fine_tune(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[TrainRow],
    *,
    beside: Sequence[TrainRow] = (),
    steps: int,
    lr: float,
    batch_size: int,
    seed: int,
    context: UnlearnContext,
    warmup: float = 0.1,
    weight_decay: float = 0.01,
    max_grad_norm: float = 1.0,
    decay: bool = True,
    description: str = "unlearn",
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Train ``model`` in place by plain NLL: L = nll(rows) + nll(beside), each per answer token.

    A step takes ``batch_size`` of ``rows`` (at most all of them) and as many of ``beside``, drawn by the seed. Call it
    round after round on the same model; each call starts a fresh optimiser and schedule. Usage, budget, progress,
    memory and NaN handling are the context's, as for every method. ``decay`` False holds the rate after its warm-up;
    ``callbacks`` are transformers' own.
    """
    if not rows:
        raise ValueError("fine_tune needs at least one row")
    per_step = min(batch_size, len(rows))
    context.usage.questions.update(row.messages[-1].content for row in (*rows, *beside))
    terms = []
    for name, side, stream in (("forget", rows, draw.FORGET), ("retain", beside, draw.RETAIN)):
        if side:
            picked = draw.draw(len(side), per_step, steps, seed, stream)
            terms.append(Term(name, 1.0, encode(tokenizer, side), picked, nll, sum))
    optimisation = Optimisation(lr, warmup, weight_decay, max_grad_norm, decay)
    _train(model, tokenizer, terms, optimisation, context, seed, description, callbacks=callbacks)


def _optimisation(config: Any) -> Optimisation:
    return Optimisation(config.lr, config.warmup, config.weight_decay, config.max_grad_norm)


def _train(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    terms: Sequence[Term],
    optimisation: Optimisation,
    context: UnlearnContext,
    seed: int,
    description: str,
    method: LossMethod | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    if not terms:
        return
    steps = _affordable(terms, context)
    if steps == 0:
        return
    with context.while_training(), training(model, context):
        trainer = UnlearnTrainer(
            model, tokenizer, terms, steps, optimisation, context, seed=seed, description=description, method=method
        )
        for callback in callbacks:
            trainer.add_callback(callback)
        trainer.train()


def _affordable(terms: Sequence[Term], context: UnlearnContext) -> int:
    """Whole steps that the token budget pays for. Cut before training, so that the learning rate still decays to its
    end; what is cut is said in the usage's notes."""
    planned = len(terms[0].steps)
    if context.budget_tokens is None:
        return planned
    left = context.budget_tokens - context.usage.tokens_trained - context.usage.tokens_generated
    for step in range(planned):
        left -= step_tokens(terms, step)
        if left < 0:
            log.warning("The budget of %d tokens pays for %d of %d steps.", context.budget_tokens, step, planned)
            context.usage.notes["budget_cut"] = {"steps": step, "planned": planned}
            return step
    return planned
