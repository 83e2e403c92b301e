"""One of several processes that take the gradients of single steps together: ``python shared_steps.py WORLD MEETING``.

Writes the gradients, the values of the terms and the rows it went through to ``WORLD/…-<rank>``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from unbench.contract_world import World, context_for
from unbench.engines.base import EngineStats, Generation
from unbench.method import Loss, LossConfig, LossMethod, MethodCard, TrainSettings
from unbench.models.load import load_tokenizer
from unbench.training.loop import step_trainer
from unbench.training.weights import prepare_model
from unbench.worker import SharedEngine, join

CASES = {"token": 5, "sequence": 5, "one-row": 1}
"""Rows of a step, of each kind: odd, so that the shares differ; one, so that a process has none."""


class PerToken(LossMethod):
    card = MethodCard(name="per_token", title="", kind="gradient", bibtex="")

    def forget_loss(self, batch):  # type: ignore[no-untyped-def]
        return Loss.per_token(batch.token_logprobs(), batch.answer_mask)


class PerSequence(LossMethod):
    card = MethodCard(name="per_sequence", title="", kind="preference", bibtex="")
    normaliser = "sequence"
    needs = frozenset({"target_logprobs"})

    def forget_loss(self, batch):  # type: ignore[no-untyped-def]
        return Loss.per_sequence(torch.nn.functional.softplus(batch.logprobs() - batch.target_logprobs + 1))


def take_step(world: World, folder: Path, case: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Gradients of the second step in float64; values, counts and the rows that this process went through."""
    method_class = PerToken if case == "token" else PerSequence
    method = method_class(LossConfig(steps=3, batch_size=CASES[case], alpha=0.7))
    context, _ = context_for(world, folder, TrainSettings(), double=True)
    model, tokenizer = prepare_model(context)
    trainer = step_trainer(method, context, model, tokenizer)
    seen: dict[str, list[list[int]]] = {term.name: [] for term in trainer.terms}
    real = trainer._term_loss

    def term_loss(model: Any, term: Any, rows: Any) -> Loss:
        seen[term.name] += [[*row.prompt, *row.answer] for row in rows]
        return real(model, term, rows)

    trainer._term_loss = term_loss  # type: ignore[method-assign]
    trained: Any = trainer.accelerator.prepare_model(model)
    values = trainer.accumulate(trained, step=1, size=2)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    rows = {term.name: [[*row.prompt, *row.answer] for row in term.at(1)] for term in trainer.terms}
    return gradients, {"values": values, "seen": seen, "rows": rows}


class Counts:
    """An engine that is not asked twice."""

    def __init__(self) -> None:
        self.stats = EngineStats()

    def generate(self, prompts: Any, sampling: Any) -> list[Generation]:
        self.stats.tokens_generated += 7
        return [Generation([1], f"{prompt} {self.stats.tokens_generated}", True) for prompt in prompts]


def main() -> None:
    place, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    join("cpu", f"file://{sys.argv[2]}")
    body = json.loads((place / "rows.json").read_text())
    world = World(place / "target", place / "reference", load_tokenizer(place / "base"), body["forget"], body["retain"])
    for case in CASES:
        gradients, found = take_step(world, place / f"work-{rank}", case)
        save_file(gradients, place / f"{case}-{rank}.safetensors")
        (place / f"{case}-{rank}.json").write_text(json.dumps(found))
    engine = SharedEngine(Counts() if rank == 0 else None, None)  # type: ignore[arg-type]
    texts = engine.generate(["a", "b"], None), engine.generate(["c"], None)  # type: ignore[list-item, arg-type]
    told = [[one.text for one in written] for written in texts]
    (place / f"engine-{rank}.json").write_text(json.dumps([*told, engine.stats.tokens_generated]))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
