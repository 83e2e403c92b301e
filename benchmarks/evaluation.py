"""Time UnBench's one pass against the obvious way on TOFU, scoring and generation apart, and compare every number.

    python benchmarks/evaluation.py --data-dir FOLDER             # prints the table
    python benchmarks/evaluation.py --data-dir FOLDER --markdown  # writes it into benchmarks/README.md

The obvious way (``obvious.py``): one pass a metric (probability, truth ratio, memorisation, membership), each
forwarding its own answers again, in file order, 32 at a time, padded to the longest, with the logits of every position;
greedy answers by transformers' ``generate``, 32 at a time in file order, each batch until its last row has ended.

Without ``--model`` the model is a small Llama with SmolLM2's tokenizer (49 152 entries), trained briefly on TOFU's own
rows so that its answers end by themselves, at lengths like the real ones. It is kept in UnBench's cache.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obvious
import report
import torch

from unbench import plugins
from unbench.engines.base import Sampling
from unbench.engines.hf import HFEngine
from unbench.models.cache import build_once, cache_root
from unbench.models.load import load_model, load_tokenizer
from unbench.models.smollm2 import smollm2_folder
from unbench.responses import Answers, candidate_ids
from unbench.task import Message, Row
from unbench.templates import answer_ids

BEGIN, END = "<!-- evaluation: begin -->", "<!-- evaluation: end -->"
CLOSE = 1e-5
"""Two log-probabilities (nats) that may be told apart either way."""
BATCH = 32


@dataclass
class Line:
    """One row of the table."""

    task: str
    what: str
    obvious_s: float
    fused_s: float
    obvious_tokens: int
    fused_tokens: int
    same: str

    def cells(self) -> list[str]:
        return [
            self.task, self.what, f"{self.obvious_s:.1f}", f"{self.fused_s:.1f}",
            f"{self.obvious_s / self.fused_s:.2f} ×", f"{self.obvious_tokens / 1000:.0f} k",
            f"{self.fused_tokens / 1000:.0f} k", self.same,
        ]  # fmt: skip


HEAD = ["task", "part", "obvious, s", "UnBench, s", "faster", "tokens, obvious", "tokens, UnBench", "the same numbers"]


def main() -> None:
    arguments = _arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    folder = Path(arguments.model) if arguments.model else small_model(arguments)
    device = arguments.device
    model = load_model(folder, device, torch.float32)
    tokenizer = load_tokenizer(folder)
    lines: list[Line] = []
    notes: list[str] = []
    for name in arguments.tasks:
        lines += compare(name, model, tokenizer, arguments, notes)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    words = f"{report.machine(device)}; {parameters:.1f} M parameters, {model.config.vocab_size} tokens, float32"
    if not arguments.model:
        words += f" (Llama of {arguments.layers} layers and width {arguments.width}, {arguments.epochs} epochs of TOFU)"
    text = "\n".join([words + ".", "", *report.table([HEAD, *(line.cells() for line in lines)]), "", *notes])
    print(text)
    if arguments.markdown:
        if arguments.limit:
            sys.exit("A table of a few probes isn't kept: leave out --limit.")
        report.write(text, BEGIN, END)


def compare(name: str, model: Any, tokenizer: Any, arguments: argparse.Namespace, notes: list[str]) -> list[Line]:
    """Both ways over one task: a line for scoring and one for generation; ``notes`` are told what was answered."""
    task = plugins.open_task(f"tofu/{name}", "report", arguments.data_dir)
    probes = task.probes()
    if arguments.limit:
        seen: dict[str, int] = {}
        probes = [p for p in probes if seen.setdefault(p.kind, 0) < arguments.limit and not _count(seen, p.kind)]
    asked = candidate_ids(tokenizer, probes, None, "probability")
    prompts = [answers.prompt for answers, probe in zip(asked, probes, strict=True) if probe.generate]
    lines = []
    with HFEngine(model, tokenizer) as engine:
        requests = [request for answers in asked for request in answers.requests]
        engine.score(requests[:4])  # what is only paid once: the engine's own check, threads, buffers
        with _Counter(model) as counter:
            start = time.perf_counter()
            flat = engine.score(requests)
            fused_s = time.perf_counter() - start
        print(f"{name}: scored in {fused_s:.1f} s", file=sys.stderr)
        start = time.perf_counter()
        plain = obvious.score(model, probes, asked)
        obvious_s = time.perf_counter() - start
        print(f"{name}: the obvious way in {obvious_s:.1f} s", file=sys.stderr)
        same = _difference(asked, flat, plain)
        lines.append(Line(name, "scoring", obvious_s, fused_s, plain.tokens, counter.tokens, same))
        if arguments.parts == "score":
            return lines
        limit = task.max_new_tokens
        engine.generate(prompts[:2], Sampling(max_new_tokens=2))
        with _Counter(model) as counter:
            start = time.perf_counter()
            texts = engine.generate(prompts, Sampling(max_new_tokens=limit))
            fused_s = time.perf_counter() - start
        print(f"{name}: answered in {fused_s:.1f} s", file=sys.stderr)
        start = time.perf_counter()
        want, tokens = obvious.generate(model, prompts, limit, engine._ends())
        obvious_s = time.perf_counter() - start
        print(f"{name}: the obvious way in {obvious_s:.1f} s", file=sys.stderr)
        lengths = [len(text.tokens) for text in texts]
        cut = sum(not text.finished for text in texts)
        mean = sum(lengths) / len(lengths)
        notes.append(f"{name}: {len(texts)} answers of {mean:.0f} tokens on average, {cut} of them cut at {limit}.")
        same = _same_texts(model, prompts, [text.tokens for text in texts], want)
        lines.append(Line(name, "generation", obvious_s, fused_s, tokens, counter.tokens, same))
    return lines


def small_model(arguments: argparse.Namespace) -> Path:
    """Folder of the small Llama, trained once."""
    name = f"llama-{arguments.layers}x{arguments.width}-{arguments.epochs}"

    def build(folder: Path) -> None:
        tokenizer = load_tokenizer(smollm2_folder(_silent))
        data = plugins.open_task("tofu/forget10", "report", arguments.data_dir).data()
        model = taught(tokenizer, [*data.forget, *data.retain], arguments)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return build_once(cache_root() / "benchmarks" / name, build)


def taught(tokenizer: Any, rows: Sequence[Row], arguments: argparse.Namespace) -> Any:
    """A Llama trained on the answers, so that it ends them; nothing more is asked of it.

    It is trained with the tokens that occur and a thousand that stand for all others, which spares most of the output
    layer's work, and then given the whole vocabulary.
    """
    pairs = [answer_ids(tokenizer, [Message(role="user", content=row.question)], row.answer) for row in rows]
    draw = random.Random(0)
    occurring = sorted({token for prompt, answer in pairs for token in prompt + answer})
    spare = draw.sample(sorted(set(range(len(tokenizer))) - set(occurring)), 1000)
    place = {token: i for i, token in enumerate([*occurring, *spare])}
    torch.manual_seed(0)
    small = _llama(len(place), tokenizer, arguments)
    _train(small, [([place[t] for t in prompt], [place[t] for t in answer]) for prompt, answer in pairs],
           arguments.epochs, draw)  # fmt: skip
    whole = _llama(len(tokenizer), tokenizer, arguments)
    embedding = small.get_input_embeddings().weight.detach()
    own = torch.tensor([place.get(token, place[draw.choice(spare)]) for token in range(len(tokenizer))])
    rows_of_all = embedding[own]
    # Without a difference between them tens of thousands of logits would be exactly equal, and their rounding add up.
    unseen = torch.tensor([token not in place for token in range(len(tokenizer))])[:, None]
    rows_of_all = rows_of_all + unseen * 0.2 * embedding.std() * torch.randn(rows_of_all.shape)
    names = ["model.embed_tokens.weight", "lm_head.weight"]
    whole.load_state_dict(small.state_dict() | dict.fromkeys(names, rows_of_all))
    return whole


def _llama(vocabulary: int, tokenizer: Any, arguments: argparse.Namespace) -> Any:
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    heads = max(1, arguments.width // 64)
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=arguments.width, intermediate_size=3 * arguments.width,
        num_hidden_layers=arguments.layers, num_attention_heads=heads, num_key_value_heads=heads,
        max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=None, **special,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**special)
    return model


def _train(model: Any, pairs: list[tuple[list[int], list[int]]], epochs: int, draw: random.Random) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    steps = epochs * -(-len(pairs) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    model.train()
    for epoch in range(epochs):
        draw.shuffle(pairs)
        for start in range(0, len(pairs), BATCH):
            batch = pairs[start : start + BATCH]
            ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(p + a) for p, a in batch], batch_first=True)
            answered = torch.zeros_like(ids, dtype=torch.bool)
            for row, (prompt, answer) in enumerate(batch):
                answered[row, len(prompt) : len(prompt) + len(answer)] = True
            # Padding is on the right, where no answer sees it.
            states = model.model(input_ids=ids).last_hidden_state[:, :-1][answered[:, 1:]]
            loss = torch.nn.functional.cross_entropy(model.lm_head(states), ids[answered])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.2f}", file=sys.stderr)
    model.eval()


class _Counter:
    """Counts the tokens that go through a model, padding included."""

    def __init__(self, model: Any) -> None:
        self.tokens = 0
        self._model = model

    def __enter__(self) -> _Counter:
        def count(module: Any, args: Any, inputs: dict[str, Any]) -> None:
            self.tokens += inputs["input_ids"].numel()

        self._handle = self._model.register_forward_pre_hook(count, with_kwargs=True)
        return self

    def __exit__(self, *problem: object) -> None:
        self._handle.remove()


def _difference(asked: Sequence[Answers], flat: list[Any], plain: obvious.Scores) -> str:
    """Between any two log-probabilities (nats); between means or variances of like meaning, relative to their size; and
    how many answers differ in an argmax flag."""
    first, starts = 0, []
    for answers in asked:
        starts.append(first)
        first += len(answers.requests)

    def fused(place: obvious.Place) -> Any:
        request, at = asked[place[0]].order[place[1]]
        return flat[starts[place[0]] + request][at]

    logprobs = max(_apart(fused(place).logprob, each) for place, each in plain.logprobs)
    moments = 0.0
    for place, mean, variance in plain.moments:
        moments = max(moments, _apart(fused(place).mean, mean, 1.0), _apart(fused(place).variance, variance, 1.0))
    flags = sum(fused(place).is_argmax != best.tolist() for place, best in plain.argmax)
    words = f"log-probabilities to {logprobs:.0e}, moments to {moments:.0e} of their size"
    return words + (f", {flags} answers differ in an argmax" if flags else "")


def _apart(ours: list[float], theirs: torch.Tensor, least: float = math.inf) -> float:
    """Largest difference; relative to what it is a difference of where that is larger than ``least``."""
    want = theirs.double()
    size = want.abs().clamp_min(least) if math.isfinite(least) else torch.ones_like(want)
    return float(((torch.tensor(ours, dtype=torch.float64) - want).abs() / size).max())


def _same_texts(model: Any, prompts: Sequence[list[int]], ours: list[list[int]], theirs: list[list[int]]) -> str:
    """How many texts are equal, and how many part only where the two best tokens are equally likely."""
    ties = other = 0
    for prompt, a, b in zip(prompts, ours, theirs, strict=True):
        if a == b:
            continue
        at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + a[:at]], device=model.device)).logits[0, -1]
        best = logits.double().log_softmax(dim=-1).topk(2).values
        if best[0] - best[1] <= CLOSE:
            ties += 1
        else:
            other += 1
    parts = [f"{len(ours) - ties - other} of {len(ours)} texts"]
    parts += [f"{ties} part at a tie"] * bool(ties) + [f"{other} differ"] * bool(other)
    return ", ".join(parts)


def _count(seen: dict[str, int], kind: str) -> bool:
    seen[kind] += 1
    return False


def _silent(description: str, done: int, total: int) -> None:
    """No progress shown."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of TOFU's files; without it they come from the hub")
    parser.add_argument("--model", help="folder of a causal LM; without it a small Llama is trained")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=4, help="of TOFU's 4000 rows, for the small Llama")
    parser.add_argument("--tasks", nargs="+", default=["forget01", "forget10"])
    parser.add_argument("--parts", choices=["both", "score"], default="both")
    parser.add_argument("--limit", type=int, help="probes a family, for a quick look")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch; all cores unless given")
    parser.add_argument("--markdown", action="store_true", help="write the table into benchmarks/README.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
