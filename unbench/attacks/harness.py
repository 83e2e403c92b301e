"""Carrying attacks out: on every seed's unlearned model, and on a model that never knew.

What an attack finds on a model is kept as soon as it has ended, in ``seed-<k>/attacks/`` of the run and, for reference
and target, in the cache: they are the same for every method. An attack that fails is null with its reason; the others
go on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from unbench import __version__, responses
from unbench.attack import Attack, AttackContext, NotPossible
from unbench.attacks.measure import Base, Point, base_of, outcome, points, unattacked
from unbench.attacks.unrelated import unrelated_rows
from unbench.engines.room import one_device
from unbench.errors import EnvironmentProblem
from unbench.method import Progress, Unlearned
from unbench.models.cache import cache_root, folder_hash
from unbench.results.schema import AttackPoint, AttackResult, Score
from unbench.results.store import SeedFolder, read_record, write_json, write_refused, write_text
from unbench.stdout import to_stderr
from unbench.task import Probe, Task, canonical_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from unbench.attacks.choose import Chosen
    from unbench.models.load import Target
    from unbench.models.prepare import Prepared
    from unbench.plan import Plan

Role = Literal["unlearned", "reference", "target"]
NO_WEIGHTS = "the method changes no weights: whoever has them has the target"
FIXED_SEED = 0
"""Of attacks on reference and target."""


@dataclass(frozen=True)
class Found:
    """What an attack found on one model."""

    table: pd.DataFrame
    wall_s: float
    notes: dict[str, Any]


@dataclass(frozen=True)
class Attacked:
    """One attack over all seeds: what the result says of it, and its curve."""

    result: AttackResult
    points: tuple[Point, ...]


class Harness:
    """Attacks the models of one run."""

    def __init__(
        self, plan: Plan, task: Task, prepared: Prepared, reference: Target | None, progress: Progress
    ) -> None:
        self._plan = plan
        self._task = task
        self._prepared = prepared
        self._reference = reference
        self._progress = progress
        self._probes = forget_probes(prepared.probes, {row.fact for row in prepared.forget})
        self._hashes: dict[Path, str] = {}

    def carry_out(self, chosen: Chosen, seeds: Sequence[tuple[int, SeedFolder]]) -> Attacked:
        """One attack on every seed's model, the reference and, where it wants that, the target."""
        try:
            found = {seed: self._on_seed(chosen, seed, place) for seed, place in seeds}
            reference = None if self._reference is None else self._beside(chosen, "reference", self._reference)
            target = self._beside(chosen, "target", self._prepared.target) if chosen.attack.on_target else None
        except NotPossible as why:
            return _null(chosen, str(why))
        except _Raised as problem:
            return _null(chosen, problem.said)
        tables = {seed: one.table for seed, one in found.items()}
        beside = None if reference is None else reference.table
        try:
            curve = tuple(points(tables, beside, None if target is None else target.table, self._base))
        except ValueError as problem:
            return _null(chosen, f"did not ask every model the same: {problem}")
        notes = {f"seed-{seed}": one.notes for seed, one in found.items() if one.notes}
        notes |= {who: one.notes for who, one in (("reference", reference), ("target", target)) if one and one.notes}
        result = AttackResult(
            name=chosen.name, kind=chosen.attack.card.kind, config=chosen.attack.config.model_dump(mode="json"),
            **outcome(curve, reference is not None),
            wall_s=sum(one.wall_s for one in found.values()), method_hash=chosen.source, notes=notes,
        )  # fmt: skip
        return Attacked(result, curve)

    def beside(self, chosen: Chosen) -> dict[str, pd.DataFrame]:
        """What one attack finds on the reference and, where it wants that, on the target: the same for every method."""
        found = {}
        if self._reference is not None:
            found["reference"] = self._beside(chosen, "reference", self._reference).table
        if chosen.attack.on_target:
            found["target"] = self._beside(chosen, "target", self._prepared.target).table
        return found

    @cached_property
    def _base(self) -> Base:
        prepared, task = self._prepared, self._task
        return base_of(prepared.target_responses, prepared.references, task.knowledge, task.target == "given")

    def unattacked(self, tables: Mapping[int, pd.DataFrame]) -> AttackPoint:
        """The attacks' probes as nobody attacked them; ``tables``: seed -> responses of the unlearned model."""
        probes = {probe.pair or probe.id for probe in self._probes}
        return unattacked(tables, probes, self._base, self._task.knowledge).shown

    def _on_seed(self, chosen: Chosen, seed: int, place: SeedFolder) -> Found:
        from unbench.models.load import load_unlearned

        done = place.unlearn_record() or {}
        unlearned = place.unlearned_model() or Unlearned(None)
        weights, prompt = unlearned.weights, unlearned.system_prompt
        if weights is None and prompt is not None and chosen.attack.card.kind in ("weights", "internal"):
            raise NotPossible(NO_WEIGHTS)
        target = self._prepared.target
        key = self._key(chosen, done.get("weights_hash") or self._hash(target.path), seed, prompt)
        context = self._context(
            "unlearned", lambda: plain(load_unlearned(target, weights)), target, seed, f"seed {seed}", chosen, prompt
        )
        return self._kept(chosen, context, place.attacks / chosen.file_name, key)

    def _beside(self, chosen: Chosen, role: Role, model: Target) -> Found:
        key = self._key(chosen, self._hash(model.path), FIXED_SEED, None)
        context = self._context(role, model.load, model, FIXED_SEED, role, chosen, None)
        return self._kept(chosen, context, cache_root() / "attacks" / key[:24], key)

    def _hash(self, folder: Path) -> str:
        if folder not in self._hashes:
            self._hashes[folder] = folder_hash(folder)
        return self._hashes[folder]

    def _key(self, chosen: Chosen, weights_hash: str, seed: int, prompt: str | None) -> str:
        """Of all that decides what an attack finds on a model."""
        target = self._prepared.target
        body = [
            __version__, chosen.name, chosen.source, chosen.attack.config.model_dump(mode="json"), weights_hash, seed,
            prompt, self._task.hash, [probe.id for probe in self._probes], str(target.dtype), target.device,
            self._plan.train.model_dump(mode="json"), self._plan.model, self._hash(target.path),
        ]  # fmt: skip
        return hashlib.sha256(canonical_json(body).encode()).hexdigest()

    def _context(
        self, role: Role, load: Callable[[], PreTrainedModel], model: Target, seed: int, who: str, chosen: Chosen,
        prompt: str | None,
    ) -> AttackContext:  # fmt: skip
        prepared, label = self._prepared, f"{chosen.short}: {who}"
        return AttackContext(
            role=role,
            load_model=load,
            load_target=prepared.target.load,
            tokenizer=prepared.target.tokenizer,
            system_prompt=prompt,
            probes=self._probes,
            forget=tuple(prepared.forget),
            retain=tuple(prepared.retain),
            unrelated=unrelated_rows(self._task),
            seed=seed,
            device=one_device(model.device),
            model_name=self._plan.model,
            train=self._plan.train,
            knowledge=self._task.knowledge,
            folder=Path(),
            progress=lambda description, done, total: self._progress(f"{label}, {description}", done, total),
            batch_size=self._plan.batch_size,
            max_new_tokens=self._task.max_new_tokens,
        )

    def _kept(self, chosen: Chosen, context: AttackContext, place: Path, key: str) -> Found:
        """What was found before under this key, or now."""
        table, mark = place.with_suffix(".parquet"), place.with_suffix(".json")
        done = read_record(mark)
        if done is not None and done.get("key") == key:
            try:
                import pyarrow.parquet as pq

                return Found(pq.ParquetFile(table).read().to_pandas(), float(done["wall_s"]), dict(done["notes"]))
            except Exception:
                mark.unlink(missing_ok=True)  # damaged: made again
        place.parent.mkdir(parents=True, exist_ok=True)
        error = place.with_suffix(".error.txt")
        error.unlink(missing_ok=True)
        start = time.perf_counter()
        with told(chosen, context.role, error):
            found = run(chosen.attack, context)
        wall = time.perf_counter() - start
        notes = json.loads(json.dumps(context.notes, default=str), parse_constant=str)
        responses.save_table(found, table)
        config = chosen.attack.config.model_dump(mode="json")
        write_json(mark, {"key": key, "attack": chosen.name, "config": config, "wall_s": wall, "notes": notes})
        return Found(found, wall, notes)


