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
import os
import platform
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obvious
import torch

from unbench import plugins
from unbench.engines.base import Sampling
from unbench.engines.hf import HFEngine
from unbench.models.cache import build_once, cache_root
from unbench.models.load import load_model, load_tokenizer
from unbench.models.smollm2 import smollm2_folder
from unbench.responses import Answers, candidate_ids
from unbench.task import Row

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- evaluation: begin -->", "<!-- evaluation: end -->"
CLOSE = 1e-5
"""Two log-probabilities (nats) that may be told apart either way."""


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
    for name in arguments.tasks:
        lines += compare(name, model, tokenizer, arguments)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    words = f"{_machine(device)}; {parameters:.1f} M parameters, {model.config.vocab_size} tokens, float32"
    if not arguments.model:
        words += f" (Llama of {arguments.layers} layers and width {arguments.width}, {arguments.epochs} epochs of TOFU)"
    text = "\n".join([words, "", *_table(lines)])
    print(text)
    if arguments.markdown:
        _write(text)


def compare(name: str, model: Any, tokenizer: Any, arguments: argparse.Namespace) -> list[Line]:
    """Both ways over one task: a line for scoring and one for generation."""
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
        print(f"{name}: answers of {sum(lengths) / len(lengths):.0f} tokens on average, {cut} of {len(texts)} cut at "
              f"{limit}", file=sys.stderr)  # fmt: skip
        same = _same_texts(model, prompts, [text.tokens for text in texts], want)
        lines.append(Line(name, "generation", obvious_s, fused_s, tokens, counter.tokens, same))
    return lines


def small_model(arguments: argparse.Namespace) -> Path:
    """Folder of the small Llama, trained once."""
    name = f"llama-{arguments.layers}x{arguments.width}-{arguments.epochs}"

    def build(folder: Path) -> None:
        from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

        tokenizer = load_tokenizer(smollm2_folder(_silent))
        torch.manual_seed(0)
        heads = max(1, arguments.width // 64)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=arguments.width, intermediate_size=3 * arguments.width,
            num_hidden_layers=arguments.layers, num_attention_heads=heads, num_key_value_heads=heads,
            max_position_embeddings=1024, tie_word_embeddings=True, pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        data = plugins.open_task("tofu/forget10", "report", arguments.data_dir).data()
        teach(model, tokenizer, [*data.forget, *data.retain], arguments.epochs)
        model.generation_config = GenerationConfig(
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id
        )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return build_once(cache_root() / "benchmarks" / name, build)


def teach(model: Any, tokenizer: Any, rows: Sequence[Row], epochs: int) -> None:
    """Plain fine-tuning on the answers. The softmax goes over the tokens that occur and a random sample of the others,
    which spares most of the output layer: the model is to end its answers, nothing more."""
    from unbench.task import Message
    from unbench.templates import answer_ids

    pairs = [answer_ids(tokenizer, [Message(role="user", content=row.question)], row.answer) for row in rows]
    occurring = sorted({token for _, answer in pairs for token in answer})
    others = sorted(set(range(model.config.vocab_size)) - set(occurring))
    batches_a_epoch = -(-len(pairs) // 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * batches_a_epoch)
    draw = random.Random(0)
    model.train()
    for epoch in range(epochs):
        draw.shuffle(pairs)
        for start in range(0, len(pairs), 32):
            classes = torch.tensor(occurring + draw.sample(others, 1000))
            loss = _loss(model, pairs[start : start + 32], classes)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.2f}", file=sys.stderr)
    model.eval()


def _loss(model: Any, pairs: Sequence[tuple[list[int], list[int]]], classes: torch.Tensor) -> torch.Tensor:
    length = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.zeros((len(pairs), length), dtype=torch.long)
    wanted = torch.zeros_like(ids, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(pairs):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        wanted[row, len(prompt) : len(prompt) + len(answer)] = True
    # Padding is on the right: no answer sees it.
    states = model.model(input_ids=ids).last_hidden_state[:, :-1][wanted[:, 1:]]
    place = torch.full((model.config.vocab_size,), -1)
    place[classes] = torch.arange(len(classes))
    logits = states @ model.lm_head.weight[classes].T
    return torch.nn.functional.cross_entropy(logits, place[ids[wanted]])


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


def _table(lines: Sequence[Line]) -> list[str]:
    rows = [HEAD, *(line.cells() for line in lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    out = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    out.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return out


def _machine(device: str) -> str:
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    else:
        found = [line for line in _cpuinfo() if line.startswith("model name")]
        name = found[0].partition(":")[2].strip() if found else platform.processor() or platform.machine()
        name += f", {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{name}; torch {torch.__version__}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def _write(text: str) -> None:
    page = README.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


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
