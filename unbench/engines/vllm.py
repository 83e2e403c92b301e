"""The ``vllm`` engine: generation and scoring by vLLM, in a process of its own (``vllm_worker``).

It is started once and outlives any number of changes of weights: adapters are loaded into it, whole models are put in
the place of the one before. Sampled texts depend on the seed and a prompt's place in the call, as hf's do; they are
other texts than hf's, drawn from the same distribution.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from unbench.engines.base import Closing, EngineStats, Generation, Sampling, ScoreRequest, TokenScores, end_ids
from unbench.engines.vllm_options import (
    Place,
    VLLMOptions,
    check_adapter,
    check_install,
    gpu_count,
    longest,
    places,
)
from unbench.engines.vllm_process import VLLMProcess
from unbench.errors import UsageError
from unbench.method import Unlearned

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_MOMENTS = "vllm gives no moments of the log-probability over the vocabulary: min-k++ has no value"


class VLLMEngine(Closing):
    """Serves the model in ``target``. A context manager; leaving it ends every process that was started.

    Each of ``processes`` holds a copy of the model and takes its part of the requests. What hf can do and this can't:
    the moments of ``TokenScores`` are None, and there are no ``gradient_norms``.
    """

    def __init__(
        self,
        target: Path,
        tokenizer: PreTrainedTokenizerBase,
        processes: Sequence[VLLMProcess],
        options: VLLMOptions,
        found: Sequence[Place],
    ) -> None:
        self.stats = EngineStats()
        self.progress: Callable[[str, int, int], None] | None = None
        """Told what is done of a ``generate`` or ``score`` call, in sequences."""
        self._target = target
        self._tokenizer: Any = tokenizer
        self._processes = list(processes)
        self._options = options
        self._places = list(found)
        self._ends = end_ids(tokenizer, _configured_ends(target))
        self._longest = longest(target)
        self._served: Path | None = None
        """Where what is served lies, if it isn't the target."""
        self._replaced = False
        self._adapters = 0

    @classmethod
    def open(cls, target: Path | str, log: Path, options: VLLMOptions | None = None) -> Self:
        """An engine on a folder's model, loaded when this returns; ``log`` takes what vLLM writes (with a number added
        from the second copy on). Raises ``EnvironmentProblem`` where it can't be had."""
        from unbench.models.load import load_tokenizer

        options, folder = options or VLLMOptions(), Path(target).resolve()
        check_install(options.device)
        found = places(options, gpu_count(options.device))
        if options.on_gpu:
            _make_room()
        started: list[VLLMProcess] = []
        try:
            for number, place in enumerate(found):
                path = log if number == 0 else log.with_stem(f"{log.stem}-{number + 1}")
                started.append(VLLMProcess(options.arguments(folder, place.shared), path, place.environment))
            tokenizer = load_tokenizer(folder)
            for process in started:
                process.receive()
            return cls(folder, tokenizer, started, options, found)
        except BaseException:
            for process in started:
                process.close()
            raise

    @property
    def pids(self) -> list[int]:
        """Of the processes; each is the head of a group with all that it started."""
        return [process.pid for process in self._processes]

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Generation]:
        """One continuation a prompt, as ``HFEngine.generate`` describes it. Raises ``UsageError`` for a prompt that
        fills the engine's context."""
        if not all(prompts):
            raise ValueError("a prompt needs at least one token")
        if sampling.max_new_tokens < 1:
            return [Generation([], "", False) for _ in prompts]
        start = time.perf_counter()
        greedy = sampling.temperature <= 0
        own = list(prompts) if not greedy else [list(prompt) for prompt in dict.fromkeys(map(tuple, prompts))]
        self._refuse_long(own)
        # A text ends where the engine's context does.
        limits = [min(sampling.max_new_tokens, self._longest - len(prompt)) for prompt in own]
        seeds = None if greedy else [_seed(sampling.seed, place) for place in range(len(own))]
        options = {
            "temperature": max(sampling.temperature, 0.0),
            "top_p": sampling.top_p,
            "stop": list(sampling.stop),
            "ends": sorted(self._ends),
        }
        found = self._spread(
            "generate", len(own), lambda part: (own[part], limits[part], seeds and seeds[part]), options
        )
        texts = [self._text(sampling.stop, *one) for one in found]
        self.stats.tokens_generated += sum(len(tokens) for tokens, _, _ in found)
        self.stats.generate_s += time.perf_counter() - start
        if not greedy:
            return texts
        by_prompt = dict(zip(map(tuple, own), texts, strict=True))
        return [by_prompt[tuple(prompt)] for prompt in prompts]

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[TokenScores]]:
        """Scores of every continuation, in nats, without moments. Equal ones are computed once. Where two tokens are
        exactly equal, neither counts as the argmax."""
        start = time.perf_counter()
        places: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        numbers = [
            [places.setdefault((tuple(r.prompt), tuple(c)), len(places)) for c in r.continuations] for r in requests
        ]
        rows = [[*prompt, *continuation] for prompt, continuation in places]
        starts = [len(prompt) for prompt, _ in places]
        if not all(starts):
            raise ValueError("a prompt needs at least one token")
        self._refuse_long(rows)
        found = self._spread("score", len(rows), lambda part: (rows[part], starts[part]), {})
        scores = [TokenScores(logprob, is_argmax) for logprob, is_argmax in found]
        self.stats.tokens_scored += sum(len(continuation) for _, continuation in places)
        self.stats.score_s += time.perf_counter() - start
        if scores and NO_MOMENTS not in self.stats.notes:
            self.stats.notes.append(NO_MOMENTS)
        return [[scores[number] for number in request] for request in numbers]

    def load(self, unlearned: Unlearned) -> None:
        """Swap the weights in place: the target's (None), an adapter's over the target, or a whole model's.

        Raises ``UsageError`` for a folder without safetensors, ``EnvironmentProblem`` for an adapter that an
        engine started with these options can't serve.
        """
        folder = None if unlearned.weights is None else Path(unlearned.weights).resolve()
        if folder is None and self._served is None:
            return
        adapter = folder is not None and (folder / "adapter_config.json").is_file()
        if adapter and folder is not None:
            check_adapter(folder, self._options)
        elif folder is not None and not list(folder.glob("*.safetensors")):
            raise UsageError(f"{folder} holds no weights (safetensors).", "Was the run that made them finished?")
        # Set before: a load that fails half-way must be undone too.
        self._served, whole = folder or self._target, None if adapter else folder
        if whole is not None or self._replaced:
            self._replaced = True
            self._each("weights", str(whole or self._target))
            self._replaced = whole is not None
        if self._options.lora_rank:
            self._adapters += 1
            self._each("adapter", str(folder) if adapter else None, self._adapters)
        self._served = folder

    def rest(self) -> None:
        """Give back the memory of the GPU that training takes place on, until the next call."""
        for process, place in zip(self._processes, self._places, strict=True):
            if place.shared:
                process.send("rest")
                process.receive()

    def close(self) -> None:
        for process in self._processes:
            process.close()
        self._processes = []

    def _each(self, name: str, *values: Any) -> None:
        for process in self._processes:
            process.send(name, *values)
        for process in self._processes:
            process.receive()

    def _spread(
        self, name: str, total: int, part_of: Callable[[slice], tuple[Any, ...]], options: dict[str, Any]
    ) -> list[Any]:
        """Every process's answers, in the order of the requests: each takes every so many-th."""
        if not total:
            return []
        count = len(self._processes)
        parts = [slice(first, None, count) for first in range(min(count, total))]
        for process, part in zip(self._processes, parts, strict=False):
            process.send(name, *part_of(part), **options)
        found: list[Any] = [None] * total
        for process, part in zip(self._processes, parts, strict=False):
            found[part] = process.receive(self._told(total, len(parts)))
        self._report(name, total, total)
        return found

    def _told(self, total: int, count: int) -> Callable[[str, int, int], None]:
        # The copies go at the same pace; only the one that is waited for is heard.
        return lambda what, done, _: self._report(what, min(done * count, total), total)

    def _report(self, what: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(what, done, total)

    def _text(self, stop: Sequence[str], tokens: list[int], finished: bool, by_string: bool) -> Generation:
        if by_string:
            text = self._decode(tokens)
            cut = min((at for at in (text.find(one) for one in stop) if at >= 0), default=len(text))
            return Generation(tokens[:-1], text[:cut], True)
        kept = tokens[:-1] if finished else tokens
        return Generation(kept, self._decode(kept), finished)

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _refuse_long(self, rows: Sequence[list[int]]) -> None:
        most = max(map(len, rows), default=0)
        if most >= self._longest:
            raise UsageError(
                f"A prompt with its answer takes {most} tokens, and the vLLM engine holds {self._longest}.",
                "Use shorter questions, or give --engine hf.",
            )


def _make_room() -> None:
    """Give back what torch holds of the GPUs without using it."""
    import gc

    import torch

    gc.collect()
    torch.cuda.empty_cache()


def _configured_ends(folder: Path) -> Any:
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(str(folder)).eos_token_id
    except OSError:
        import json

        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("eos_token_id")


def _seed(seed: int, place: int) -> int:
    """The seed of the prompt at ``place``."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{place}".encode()).digest()[:4], "big")
