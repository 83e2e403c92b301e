"""Time and memory of an optimiser step of every loss method, against plain fine-tuning on the same sequences.

    python benchmarks/training.py               # prints the tables
    python benchmarks/training.py --markdown    # writes them into benchmarks/README.md

Plain fine-tuning is the NLL of every sequence that the method's step holds: forget and retain rows, of a method on
pairs the preferred answers too; what a method goes through twice (sam) counts twice. Both are trained by the shared
Trainer, step by step in turn, on the same random Llama with nano's tokenizer; the same number of sequences goes through
a forward pass. A step is forward, backward, clipping and AdamW. Where a method reads a frozen model's full distribution
(or hidden states), the forward passes that this takes are measured beside it (the same sequences, without gradient),
and allowed on top of 1.15 × the plain step, in time and in memory.

On the CPU time is the process's own CPU time on one thread, so that what else runs on the machine hardly counts, and
memory is what the step allocates at its peak beyond what was there before (torch's profiler); on a GPU both are the
device's. A frozen copy of the weights (full training) is named apart. What a method does once (alternates, a reinforced
model and what it teaches, log-probabilities of the target) is no part of a step: the first step isn't measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")

import report
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from unbench import plugins
from unbench.method import LossMethod, TrainSettings, UnlearnContext
from unbench.models.load import Target, load_tokenizer
from unbench.models.nano import nano_folder
from unbench.training.batch import AnswerBatch, EncodedRow
from unbench.training.loop import loss_terms
from unbench.training.loss import nll
from unbench.training.memory import split
from unbench.training.trainer import Optimisation, Term, UnlearnTrainer, training
from unbench.training.weights import prepare_model

BEGIN, END = "<!-- training: begin -->", "<!-- training: end -->"
ALLOWED = 1.15
OPTIMISATION = Optimisation(lr=1e-6)
SIZES: dict[str, dict[str, int]] = {
    "nano": {"vocab_size": 0, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4},
    "10M": {"vocab_size": 32_768, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4},
}
"""Of nano's size (its own vocabulary), and one whose vocabulary is most of its work."""
FROZEN: dict[str, Sequence[str]] = {"retain": ("kl", "jsd", "hidden")}
HEAD = ["method", "sequences", "plain, s", "method, s", "ratio", "frozen forward, s", "time allowed", "memory, MB",
        "ratio", "memory allowed", "frozen copies", "within"]  # fmt: skip
MB = 1e6


@dataclass
class Measured:
    """One method's row of the table."""

    method: str
    sequences: int
    plain_s: float
    method_s: float
    frozen_s: float
    plain_bytes: int
    method_bytes: int
    frozen_bytes: int
    frozen_copies: int

    def cells(self) -> list[str]:
        allowed = ALLOWED + self.frozen_s / self.plain_s
        allowed_memory = ALLOWED + self.frozen_bytes / self.plain_bytes
        time_ratio, memory_ratio = self.method_s / self.plain_s, self.method_bytes / self.plain_bytes
        over = [f"**{what} {ratio / most:.2f} ×**" for what, ratio, most in
                (("time", time_ratio, allowed), ("memory", memory_ratio, allowed_memory)) if ratio > most]  # fmt: skip
        return [self.method, str(self.sequences), f"{self.plain_s:.3f}", f"{self.method_s:.3f}", f"{time_ratio:.2f}",
                f"{self.frozen_s:.3f}" if self.frozen_s else "–", f"{allowed:.2f}", f"{self.method_bytes / MB:.0f}",
                f"{memory_ratio:.2f}", f"{allowed_memory:.2f}", str(self.frozen_copies or "–"),
                ", ".join(over) or "yes"]  # fmt: skip


