"""lm-eval's own tasks (MMLU, HellaSwag …) asked of a model in memory: what the unlearned model can still do at large.

Everything is lm-eval's: prompts, metrics, standard errors. Only what it would leave behind is put back: random states,
training mode, the tokenizer's pad token, log level; and what it prints goes to stderr.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbench.capabilities import Z
from unbench.errors import EnvironmentProblem, RunFailed, UnbenchError, UsageError
from unbench.lmeval.export import tasks_path
from unbench.method import Progress
from unbench.results.schema import Score

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CPU_BATCH = 8
"""Batch size on the CPU where none is given; on a GPU lm-eval finds one."""
BOOTSTRAP = 1000
"""Draws for the standard error of the few metrics that have no formula for it (F1, MCC, perplexity)."""


@dataclass(frozen=True)
class Capabilities:
    """What lm-eval found."""

    scores: dict[str, Score]
    """``lm_eval/<task>/<metric>``; a metric's filter, where it has one, stands behind it (``exact_match,strict``)."""
    versions: dict[str, str]
    """``lm_eval`` and, as ``lm_eval/<task>``, the version of every task."""
    settings: dict[str, Any]
    """How it was asked: chat_template (whether the model's own was applied), batch_size, limit, num_fewshot."""


def capabilities(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    batch_size: int | None,
    device: str,
    limit: int | None = None,
    include_path: Path | None = None,
    system_prompt: str | None = None,
    progress: Progress | None = None,
) -> Capabilities:
    """Ask ``tasks`` (names, groups or patterns of lm-eval; UnBench's own exported ones too) of a model, peft included.

    The chat template is applied where the tokenizer has one. ``limit`` takes that many documents of each task. Of a
    group that aggregates (mmlu) only the aggregate is handed back, unless its parts are named too.

    Raises ``UsageError`` for an unknown task, ``EnvironmentProblem`` where lm-eval is not installed or a task's data
    can't be had, ``RunFailed`` where lm-eval stops.
    """
    check_installed()
    with _as_it_was(model):
        from lm_eval import simple_evaluate

        manager = _task_manager(tasks, include_path)
        names = manager.match_tasks(list(tasks))
        chat = tokenizer.chat_template is not None
        size = batch_size or ("auto" if str(model.device).startswith("cuda") else CPU_BATCH)
        lm = _language_model(model, tokenizer, size, device, progress)
        try:
            found: Any = simple_evaluate(
                model=lm, tasks=names, task_manager=manager, batch_size=size, device=device, limit=limit,
                bootstrap_iters=BOOTSTRAP, log_samples=False, apply_chat_template=chat, fewshot_as_multiturn=chat,
                system_instruction=system_prompt,
            )  # fmt: skip
        except Exception as problem:
            raise _explained(problem) from problem
    shown = _shown(found, names)
    shots = {name: found["n-shot"].get(name) for name in shown}
    return Capabilities(
        scores=_scores(found["results"], shown, limit),
        versions=_versions(found["versions"], shown),
        settings={"chat_template": chat, "batch_size": size, "limit": limit, "num_fewshot": shots},
    )


def check_installed() -> None:
    """Raises ``EnvironmentProblem`` where lm-eval is missing. Cheap: nothing is imported."""
    from importlib.util import find_spec

    if find_spec("lm_eval") is None:
        raise EnvironmentProblem("--lm-eval needs the package lm-eval.", "Install it: pip install 'unbench[lm-eval]'")


def check_tasks(tasks: Sequence[str]) -> None:
    """Raises as ``capabilities`` would for a missing package or an unknown task, before anything heavy starts."""
    check_installed()
    with _quietly():
        _task_manager(tasks, None)


def _task_manager(tasks: Sequence[str], include_path: Path | None) -> Any:
    """lm-eval's index, of its own thousands of tasks only where one of them is asked for (they take seconds)."""
    from lm_eval.tasks import TaskManager

    class Tasks(TaskManager):  # type: ignore[misc,unused-ignore]
        def load(self, task_list: Any) -> Any:
            try:
                return super().load(task_list)
            except UnbenchError:
                raise
            except Exception as problem:
                # Whatever the library beneath raises here (hub, network, dataset scripts, a missing extra), the task
                # is known but can't be had.
                names = ", ".join(map(str, task_list))
                raise EnvironmentProblem(
                    f"lm-eval can't load {names}: {type(problem).__name__}: {_first_line(problem)}",
                    "Its data comes from the hub: run once with network, or set HF_HOME to a cache that holds it.",
                ) from problem

    paths = [str(path) for path in (tasks_path(), include_path) if path is not None]
    manager = Tasks(include_path=paths, include_defaults=False)
    if all(manager.match_tasks([name]) for name in tasks):
        return manager
    manager = Tasks(include_path=paths)
    for name in tasks:
        if not manager.match_tasks([name]):
            raise _unknown(name, manager.all_tasks)
    return manager


