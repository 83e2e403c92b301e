"""What the process of a vLLM engine does; ``vllm_process.VLLMProcess`` is its handle.

They speak JSON lines: requests over standard input, answers over a pipe of their own. Standard output and error, where
vLLM and all that it starts write their logs, are a file. When the input ends, because the handle was closed or its
process killed, this process ends at once and takes with it whatever vLLM started.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

REPORT_S = 0.5
"""Seconds between two words about progress."""

Tell = Callable[[str, Any], None]


class Server:
    """One ``vllm.LLM`` and the weights that it serves at the moment: the model's own, or an adapter over them."""

    def __init__(self, arguments: dict[str, Any], tell: Tell) -> None:
        self._llm, self._sleeps = _started(arguments)
        self._tell = tell
        self._adapter: Any = None
        self._asleep = False
        # Some of what vLLM has no kernel for (a head size) it finds only as it computes: better now than in a run.
        self.generate([[0]], [1], None, temperature=0.0, top_p=1.0, stop=[], ends=[])

    def generate(
        self,
        prompts: Sequence[list[int]],
        limits: Sequence[int],
        seeds: Sequence[int] | None,
        *,
        temperature: float,
        top_p: float,
        stop: Sequence[str],
        ends: Sequence[int],
    ) -> list[tuple[list[int], bool, bool]]:
        """A continuation a prompt, of at most ``limits[i]`` tokens: its tokens, whether it ended by itself, and whether
        a stop string ended it. The token that ended it is the last."""
        from vllm import SamplingParams

        wanted = [
            SamplingParams(
                max_tokens=limits[i],
                temperature=temperature,
                top_p=top_p,
                seed=None if seeds is None else seeds[i],
                stop=list(stop),
                stop_token_ids=list(ends),
                detokenize=bool(stop),
            )
            for i in range(len(prompts))
        ]
        texts = [output.outputs[0] for output in self._run("generate", prompts, wanted)]
        return [(list(t.token_ids), t.finish_reason == "stop", isinstance(t.stop_reason, str)) for t in texts]

    def score(self, rows: Sequence[list[int]], starts: Sequence[int]) -> list[tuple[list[float], list[bool]]]:
        """Log-probabilities (nats) of ``rows[i][starts[i]:]``, and whether each token was the first choice."""
        from vllm import SamplingParams

        # Every request for prompt log-probabilities computes its prompt anew: a cached one has none to give.
        wanted = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False, skip_reading_prefix_cache=True
        )
        scores = []
        for row, start, output in zip(rows, starts, self._run("score", rows, wanted), strict=True):
            found = [output.prompt_logprobs[i][row[i]] for i in range(start, len(row))]
            scores.append(([one.logprob for one in found], [one.rank == 1 for one in found]))
        return scores

    def adapter(self, folder: str | None, number: int) -> None:
        """Serve the peft adapter in ``folder``, or the bare weights. ``number`` was given to no adapter before, so that
        new weights in an old folder are read."""
        self.wake()
        if self._adapter is not None:
            self._llm.llm_engine.remove_lora(self._adapter.lora_int_id)
            self._adapter = None
        if folder is not None:
            from vllm.lora.request import LoRARequest

            request = LoRARequest(f"adapter-{number}", number, folder)
            self._llm.llm_engine.add_lora(request)
            self._adapter = request
        self._llm.reset_prefix_cache()

    def weights(self, folder: str) -> None:
        """Put a whole model's weights in the place of those that are served."""
        self.wake()
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        self._llm.collective_rpc("refresh_output_layer")
        self._llm.reset_prefix_cache()

    def rest(self) -> None:
        """Give back the device's memory until the next call; the weights go to the host's. A device that does not allow
        it keeps them: training then has what the engine's share leaves."""
        if self._asleep or not self._sleeps:
            return
        try:
            self._llm.sleep(level=1)
        except Exception:
            traceback.print_exc()
            self._sleeps = False
            # It takes no requests from the moment that it was told to sleep.
            with suppress(Exception):
                self._llm.wake_up()
        else:
            self._asleep = True

    def wake(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False

    def _run(self, what: str, prompts: Sequence[list[int]], wanted: Any) -> list[Any]:
        self.wake()
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        bar = self._bar(what, len(prompts))
        outputs: list[Any] = self._llm.generate(requests, wanted, use_tqdm=bar, lora_request=self._adapter)
        return outputs

    def _bar(self, what: str, total: int) -> Callable[..., _Bar]:
        """What vLLM takes for a tqdm: it counts the requests as they are queued and again as they are done."""

        def make(*iterable: Any, desc: str = "", **_: Any) -> _Bar:
            counts = "Processed" in desc
            return _Bar(iterable, (lambda done: self._tell("progress", [what, done, total])) if counts else None)

        return make


def _started(arguments: dict[str, Any]) -> tuple[Any, bool]:
    """The engine, and whether it can sleep: a device that can't is served all the same."""
    from vllm import LLM

    own, sleeps = {"worker_extension_cls": "unbench.engines.vllm_extension.Extension"}, "enable_sleep_mode"
    try:
        return LLM(**arguments, **own), bool(arguments.get(sleeps))
    except ValueError as problem:
        if not arguments.get(sleeps) or "sleep mode" not in str(problem).lower():
            raise
        traceback.print_exc()
    return LLM(**arguments | {sleeps: False}, **own), False


class _Bar:
    def __init__(self, iterable: Sequence[Any], report: Callable[[int], None] | None) -> None:
        self._iterable = iterable[0] if iterable else ()
        self._report = report
        self._start = self._told = time.monotonic()
        self.n = 0
        self.postfix = ""

    def __iter__(self) -> Any:
        return iter(self._iterable)

    @property
    def format_dict(self) -> dict[str, float]:
        return {"elapsed": max(time.monotonic() - self._start, 1e-6)}

    def update(self, n: int = 1) -> None:
        self.n += n
        if self._report is not None and time.monotonic() - self._told > REPORT_S:
            self._told = time.monotonic()
            self._report(self.n)

    def refresh(self) -> None: ...

    def close(self) -> None: ...


def main() -> None:
    """Serve one engine until the input ends. The only argument is the file descriptor of the answers."""
    answers = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8")
    requests = _read(sys.stdin.buffer)

    def tell(kind: str, value: Any) -> None:
        answers.write(json.dumps([kind, value]) + "\n")
        answers.flush()

    server: Server | None = None
    while True:
        name, values, options = requests.get()
        try:
            if server is None:
                server, answer = Server(options, tell), None
            else:
                answer = getattr(server, name)(*values, **options)
        except Exception as problem:
            traceback.print_exc()
            tell("error", [type(problem).__name__, str(problem)])
        else:
            tell("answer", answer)


def _read(stream: Any) -> queue.SimpleQueue[Any]:
    """Requests as they come. A thread reads them, so that the end of the input is noticed while vLLM computes."""
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def read() -> None:
        for line in stream:
            requests.put(json.loads(line))
        # This process was started as the head of a group: all that vLLM started is in it.
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=read, daemon=True).start()
    return requests


if __name__ == "__main__":
    main()