class Clock:
    """Seconds and bytes of a call."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")

    def seconds(self, call: Callable[[], object]) -> float:
        if not self.cuda:
            start = time.process_time()
            call()
            return time.process_time() - start
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    def bytes(self, call: Callable[[], object]) -> int:
        """Most memory allocated at once, beyond what was there before."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            return torch.cuda.max_memory_allocated() - before
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            call()
        held = peak = 0
        events: Any = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
        for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        return peak


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    blocks = [
        f"{report.machine(arguments.device)}; {arguments.train} training, float32, {arguments.rows} forget rows and as "
        f"many retain rows a step, {arguments.batch_size} sequences a forward pass, "
        f"median of {arguments.repeats} steps."
    ]
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            target = random_model(size, Path(folder), arguments.device)
            parameters = sum(p.numel() for p in target.load().parameters())
            measured = []
            for name in arguments.methods or loss_methods():
                measured.append(measure(name, target, Path(folder) / "work", arguments))
                print(size, *measured[-1].cells(), sep="  ", flush=True)
        rows = "\n".join(report.table([HEAD, *(one.cells() for one in measured)]))
        blocks.append(f"{size}: {parameters / 1e6:.1f} M parameters, {SIZES[size]['vocab_size'] or 'nano’s'} tokens in "
                      f"the vocabulary.\n\n{rows}")  # fmt: skip
    text = "\n\n".join(blocks)
    print(text)
    if arguments.markdown:
        report.write(text, BEGIN, END)


def loss_methods() -> list[str]:
    """The registered methods of this package that are a loss."""
    registry = plugins.methods()
    names = [plugin.name for plugin in registry.plugins if plugin.qualified.startswith("unbench:")]
    return [name for name in names if issubclass(registry.load(name), LossMethod)]


def random_model(size: str, folder: Path, device: str) -> Target:
    """A Llama of a size with random weights, in ``folder``: what weights say doesn't change what a step costs."""
    tokenizer = load_tokenizer(nano_folder("target"))
    shape = {**SIZES[size], "vocab_size": SIZES[size]["vocab_size"] or len(tokenizer)}
    set_seed(0)
    config = LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
                         max_position_embeddings=256, eos_token_id=tokenizer.eos_token_id,
                         pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Target(folder, device, torch.float32)


def measure(name: str, target: Target, folder: Path, arguments: argparse.Namespace) -> Measured:
    """A step of a method and a plain step on the same sequences, in turn."""
    method_class: Any = plugins.methods().load(name)
    given = {"steps": arguments.repeats + 2, "batch_size": arguments.rows, "lr": OPTIMISATION.lr}
    if "reinforce_epochs" in method_class.Config.model_fields:
        given["reinforce_epochs"] = 0.01
    method = method_class(method_class.Config(**given))
    without_generation(method, name)
    context = context_of(target, folder, arguments)
    model, tokenizer = prepare_model(context)
    copies = Copies(target)
    terms = loss_terms(method, context, model, tokenizer, 0)
    clock = Clock(arguments.device)
    mine = Stepper(model, tokenizer, terms, context, method)
    other_context = context_of(target, folder, arguments)
    other_model, _ = prepare_model(other_context)
    for parameter, like in zip(other_model.parameters(), model.parameters(), strict=True):
        parameter.requires_grad = like.requires_grad
    plain = Stepper(other_model, tokenizer, plain_terms(terms), other_context, None)
    with training(model, context), training(other_model, other_context), copies:
        # The first step of each pays for what is done once.
        plain.step(), mine.step()
        times: list[tuple[float, float]] = []
        for _ in range(arguments.repeats):
            times.append((clock.seconds(plain.step), clock.seconds(mine.step)))
        memory = clock.bytes(plain.step), clock.bytes(mine.step)
    frozen = frozen_rows(method, terms)
    # whp's own frozen model, beside the target.
    own = hasattr(method, "_teacher")
    reads = [clock.seconds(lambda: forward(other_model, frozen, plain.trainer)) for _ in range(arguments.repeats)]
    held = clock.bytes(lambda: forward(other_model, frozen, plain.trainer))
    sequences = sum(len(term.steps[0]) for term in plain.trainer.terms)
    plain_s, mine_s = (statistics.median(column) for column in zip(*times, strict=True))
    read_s = statistics.median(reads) if frozen else 0.0
    return Measured(name, sequences, plain_s, mine_s, read_s, *memory, held if frozen else 0, copies.made + own)