def _unknown(name: str, known: Sequence[str]) -> UsageError:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "'lm_eval ls tasks' lists them."
    return UsageError(f"lm-eval has no task called {name!r}.", hint)


def _language_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int | str,
    device: str,
    progress: Progress | None,
) -> Any:
    """lm-eval's wrapper around a model in memory, telling its progress as UnBench does."""
    from lm_eval.models.huggingface import HFLM

    from unbench.templates import DATE

    class Told(HFLM):  # type: ignore[misc,unused-ignore]
        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            self.set_cache_hook(_Counter("loglikelihood", len(requests), progress))
            return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
            self.set_cache_hook(_Counter("loglikelihood_rolling", len(requests), progress))
            return super().loglikelihood_rolling(requests, disable_tqdm=True)

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
            self.set_cache_hook(_Counter("generate_until", len(requests), progress))
            return super().generate_until(requests, disable_tqdm=True)

    return Told(
        pretrained=model,
        # It sets a pad token where there is none.
        tokenizer=copy.deepcopy(tokenizer),
        batch_size=batch_size,
        device=device,
        # Templates that print today's date would change the scores from day to day.
        chat_template_args={"date_string": DATE},
    )


class _Counter:
    """Stands where lm-eval would cache answers: it is told of each, so it can count them."""

    def __init__(self, what: str, total: int, progress: Progress | None) -> None:
        self.what, self.total, self.progress, self.done = what, total, progress, 0

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(f"lm-eval: {self.what}", min(self.done, self.total), self.total)


@contextmanager
def _as_it_was(model: PreTrainedModel) -> Iterator[None]:
    """Undo what lm-eval does around its answers: it seeds every generator, prints, warns and forks."""
    import numpy as np
    import torch

    training = model.training
    python, array = random.getstate(), np.random.get_state()
    forks = os.environ.get("DISABLE_MULTIPROC")
    devices = [model.device.index or 0] if model.device.type == "cuda" else []
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with torch.random.fork_rng(devices=devices), _quietly():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        model.train(training)
        if forks is None:
            os.environ.pop("DISABLE_MULTIPROC", None)
        else:
            os.environ["DISABLE_MULTIPROC"] = forks


@contextmanager
def _quietly() -> Iterator[None]:
    """stdout is data: what lm-eval prints goes to stderr, and its log says errors only."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(max(logging.ERROR, logging.getLogger().level))
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)


def _explained(problem: Exception) -> Exception:
    from unbench.training.memory import is_out_of_memory

    if isinstance(problem, UnbenchError) or is_out_of_memory(problem):
        return problem
    return RunFailed(
        f"lm-eval stopped with {type(problem).__name__}: {_first_line(problem)}", "Name other tasks in --lm-eval."
    )


def _first_line(problem: Exception) -> str:
    lines = str(problem).strip().splitlines()
    return f"{lines[0].rstrip('.')}." if lines else "no more is known."


def _shown(found: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Tasks and groups with metrics, without the parts of a group that aggregates them, unless they were named."""
    children: dict[str, list[str]] = found.get("group_subtasks", {})
    hidden: set[str] = set()
    waiting = [child for group in found.get("groups", {}) for child in children.get(group, [])]
    while waiting:
        name = waiting.pop()
        if name not in hidden:
            hidden.add(name)
            waiting += children.get(name, [])
    told = [name for name, own in found["results"].items() if any("," in key for key in own)]
    return [name for name in told if name in names or name not in hidden]


def _scores(results: dict[str, dict[str, Any]], shown: Sequence[str], limit: int | None) -> dict[str, Score]:
    scores = {}
    for name in shown:
        for key, value in results[name].items():
            metric, comma, kind = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            error = results[name].get(f"{metric}_stderr,{kind}")
            n = results[name].get("sample_count", {}).get(key, results[name].get("sample_len", 0))
            label = metric if kind == "none" else key
            scores[f"lm_eval/{name}/{label}"] = _score(value, error, n, limit)
    return scores


def _score(value: Any, error: Any, n: int, limit: int | None) -> Score:
    part = "" if limit is None else f"; the first {limit} documents of each task only"
    if not _finite(value):
        return Score(value=None, n=n, reason=f"lm-eval gives {value!r}{part}")
    if not _finite(error):
        return Score(value=float(value), n=n, reason=f"lm-eval gives no stderr for it{part}")
    half = Z * float(error)
    reason = f"interval: value ± {Z} × lm-eval stderr{part}"
    return Score(value=float(value), low=float(value) - half, high=float(value) + half, n=n, reason=reason)


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except TypeError:
        return False


def _versions(versions: dict[str, Any], shown: Sequence[str]) -> dict[str, str]:
    from importlib.metadata import version

    return {"lm_eval": version("lm_eval")} | {f"lm_eval/{name}": str(versions.get(name, "N/A")) for name in shown}
