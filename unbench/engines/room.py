"""The engines of one run: hf is opened for each use, vLLM is started once and handed out again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbench.engines.base import Closing, Engine, EngineStats, Generation, Sampling, ScoreRequest, TokenScores
from unbench.method import Unlearned

if TYPE_CHECKING:
    from unbench.engines.settings import ServingSettings
    from unbench.engines.vllm import VLLMEngine
    from unbench.engines.vllm_options import VLLMOptions
    from unbench.models.load import Target
    from unbench.plan import Plan


@dataclass
class Work:
    """What engines and training did in one step of a run."""

    generation_s: float = 0.0
    scoring_s: float = 0.0
    training_s: float = 0.0
    tokens_generated: int = 0
    tokens_scored: int = 0

    def add(self, stats: EngineStats) -> None:
        self.generation_s += stats.generate_s
        self.scoring_s += stats.score_s
        self.tokens_generated += stats.tokens_generated
        self.tokens_scored += stats.tokens_scored


class Engines(Closing):
    """Hands out engines that serve the run's target. A context manager; leaving it ends vLLM."""

    def __init__(self, target: Target, plan: Plan, logs: Path) -> None:
        self.starts = 0
        """How often vLLM was started."""
        self._target = target
        self._plan = plan
        self.logs = logs
        self._vllm: VLLMEngine | None = None
        self._work = Work()

    @contextmanager
    def open(self, first: Unlearned | None = None) -> Iterator[Engine]:
        """The plan's engine, serving the target. ``first`` is what will be loaded first, where that is known: a vLLM
        that is not running yet is started for weights of its kind."""
        names = engine_names(self._plan)
        with ExitStack() as stack:
            vllm = stack.enter_context(self._started(first)) if "vllm" in names else None
            hf = stack.enter_context(self._hf(alone="vllm" not in names)) if "hf" in names else None
            yield joined(names, hf, vllm)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Entered while weights are trained: the time is taken, and a vLLM engine on the same GPU gives back its
        memory until it is next asked."""
        if self._vllm is not None:
            self._vllm.rest()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._work.training_s += time.perf_counter() - start
            if self._vllm is not None and self._target.device.startswith("cuda"):
                import torch

                # What the engine needs when it wakes up must not lie idle in this process.
                torch.cuda.empty_cache()

    def take_work(self) -> dict[str, Any]:
        """What was done since this was last called, as JSON."""
        done, self._work = self._work, Work()
        return asdict(done)

    def close(self) -> None:
        if self._vllm is not None:
            self._vllm.close()
            self._vllm = None

    @contextmanager
    def _hf(self, alone: bool) -> Iterator[Any]:
        from unbench.engines import open_engine

        target = self._target
        # Beside vLLM it keeps to the GPU that trains: the others are vLLM's.
        device = target.device if alone else one_device(target.device)
        with open_engine(target.path, device, target.dtype, self._plan.batch_size) as engine:
            try:
                yield engine
            finally:
                self._work.add(engine.stats)

    @contextmanager
    def _started(self, first: Unlearned | None) -> Iterator[VLLMEngine]:
        from unbench.engines.vllm import VLLMEngine

        if self._vllm is None:
            self.starts += 1
            options = vllm_options(self._plan, self._target, first)
            self._vllm = VLLMEngine.open(self._target.path, self.logs / f"vllm-{self.starts}.log", options)
        engine = self._vllm
        engine.load(Unlearned(None))
        engine.stats, engine.progress = EngineStats(), None
        try:
            yield engine
        finally:
            self._work.add(engine.stats)


class Both:
    """Two engines that serve the same weights, one for texts and one for scores."""

    def __init__(self, generates: Any, scores: Any) -> None:
        self._generates = generates
        self._scores = scores
        norms = getattr(scores, "gradient_norms", None) or getattr(generates, "gradient_norms", None)
        if norms is not None:
            self.gradient_norms: Callable[[Sequence[ScoreRequest]], list[list[float]]] = norms

    @property
    def stats(self) -> EngineStats:
        one, other = self._generates.stats, self._scores.stats
        return EngineStats(
            one.tokens_generated + other.tokens_generated,
            one.tokens_scored + other.tokens_scored,
            one.generate_s + other.generate_s,
            one.score_s + other.score_s,
            [*one.notes, *other.notes],
        )

    @property
    def progress(self) -> Callable[[str, int, int], None] | None:
        found: Callable[[str, int, int], None] | None = self._generates.progress
        return found

    @progress.setter
    def progress(self, told: Callable[[str, int, int], None] | None) -> None:
        self._generates.progress = self._scores.progress = told

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Generation]:
        found: list[Generation] = self._generates.generate(prompts, sampling)
        return found

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[TokenScores]]:
        found: list[list[TokenScores]] = self._scores.score(requests)
        return found

    def load(self, unlearned: Unlearned) -> None:
        self._generates.load(unlearned)
        self._scores.load(unlearned)

    def close(self) -> None:
        self._generates.close()
        self._scores.close()


@contextmanager
def counted(engine: Any) -> Iterator[Work]:
    """What ``engine`` does within the block; filled in when it is left."""
    work, before = Work(), replace(engine.stats)
    yield work
    now = engine.stats
    work.tokens_generated = now.tokens_generated - before.tokens_generated
    work.tokens_scored = now.tokens_scored - before.tokens_scored
    work.generation_s = now.generate_s - before.generate_s
    work.scoring_s = now.score_s - before.score_s


@contextmanager
def for_evaluation(
    names: Sequence[str | None], base: Target, weights: Path, serving: ServingSettings, batch_size: int | None
) -> Iterator[VLLMEngine | None]:
    """vLLM serving ``weights`` (``base`` itself, or an adapter for it) where ``names`` has a use for it, else None. Its
    log lies in the cache's folder ``logs``."""
    if "vllm" not in names:
        yield None
        return
    from unbench.engines.vllm import VLLMEngine
    from unbench.engines.vllm_options import VLLMOptions, adapter_shape, check_install
    from unbench.models.cache import cache_root

    check_install(base.device)
    rank, targets = adapter_shape(weights) if weights != base.path else (0, ())
    options = VLLMOptions(
        device=base.device,
        dtype=str(base.dtype).removeprefix("torch."),
        **serving.model_dump(),
        batch_size=batch_size,
        lora_rank=rank,
        lora_targets=targets,
    )
    with VLLMEngine.open(base.path, cache_root() / "logs" / "vllm-eval.log", options) as engine:
        engine.load(Unlearned(None if weights == base.path else weights))
        yield engine


