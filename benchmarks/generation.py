"""Tokens a second of hf and vllm: anti-samples as UnSTAR asks for them, and scoring as an evaluation does.

    python benchmarks/generation.py --model smollm2 --device cuda            # prints the table
    python benchmarks/generation.py --model smollm2 --device cuda --markdown # writes it into benchmarks/README.md

Both engines get the same token ids, of one model, in one run, without what is only paid once (loading, warming up; the
start of vLLM is given beside). hf runs at its best batch size: every one of a list, and the size that it would choose
itself, is tried on a part of the requests (one full batch at least, as far as there are so many), and all are printed.
Tokens are those of the answers that come back, written or scored; a text that ends early ends early for both, and
sampled texts differ, so their rate is what is compared. Seconds are those on the clock; on one thread of a CPU they are
the processor's, which other work on the same cores does not stretch.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import report
import torch

from unbench import plugins
from unbench.engines.base import Sampling, ScoreRequest
from unbench.engines.hf import HFEngine
from unbench.engines.vllm import VLLMEngine
from unbench.engines.vllm_options import VLLMOptions, check_install
from unbench.models.load import load_tokenizer, model_folder, pick_device, pick_dtype
from unbench.responses import candidate_ids
from unbench.templates import prompt_ids
from unbench.unstar.prompts import build

BEGIN, END = "<!-- generation: begin -->", "<!-- generation: end -->"
BATCHES = {"cpu": (8, 16, 32, 64), "cuda": (64, 128, 256, 512, 1024, 2048)}
SEARCHED, SEARCHED_AT_LEAST = 0.1, 32
"""Share and number of the requests on which hf's batch size is searched."""
WARM = 8
"""Requests that are asked before any is timed."""
HEAD = ["part", "requests", "hf, tokens/s", "hf's batch", "vllm, tokens/s", "vllm / hf", "the same"]


@dataclass
class Line:
    """One row of the table."""

    part: str
    requests: int
    hf: float
    batch: str
    vllm: float
    same: str

    @property
    def ratio(self) -> float:
        return self.vllm / self.hf

    def cells(self) -> list[str]:
        ratio = f"{self.ratio:.2f} ×"
        return [self.part, str(self.requests), f"{self.hf:.0f}", self.batch, f"{self.vllm:.0f}", ratio, self.same]


@dataclass
class Work:
    """What both engines are asked, and how many tokens an answer has."""

    name: str
    total: int
    ask: Callable[[Any, slice], list[Any]]
    tokens: Callable[[Any], int]
    searched: dict[str, float] = field(default_factory=dict)
    """hf's tokens a second by batch size."""


def main() -> None:
    arguments = _arguments()
    device = pick_device(arguments.device)
    dtype = pick_dtype(arguments.dtype, device)
    version = check_install(device)
    folder = model_folder(arguments.model, None, _silent)
    jobs = [writing(folder, arguments), scoring(folder, arguments)]
    found: list[tuple[float, str, list[Any]]] = []
    with HFEngine.open(folder, device, dtype) as hf:
        for job in jobs:
            best = search(hf, job, arguments.batches or BATCHES[torch.device(device).type], device)
            hf._batch_size = best
            rate, answers = timed(hf, job, slice(None), device)
            found.append((rate, batch_words(best), answers))
    # Its memory must be free before vLLM takes its share.
    del hf
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    options = VLLMOptions(
        device=device, dtype=str(dtype).removeprefix("torch."), gpu_memory=arguments.gpu_memory,
        tensor_parallel=arguments.tensor_parallel, data_parallel=arguments.data_parallel,
    )  # fmt: skip
    lines = []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as logs, VLLMEngine.open(folder, Path(logs) / "vllm.log", options) as vllm:
        started = time.perf_counter() - start
        for job, (rate, batch, answers) in zip(jobs, found, strict=True):
            job.ask(vllm, slice(0, WARM))
            fast, others = timed(vllm, job, slice(None), device)
            lines.append(Line(job.name, job.total, rate, batch, fast, difference(answers, others)))
    words = f"{report.machine(device)}; vLLM {version}; {arguments.model}, {str(dtype).removeprefix('torch.')}"
    words = f"{words}; {arguments.task}; {datetime.now(UTC):%Y-%m-%d}. vLLM started in {started:.0f} s."
    if on_the_processor(device):
        words += " Seconds of the table are the processor's."
    rows = report.table([HEAD, *(line.cells() for line in lines)])
    text = "\n".join([words, "", *rows, "", *map(search_words, jobs)])
    print(text)
    if arguments.markdown:
        report.write(text, BEGIN, END)
    if lines[0].ratio < arguments.at_least:
        sys.exit(f"vLLM writes {lines[0].ratio:.2f} times as fast as hf; asked for: {arguments.at_least:g} times.")