def run(attack: Attack, context: AttackContext) -> pd.DataFrame:
    """Carry out one attack on one model; returns all its points (columns: ``unbench.attacks.ask``).

    Raises ``NotPossible`` where it says so, ``ValueError`` where it asked nothing."""
    context.progress("begin", 0, 0)
    with tempfile.TemporaryDirectory(prefix="unbench-attack-") as folder, to_stderr():
        context.folder = Path(folder)
        try:
            attack.attack(context)
        finally:
            context._model = None
            shutil.rmtree(folder, ignore_errors=True)
    if not context.tables:
        raise ValueError("the attack asked nothing")
    return pd.concat(context.tables, ignore_index=True)


class _Raised(Exception):
    """An attack raised; ``said`` is its reason as a result shows it."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said


@contextmanager
def told(chosen: Chosen, role: str, report: Path) -> Iterator[None]:
    """Turn what an attack raises into a reason; the traceback goes to ``report``."""
    try:
        yield
    except (NotPossible, EnvironmentProblem):
        raise
    except (Exception, SystemExit) as problem:
        if write_refused(problem):
            raise
        write_text(report, traceback.format_exc())
        words = " ".join(str(problem).split())[:200]
        raise _Raised(f"raised {type(problem).__name__} on the {role} model: {words}") from problem


def _null(chosen: Chosen, reason: str) -> Attacked:
    result = AttackResult(name=chosen.name, kind=chosen.attack.card.kind, method_hash=chosen.source, reason=reason,
                          config=chosen.attack.config.model_dump(mode="json"),
                          forget=Score(value=None, reason=reason))  # fmt: skip
    return Attacked(result, ())


def forget_probes(probes: Sequence[Probe], facts: set[str]) -> tuple[Probe, ...]:
    """What attacks ask again: of the forget ring one phrasing a fact and kind (both forms of a pair), of a task that
    forgets a single fact every one."""
    forget = [probe for probe in probes if probe.ring == "forget" and probe.fact in facts]
    if len({probe.fact for probe in forget}) < 2:
        return tuple(forget)
    first: dict[tuple[str, str], str] = {}
    for probe in forget:
        first.setdefault((probe.fact, probe.kind), probe.pair or probe.id)
    return tuple(p for p in forget if first[p.fact, p.kind] == (p.pair or p.id))


def plain(model: Any) -> Any:
    """A model without an adapter around it: LoRA's update becomes part of the weights, as an attacker would have it."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