def joined(names: tuple[str, str], hf: Any, vllm: Any) -> Any:
    """One engine out of what generates and what scores (``names``)."""
    by_name = {"hf": hf, "vllm": vllm}
    return by_name[names[0]] if names[0] == names[1] else Both(by_name[names[0]], by_name[names[1]])


def engine_names(plan: Plan) -> tuple[str, str]:
    """What generates and what scores."""
    return plan.engine, plan.score_engine or plan.engine


def engine_versions(plan: Plan) -> dict[str, str]:
    """Version of the vLLM that a plan's numbers come from, by its distribution's name; empty where hf does it all."""
    from unbench.engines.vllm_options import installed

    found = installed() if "vllm" in engine_names(plan) else None
    return dict([found]) if found else {}


def one_device(device: str) -> str:
    """The single device that trains where ``device`` may name all of them."""
    return "cuda:0" if device == "cuda" else device


def vllm_options(plan: Plan, target: Target, first: Unlearned | None = None) -> VLLMOptions:
    """Of an engine for what the plan trains, or for the weights of ``first``."""
    from unbench.engines.vllm_options import VLLMOptions, adapter_shape

    rank, targets = (plan.train.rank, plan.train.targets) if plan.train.kind == "lora" else (0, ())
    if first is not None and first.weights is not None:
        adapter = (first.weights / "adapter_config.json").is_file()
        rank, targets = adapter_shape(first.weights) if adapter else (0, ())
    return VLLMOptions(
        device=target.device,
        dtype=str(target.dtype).removeprefix("torch."),
        **plan.serving.model_dump(),
        batch_size=plan.batch_size,
        lora_rank=rank,
        lora_targets=targets,
    )


def check(plan: Plan, target: Target) -> None:
    """Raises ``EnvironmentProblem`` where the plan's engines can't be had, as far as that can be known before the run
    has a folder."""
    if "vllm" in engine_names(plan):
        from unbench.engines.vllm_options import check_install, check_served, gpu_count, places

        options = vllm_options(plan, target)
        check_install(options.device)
        check_served(options)
        places(options, gpu_count(options.device))