class Copies:
    """Counts the copies of the target that a method loads while it trains."""

    def __init__(self, target: Target) -> None:
        self.made = 0

    def __enter__(self) -> None:
        self._real = Target.load

        def load(target: Target) -> Any:
            self.made += 1
            return self._real(target)

        Target.load = load  # type: ignore[method-assign]

    def __exit__(self, *problem: object) -> None:
        Target.load = self._real  # type: ignore[method-assign]


class Stepper:
    """Optimiser steps one by one."""

    def __init__(
        self, model: Any, tokenizer: Any, terms: Sequence[Term], context: UnlearnContext, method: LossMethod | None
    ) -> None:
        self.model = model
        self.trainer = UnlearnTrainer(model, tokenizer, terms, len(terms[0].steps), OPTIMISATION, context,
                                      seed=0, description="step", method=method)  # fmt: skip
        self.optimizer = self.trainer.create_optimizer()
        self._number = 0

    def step(self) -> None:
        self.trainer.training_step(self.model, {"step": self._number % len(self.trainer.terms[0].steps)})
        self.optimizer.step()
        self.model.zero_grad()
        self._number += 1


def plain_terms(terms: Sequence[Term]) -> list[Term]:
    """The NLL of every sequence in the terms, the preferred ones as rows of their own."""
    found = []
    for term in terms:
        rows = [EncodedRow(row.prompt, row.answer) for row in term.rows]
        preferred = [row.preferred and EncodedRow(row.preferred.prompt, row.preferred.answer) for row in term.rows]
        first = len(rows)
        numbers: dict[int, int] = {}
        for place, row in enumerate(preferred):
            if row is not None:
                numbers[place] = first + len(numbers)
                rows.append(row)
        times = 2 if term.radius else 1
        steps = [(*step, *(numbers[i] for i in step if i in numbers)) * times for step in term.steps]
        found.append(Term(term.name, 1.0, rows, steps, nll, sum))
    return found


def frozen_rows(method: Any, terms: Sequence[Term]) -> list[EncodedRow]:
    """The rows of a step of which a method reads what a frozen model makes of them."""
    found: list[EncodedRow] = []
    for term in terms:
        on_forget = term.name == "forget" and "target_logits" in method.needs
        on_retain = term.name == "retain" and method.config.retain_loss in FROZEN["retain"]
        found += term.at(0) if on_forget or on_retain else []
    return found


def forward(model: Any, rows: Sequence[EncodedRow], trainer: UnlearnTrainer) -> None:
    """What a frozen model's distribution over these rows costs."""
    from unbench.training.weights import logits_of

    with torch.no_grad():
        for piece in split(rows, trainer.micro.size):
            _ = AnswerBatch(piece, logits_of(model), device=trainer.args.device).logits


def without_generation(method: Any, name: str) -> None:
    """Alternates come from the rows' other answers: writing them is no part of a step."""
    if name == "altpo":
        method.prepare = lambda context, model: None
        method.preferred_answers = lambda rows, seed: [[str(rows[i - 1]["answer"])] for i in range(len(rows))]


def context_of(target: Target, folder: Path, arguments: argparse.Namespace) -> UnlearnContext:
    """The rows of ``bios/fact``, as many as a step wants."""
    data = plugins.open_task("bios/fact", "select").data()
    folder.mkdir(exist_ok=True)
    forget, retain = (
        Dataset.from_list([row.model_dump(mode="json") for row in rows][: arguments.rows])
        for rows in (data.forget + data.retain, data.retain)
    )

    @contextmanager
    def no_engine() -> Iterator[Any]:
        raise NotImplementedError("no part of a step")
        yield

    return UnlearnContext(
        target=target, forget=forget, retain=retain, seed=0, train=TrainSettings(kind=arguments.train), folder=folder,
        open_engine=no_engine, progress=lambda description, done, total: None, device=arguments.device,
        batch_size=arguments.batch_size,
    )  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", help="all loss methods unless given")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--train", choices=["full", "lora"], default="full")
    parser.add_argument("--rows", type=int, default=32, help="forget rows of a step, and as many retain rows")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=32, help="sequences of a forward pass")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--markdown", action="store_true", help="write the tables into benchmarks/README.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
