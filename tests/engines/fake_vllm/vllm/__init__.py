"""As much of vLLM as ``unbench.engines.vllm_worker`` uses, on top of transformers: what goes between the two processes,
and what becomes of them, is tested without the real one (``tests/vllm`` tests that).

``FAKE_VLLM`` names a fault: "import", "memory", "taken", "head" and "quiet" at the start, "die" and "full" as the first
text is written, "no sleep" and "insomnia" where it is to sleep.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

if os.environ.get("FAKE_VLLM") == "import":
    raise ImportError("no module that this vLLM wants")


class SamplingParams(SimpleNamespace):
    pass


class LLM:
    def __init__(self, model: str, **options: Any) -> None:
        print("the log of a fake engine", flush=True)
        print("and what went wrong", file=sys.stderr, flush=True)
        self._fault = os.environ.get("FAKE_VLLM", "")
        if self._fault == "quiet":
            os._exit(7)
        if self._fault == "memory":
            raise ValueError("To serve a request, 9 GiB KV cache is needed. Try less.\nMore words.")
        if self._fault == "taken":
            raise ValueError("Free memory on device (3/80 GiB) is less than desired GPU memory utilization (0.4).")
        if self._fault == "head":
            raise ValueError("1 validation error for VllmConfig\n  Head size 24 is not supported.")
        if self._fault == "no sleep" and options.get("enable_sleep_mode"):
            raise ValueError("Sleep mode is not supported on current platform.")
        assert options["enable_prefix_caching"]
        self.asleep = False
        # Like the processes of tensor parallelism: it does not end by itself with the one that started it.
        self._helper = subprocess.Popen(["sleep", "600"])
        self._model = model
        self._adapters: dict[int, str] = {}
        self._base: str | None = None
        self.llm_engine = self

    @cached_property
    def _hf(self) -> Any:
        # Late: most tests of processes never ask for anything.
        from unbench.engines.hf import HFEngine

        return HFEngine.open(self._model)

    def add_lora(self, request: Any) -> None:
        self._adapters[request.lora_int_id] = request.lora_path
        self._show()

    def remove_lora(self, number: int) -> None:
        del self._adapters[number]
        self._show()

    def collective_rpc(self, name: str, kwargs: dict[str, str] | None = None) -> None:
        if kwargs is not None:
            assert name == "reload_weights"
            self._base = kwargs["weights_path"]
            self._show()

    def _show(self) -> None:
        from unbench.method import Unlearned

        served = next(iter(self._adapters.values()), self._base)
        self._hf.load(Unlearned(None if served is None else Path(served)))

    def reset_prefix_cache(self) -> None: ...

    def sleep(self, level: int) -> None:
        # As vLLM does it: no request is taken from here on, whatever becomes of the memory.
        self.asleep = True
        if self._fault == "insomnia":
            raise RuntimeError("this device keeps what it has")

    def wake_up(self) -> None:
        self.asleep = False

    def generate(
        self, requests: Sequence[dict[str, Any]], wanted: Any, use_tqdm: Callable[..., Any], lora_request: Any
    ) -> list[Any]:
        prompts = [request["prompt_token_ids"] for request in requests]
        if prompts == [[0]]:
            # The first word of every engine, to see whether it works at all.
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=[0], finish_reason="length", stop_reason=None)])]
        if self._fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "full":
            raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB.")
        assert not self.asleep
        # A cached prompt has no log-probabilities to give, and its values may be stale.
        assert _scores(wanted) == getattr(wanted, "skip_reading_prefix_cache", False)
        assert (lora_request is not None) == bool(self._adapters)
        bar = use_tqdm(total=len(prompts), desc="Processed prompts")
        found = [self._scored(prompt) for prompt in prompts] if _scores(wanted) else self._written(prompts, wanted)
        bar.update(len(prompts))
        return found

    def _scored(self, prompt: list[int]) -> Any:
        from unbench.engines.base import ScoreRequest

        ((scores,),) = self._hf.score([ScoreRequest(prompt[:1], [prompt[1:]])])
        places = zip(prompt[1:], scores.logprob, scores.is_argmax, strict=True)
        rows = [{token: SimpleNamespace(logprob=p, rank=1 if first else 2)} for token, p, first in places]
        return SimpleNamespace(prompt_logprobs=[None, *rows])

    def _written(self, prompts: list[list[int]], wanted: Sequence[Any]) -> list[Any]:
        from unbench.engines.base import Sampling

        one = wanted[0]
        longest = max(own.max_tokens for own in wanted)
        sampling = Sampling(max_new_tokens=longest, temperature=one.temperature, top_p=one.top_p, seed=one.seed or 0)
        texts = self._hf.generate(prompts, sampling)
        return [SimpleNamespace(outputs=[self._output(*pair)]) for pair in zip(texts, wanted, strict=True)]

    def _output(self, text: Any, own: Any) -> Any:
        # The token that ended a text stands last, as in vLLM.
        tokens = [*text.tokens, own.stop_token_ids[0]] if text.finished else list(text.tokens)
        for length in range(1, len(text.tokens) + 1):
            so_far = self._hf._tokenizer.decode(tokens[:length], skip_special_tokens=True)
            stop = next((stop for stop in own.stop if stop in so_far), None)
            if stop is not None and length <= own.max_tokens:
                return SimpleNamespace(token_ids=tokens[:length], finish_reason="stop", stop_reason=stop)
        if len(tokens) > own.max_tokens or not text.finished:
            return SimpleNamespace(token_ids=tokens[: own.max_tokens], finish_reason="length", stop_reason=None)
        return SimpleNamespace(token_ids=tokens, finish_reason="stop", stop_reason=None)


def _scores(wanted: Any) -> bool:
    return getattr(wanted, "prompt_logprobs", None) is not None
