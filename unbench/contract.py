"""The contract every method keeps, checked on a model that trains in seconds.

The test suite runs it over all registered methods; a method's author runs it on one. ``build_world`` makes a 2-layer
Llama that knows a few made-up facts; ``check_method`` runs a method on it and returns one ``Check`` a clause.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unbench.contract_world import WIDTH, World, context_for, mean_nll
from unbench.method import LossMethod, Method, TrainSettings, UnlearnContext, Unlearned
from unbench.plugincheck import in_words

if TYPE_CHECKING:
    import torch

RISE = 0.5
"""Least rise of the forget answers' mean NLL, in nats a token."""
TOLERANCE = 1e-6
"""Largest change of a gradient by a batch split, as a share of the largest gradient."""
TARGET_ADVICE = "Train the copy that context.target.load() gives, and save into context.folder only."
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"steps": 20, "lr": 3e-3, "batch_size": 8},
    "lora": {"steps": 20, "lr": 3e-2, "batch_size": 8},
}
"""Laid over a method's defaults, where it has settings of these names; ``Method.contract`` is laid over them."""


@dataclass(frozen=True)
class Check:
    """One clause of the contract: whether it holds, what was seen, what to do if it doesn't."""

    name: str
    passed: bool
    detail: str
    advice: str = ""


@dataclass
class Outcome:
    """One run of a method on the small world."""

    unlearned: Unlearned
    context: UnlearnContext
    printed: str
    loaded: list[Any] = field(default_factory=list)


def check_method(
    method_class: type[Method], world: World, folder: Path, kind: Literal["full", "lora"] = "full"
) -> list[Check]:
    """Every clause that applies to the method, with full or LoRA training; ``folder`` is for scratch."""
    method = contract_method(method_class, kind)
    before = folder_hash(world.target_path), folder_hash(world.reference_path)
    first = _run(method, world, folder / "first", kind)
    after = folder_hash(world.target_path), folder_hash(world.reference_path)
    checks = [
        Check("the target on disk is untouched", before == after, "SHA-256 of its files, before and after",
              TARGET_ADVICE),
        Check("nothing is printed to stdout", not first.printed, repr(first.printed[:80]),
              "Use context.progress or the logging module."),
    ]  # fmt: skip
    if not method.trains:
        return [*checks, _leaves_weights(first, world)]
    second = _run(contract_method(method_class, kind), world, folder / "second", kind)
    checks += [_repeats(first, second), _moves_only_trainable(first, world, kind), _counts_usage(first)]
    if method.card.kind != "control":
        checks.append(_forgets(first, world))
    if isinstance(method, LossMethod):
        checks += [_masks_padding(method, world), _splits(method, world, folder / "splits", kind)]
    return checks


def contract_method(method_class: type[Method], kind: str) -> Method:
    """The method with the contract's settings."""
    known = method_class.Config.model_fields
    settings = {k: v for k, v in SETTINGS[kind].items() if k in known} | method_class.contract
    return method_class(method_class.Config(**settings))


def folder_hash(folder: Path) -> str:
    """SHA-256 over the names and bytes of all files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _run(method: Method, world: World, folder: Path, kind: Literal["full", "lora"]) -> Outcome:
    context, loaded = context_for(world, folder, TrainSettings(kind=kind))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        unlearned = method.unlearn(context)
    if not isinstance(unlearned, Unlearned):
        raise TypeError(f"unlearn returned {in_words(unlearned)}, not Unlearned")
    return Outcome(unlearned, context, printed.getvalue(), loaded)


def _leaves_weights(run: Outcome, world: World) -> Check:
    weights = run.unlearned.weights
    untouched = weights in (None, world.reference_path)
    return Check("a method that doesn't train leaves weights as they are", untouched, f"weights: {weights}",
                 "Set trains = True, or return Unlearned() without weights.")  # fmt: skip


def _forgets(run: Outcome, world: World) -> Check:
    before, after = (mean_nll(world, weights, world.forget) for weights in (None, run.unlearned.weights))
    return Check(f"the forget answers' NLL rises by at least {RISE} nat", after - before >= RISE,
                 f"{before:.3f} to {after:.3f} nats a token",
                 "Check the sign of the loss, or put settings for the tiny model into `contract`.")  # fmt: skip


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a saved model or adapter."""
    from safetensors.torch import load_file

    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


def _repeats(first: Outcome, second: Outcome) -> Check:
    a, b = (tensors(_weights(run)) for run in (first, second))
    different = [name for name in a if name not in b or not a[name].equal(b[name])]
    return Check("the same seed gives the same weights bit for bit", not different and a.keys() == b.keys(),
                 f"{len(a)} tensors, {len(different)} differ",
                 "Draw every random number from context.seed, and iterate over no sets.")  # fmt: skip


def _weights(run: Outcome) -> Path:
    if run.unlearned.weights is None:
        raise TypeError("a method with trains = True returned no weights")
    return run.unlearned.weights


