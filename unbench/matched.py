"""Forgetting at matched utility: how much is forgotten where as much is kept (``unbench compare --matched``).

A method that forgets more may only have broken more. Weights between the target's and the unlearned model's,
θ(λ) = θ_t + λ (θ_u - θ_t), trade one for the other; the largest λ in [0, 1] at which retain is still ``KEPT`` of the
target's is found by bisection, and forget is compared there (Wang et al. 2024, arXiv:2406.09179). retain of the target
itself is 1 by definition, so retain(λ) >= KEPT is asked for. Where retain holds at λ = 1 the model stays as it is.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from unbench import __version__, responses
from unbench.errors import UnbenchError, UsageError
from unbench.method import Progress, Unlearned
from unbench.models.cache import folder_hash
from unbench.results.schema import Measured, Score
from unbench.results.store import RunFolder, SeedFolder, read_record, read_result, write_json
from unbench.task import Task, canonical_json

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from transformers import PreTrainedModel

    from unbench.models.prepare import Prepared
    from unbench.plan import Plan

KEPT = 0.95
HALVINGS = 5
"""Steps of the bisection: λ to 1/32."""
RINGS = ("forget", "far", "world")
"""What forget and retain are read off."""


class Matched(BaseModel):
    """One run at matched utility."""

    model_config = ConfigDict(extra="forbid")
    run_id: str
    method: str
    task: str
    model: str
    kept: float = Field(description="share of the target's retain that is asked for")
    mixed: dict[str, float] = Field(default={}, description="λ by seed: 1 is the unlearned model, 0 the target")
    retain: Score
    forget: Score
    reason: str | None = Field(default=None, description="why it can't be had")


def matched(folder: RunFolder, kept: float = KEPT, progress: Progress | None = None) -> Matched:
    """One finished run at matched utility; what was found before is read from its folder.

    Raises ``UsageError`` where the run has not finished, or its weights are gone."""
    from unbench import spine

    progress = progress or (lambda description, done, total: None)
    if not 0 < kept <= 1:
        raise UsageError(f"--kept is {kept:g}.", "Give a share of the target's retain: above 0, at most 1.")
    result = read_result(folder)
    plan = folder.read_plan()
    task = plan.open_task()
    places = [folder.seed(seed) for seed in plan.seeds]
    for place in places:
        place.read_responses()  # says so where the run's parts are gone
    prepared = spine.prepare_step(plan, task, spine.find_models(plan, task, progress), progress)
    common: dict[str, Any] = {"run_id": result.run_id, "method": result.method, "task": result.task,
                              "model": result.model, "kept": kept}  # fmt: skip
    weights = [(place.unlearned_model() or Unlearned(None)).weights for place in places]
    if any(one is None for one in weights):
        why = "the method changes no weights: there is nothing to mix"
        return Matched(**common, retain=Score(value=None, reason=why), forget=Score(value=None, reason=why), reason=why)
    tables: dict[int, pd.DataFrame] = {}
    shares: dict[str, float] = {}
    for seed, place, own in zip(plan.seeds, places, weights, strict=True):
        finder = _Finder(plan, task, prepared, place, own, kept, progress)
        shares[str(seed)], tables[seed] = finder.find()
    scores = _measure(task, prepared, tables).scores
    return Matched(**common, mixed=shares, retain=scores.retain, forget=scores.forget)


class _Finder:
    """Looks for λ of one seed."""

    def __init__(
        self, plan: Plan, task: Task, prepared: Prepared, place: SeedFolder, weights: Path | None, kept: float,
        progress: Progress,
    ) -> None:  # fmt: skip
        self._plan, self._task, self._prepared, self._place = plan, task, prepared, place
        self._weights = weights
        self._kept = kept
        self._progress = progress
        self._probes = [probe for probe in prepared.probes if probe.ring in RINGS]
        self._models: tuple[Any, dict[str, torch.Tensor], dict[str, torch.Tensor]] | None = None

    def find(self) -> tuple[float, pd.DataFrame]:
        """λ, and what the model there answers."""
        mark, table = self._place.path / "matched.json", self._place.path / "matched.parquet"
        target = self._prepared.target
        key = hashlib.sha256(canonical_json([
            __version__, folder_hash(target.path), folder_hash(self._weights) if self._weights else "", self._task.hash,
            [probe.id for probe in self._probes], str(target.dtype), target.device, self._kept, HALVINGS,
        ]).encode()).hexdigest()  # fmt: skip
        done = read_record(mark)
        if done is not None and done.get("key") == key and table.is_file():
            return float(done["mixed"]), responses.load(table)
        start = time.perf_counter()
        mixed, frame = bisect(self._at, self._keeps, HALVINGS)
        responses.save(frame, table)
        write_json(mark, {"key": key, "mixed": mixed, "wall_s": time.perf_counter() - start})
        return mixed, responses.load(table)

    def _keeps(self, frame: pd.DataFrame) -> bool:
        retain = _measure(self._task, self._prepared, {0: frame}).scores.retain.value
        if retain is None:
            raise UnbenchError("retain can't be had of this run.", "Run it without --limit.")
        return retain >= self._kept

    def _at(self, share: float) -> pd.DataFrame:
        """What the model at λ answers."""
        from unbench.engines.hf import HFEngine

        target = self._prepared.target
        model = self._mixed(share)
        self._progress(f"mix: λ = {share:.3g}", 0, 0)
        with HFEngine(model, target.tokenizer, batch_size=self._plan.batch_size) as engine:
            return responses.respond(
                engine, target.tokenizer, self._probes, role="unlearned", max_new_tokens=self._task.max_new_tokens,
                knowledge=self._task.knowledge,
            )  # fmt: skip

    def _mixed(self, share: float) -> PreTrainedModel:
        import torch

        from unbench.attacks.harness import plain
        from unbench.models.load import load_unlearned

        if self._models is None:
            target = self._prepared.target
            model = plain(load_unlearned(target, self._weights))
            ends = [{n: p.detach().clone() for n, p in one.named_parameters()} for one in (target.load(), model)]
            self._models = model, ends[0], ends[1]
        mixed, before, after = self._models
        with torch.no_grad():
            for name, parameter in mixed.named_parameters():
                parameter.copy_(torch.lerp(before[name], after[name], share))
        found: PreTrainedModel = mixed
        return found


def bisect(at: Callable[[float], Any], keeps: Callable[[Any], bool], halvings: int) -> tuple[float, Any]:
    """The largest share found at which ``keeps(at(share))``, and what ``at`` gave there: 1 if it holds there, else by
    halving between 0, where it is taken to hold, and 1."""
    whole = at(1.0)
    if keeps(whole):
        return 1.0, whole
    low, high, best = 0.0, 1.0, None
    for _ in range(halvings):
        middle = (low + high) / 2
        found = at(middle)
        if keeps(found):
            low, best = middle, found
        else:
            high = middle
    return low, best if best is not None else at(0.0)


def _measure(task: Task, prepared: Prepared, tables: dict[int, pd.DataFrame]) -> Measured:
    from unbench.metrics.scores import measure

    def asked(frames: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
        return [frame[frame["ring"].isin(RINGS)] for frame in frames]

    (target,) = asked([prepared.target_responses])
    return measure(tables, target, asked(prepared.references), knowledge=task.knowledge,
                   known_only=task.target == "given")  # fmt: skip