def writing(folder: Path, arguments: argparse.Namespace) -> Work:
    """The requests of UnSTAR's three skills over the task's rows, again and again until there are enough."""
    tokenizer = load_tokenizer(folder)
    data = plugins.open_task(arguments.task, "report", None).data()
    rows = [*data.forget, *data.retain]
    skills = ("paraphrase", "wrong_answer", "rationale")
    chats = [
        build(skill, row.question, None if skill == "paraphrase" else row.answer)  # type: ignore[arg-type]
        for row in rows
        for skill in skills
    ]
    one_each = [prompt_ids(tokenizer, list(chat)) for chat in chats]
    prompts = [one_each[i % len(one_each)] for i in range(arguments.requests)]
    sampling = Sampling(max_new_tokens=48, temperature=0.8, top_p=0.95, stop=("\n",), seed=0)

    def ask(engine: Any, part: slice) -> list[Any]:
        found: list[Any] = engine.generate(prompts[part], sampling)
        return found

    return Work("anti-samples", len(prompts), ask, lambda text: len(text.tokens))


def scoring(folder: Path, arguments: argparse.Namespace) -> Work:
    """Every candidate of the task's probes."""
    task = plugins.open_task(arguments.task, "report", None)
    asked = candidate_ids(load_tokenizer(folder), task.probes(), None, task.knowledge)
    number = arguments.requests if arguments.scored is None else arguments.scored
    requests: list[ScoreRequest] = [request for answers in asked for request in answers.requests]
    # Of all rings and kinds alike, where only some are asked.
    requests = requests[:: max(1, len(requests) // number)][:number]

    def ask(engine: Any, part: slice) -> list[Any]:
        found: list[Any] = engine.score(requests[part])
        return found

    # What an engine computes twice or once is its own affair: the answers' tokens count.
    return Work("scoring", len(requests), ask, lambda scores: sum(len(one.logprob) for one in scores))


def search(hf: HFEngine, job: Work, batches: Sequence[int], device: str) -> int | None:
    """hf's best batch size, None where leaving it to memory is best."""
    job.ask(hf, slice(0, WARM))
    rates: dict[int | None, float] = {}
    for size in (None, *batches):
        part = max(SEARCHED_AT_LEAST, math.ceil(job.total * SEARCHED), size or max(batches))
        hf._batch_size = size
        rates[size], _ = timed(hf, job, slice(0, part), device)
        print(f"{job.name}: hf with batch {batch_words(size)}: {rates[size]:.1f} tokens/s", file=sys.stderr)
    job.searched = {batch_words(size): rate for size, rate in rates.items()}
    return max(rates, key=rates.__getitem__)


def batch_words(size: int | None) -> str:
    return "by memory" if size is None else str(size)


def search_words(job: Work) -> str:
    """What hf's search found, in one line."""
    found = ", ".join(f"{size}: {rate:.0f}" for size, rate in job.searched.items())
    return f"hf's {job.name} by batch size, tokens/s: {found}.  "


def timed(engine: Any, job: Work, part: slice, device: str) -> tuple[float, list[Any]]:
    """Tokens a second, and the answers."""
    start = now(engine, device)
    answers = job.ask(engine, part)
    seconds = now(engine, device) - start
    tokens = sum(map(job.tokens, answers))
    print(f"{job.name}: {tokens} tokens in {seconds:.1f} s", file=sys.stderr)
    return tokens / seconds, answers


def on_the_processor(device: str) -> bool:
    """Whether the processor's own seconds say how fast an engine is."""
    return device == "cpu" and torch.get_num_threads() == 1


def now(engine: Any, device: str) -> float:
    """Seconds: on the clock, or those that a processor has spent on this process and the engine's own."""
    if not on_the_processor(device):
        return time.perf_counter()
    spent = [psutil.Process(pid).cpu_times() for pid in getattr(engine, "pids", [])]
    return time.process_time() + sum(one.user + one.system for one in spent)


def difference(mine: list[Any], others: list[Any]) -> str:
    """How far scores lie apart; of sampled texts, how long they are."""
    if hasattr(mine[0], "text"):
        lengths = [sum(len(one.tokens) for one in texts) / len(texts) for texts in (mine, others)]
        return f"{lengths[0]:.1f} and {lengths[1]:.1f} tokens a text"
    worst = max(
        abs(a - b)
        for one, other in zip(mine, others, strict=True)
        for x, y in zip(one, other, strict=True)
        for a, b in zip(x.logprob, y.logprob, strict=True)
    )
    return f"log-probabilities to {worst:.0e}"


def _silent(description: str, done: int, total: int) -> None:
    """No progress shown."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--task", default="facts/all", help="whose rows and probes are asked")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--scored", type=int, help="how many of the task's requests are scored  [default: --requests]")
    parser.add_argument("--batches", type=int, nargs="+", help="hf's batch sizes to try")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--tensor-parallel", type=int, default=1)
    parser.add_argument("--data-parallel", type=int, default=1)
    parser.add_argument("--gpu-memory", type=float)
    parser.add_argument("--at-least", type=float, default=0.0, help="end with 1 where vLLM writes fewer times as fast")
    parser.add_argument("--markdown", action="store_true", help="write the table into benchmarks/README.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