def _moves_only_trainable(run: Outcome, world: World, kind: str) -> Check:
    name, advice = "only trainable parameters move", "Load the model with unbench.training.weights.prepare_model."
    saved, start = tensors(_weights(run)), tensors(world.target_path)
    if kind == "full":
        moved = [n for n in start if n in saved and not saved[n].equal(start[n])]
        return Check(name, bool(moved) and saved.keys() == start.keys(), f"{len(moved)} of {len(start)} moved", advice)
    stray = [n for n in saved if "lora_" not in n]
    changed = []
    for model in run.loaded:
        for n, value in model.state_dict().items():
            base = n.replace(".base_layer", "")
            if base in start and not value.equal(start[base]):
                changed.append(base)
    moved = [n for n, value in saved.items() if "lora_B" in n and bool(value.any())]
    return Check(name, bool(moved) and not stray and not changed,
                 f"{len(moved)} adapter tensors moved, {len(changed)} base tensors changed", advice)  # fmt: skip


def _counts_usage(run: Outcome) -> Check:
    usage = run.context.usage
    finite = all(value == value for entry in usage.losses for value in entry.values())
    good = usage.tokens_trained > 0 and usage.trainable_parameters > 0 and bool(usage.losses) and finite
    return Check("usage is counted", good, f"{usage.tokens_trained} tokens, {usage.trainable_parameters} parameters",
                 "Train through unbench.training (fine_tune, or LossMethod), which counts.")  # fmt: skip


def _masks_padding(method: LossMethod, world: World) -> Check:
    """Padding must not matter: no gradient on what the model gives there, and other ids or values there change no bit
    of the loss."""
    values, grads = zip(*(_on_random_outputs(method, world, pad_id, noise) for pad_id, noise in ((0, 0.0), (7, 5.0))),
                        strict=True)  # fmt: skip
    stray = max((float(grad[~mask].abs().max()) for grad, mask in grads[0]), default=0.0)
    same = values[0] == values[1] and all(a.equal(b) for (a, _), (b, _) in zip(*grads, strict=True))
    return Check("padding carries no gradient", stray == 0.0 and same, f"largest gradient on padding {stray:g}",
                 "Sum with Loss.per_token(values, batch.answer_mask), or over batch.logprobs().")  # fmt: skip


def _on_random_outputs(
    method: LossMethod, world: World, pad_id: int, noise: float
) -> tuple[float, list[tuple[torch.Tensor, torch.Tensor]]]:
    """The forget loss on ragged rows where logits and hidden states are random numbers, ``noise`` added on padding; its
    gradient by all that it read, each with the mask of the answers' tokens."""
    import torch

    from unbench.training.batch import AnswerBatch

    read: list[tuple[torch.Tensor, torch.Tensor]] = []

    def outputs(batch: AnswerBatch, width: int) -> torch.Tensor:
        mask = batch.answer_mask
        generator = torch.Generator().manual_seed(width)
        values = torch.randn(*mask.shape, width, generator=generator, dtype=torch.float64)
        return torch.where(mask[..., None], values, values + noise)

    def leaf(batch: AnswerBatch, width: int) -> torch.Tensor:
        read.append((outputs(batch, width).requires_grad_(), batch.answer_mask))
        return read[-1][0]

    batch = AnswerBatch(
        world.ragged_rows(), lambda b: leaf(b, world.vocabulary), lambda b: outputs(b, world.vocabulary).flip(-1),
        hidden_of=lambda b, layer: leaf(b, WIDTH), target_hidden_of=lambda b, layer: outputs(b, WIDTH).flip(-1),
        pad_id=pad_id,
    )  # fmt: skip
    loss = method.forget_loss(batch)
    grads = torch.autograd.grad(loss.sum, [one for one, _ in read])
    return float(loss.sum.detach()), [(grad, mask) for grad, (_, mask) in zip(grads, read, strict=True)]


def _splits(method: LossMethod, world: World, folder: Path, kind: Literal["full", "lora"]) -> Check:
    """Gradients of one step in one piece and one row at a time, in float64: the arithmetic, not the rounding."""
    from unbench.training.loop import step_trainer
    from unbench.training.weights import prepare_model, trainable

    context, _ = context_for(world, folder, TrainSettings(kind=kind), double=True)
    model, tokenizer = prepare_model(context)
    trainer = step_trainer(method, context, model, tokenizer)
    found = []
    for size in (1, 3, 1000):
        model.zero_grad()
        trainer.accumulate(model, 0, size)
        found.append({n: p.grad.clone() for n, p in trainable(model).items() if p.grad is not None})
    worst = max(float((found[0][n] - other[n]).abs().max()) for other in found[1:] for n in found[0])
    largest = max(float(g.abs().max()) for g in found[0].values())
    return Check("batch splits don't change a gradient", worst <= TOLERANCE * largest and largest > 0,
                 f"largest difference {worst:.1e} beside a largest gradient of {largest:.1e}",
                 "Return sums and counts (Loss.per_token, Loss.per_sequence), not a mean over the batch.")  # fmt: skip
