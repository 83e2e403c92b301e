"""The attack step of a run: after its record, adding to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unbench.attacks.choose import Chosen, choose
from unbench.attacks.harness import Attacked, Harness
from unbench.attacks.worst import worst
from unbench.errors import UsageError
from unbench.method import Progress
from unbench.metrics.table import lay_out
from unbench.results.schema import AttackPoint, Result
from unbench.results.store import RunFolder, read_record, write_json

if TYPE_CHECKING:
    import pandas as pd

    from unbench.models.load import Target
    from unbench.models.prepare import Models, Prepared
    from unbench.plan import Plan
    from unbench.task import Task


def attack_step(
    plan: Plan,
    task: Task,
    models: Models,
    prepared: Prepared,
    folder: RunFolder,
    result: Result,
    tables: Mapping[int, pd.DataFrame],
    progress: Progress,
    settings: Mapping[str, Any] | None = None,
) -> Result:
    """The result with what the plan's attacks got back, in the run's folder too. ``tables``: seed -> responses of the
    unlearned model. ``settings``: ``attack.key`` -> value."""
    chosen = choose(plan.attacks, plan.model, settings, plan.plugins)
    harness = Harness(plan, task, prepared, reference_of(plan, task, models), progress)
    seeds = [(seed, folder.seed(seed)) for seed in plan.seeds]
    found = [harness.carry_out(one, seeds) for one in chosen]
    # Those of an earlier call that are not asked for now are kept.
    now = {one.result.name for one in found}
    kept = [one for one in _earlier(plan, folder) if one.name not in now]
    found += [harness.carry_out(one, seeds) for one in kept]
    # And the reasons why others could not be carried out.
    now |= {one.name for one in kept}
    found += [Attacked(one, ()) for one in result.attacks if not one.points and one.name not in now]
    result = with_attacks(result, task, prepared, tables, found, harness.unattacked(tables))
    write_json(folder.result_file, result.model_copy(update={"dir": ""}).model_dump(mode="json", by_alias=True))
    return result


def with_attacks(
    result: Result,
    task: Task,
    prepared: Prepared,
    tables: Mapping[int, pd.DataFrame],
    found: Sequence[Attacked],
    unattacked: AttackPoint | None = None,
) -> Result:
    """The result with these attacks and the scores under the worst of them."""
    done = [(one.result.name, one.points) for one in found if one.points]
    table = lay_out(tables, prepared.target_responses, prepared.references, task.knowledge, task.target == "given")
    return result.model_copy(
        update={
            "attacks": sorted((one.result for one in found), key=lambda one: one.name),
            "worst": worst(table, done, unattacked) if done else None,
        }
    )


def reference_of(plan: Plan, task: Task, models: Models) -> Target | None:
    """A model that never knew what is forgotten: the first reference of the plan, nano's own, or None where the target
    is given."""
    from unbench.models.load import Target
    from unbench.models.nano import nano_folder
    from unbench.models.prepare import ships_references

    if models.references:
        return models.references[0]
    if ships_references(plan, task, models):
        return Target(nano_folder("reference"), models.target.device, models.target.dtype)
    return None


def _earlier(plan: Plan, folder: RunFolder) -> list[Chosen]:
    """Attacks that every seed of the run has been through, with the settings that they had."""
    configs: dict[str, dict[str, Any]] = {}
    by_seed = []
    for seed in plan.seeds:
        marks = [found for mark in folder.seed(seed).attacks.glob("*.json") if (found := read_record(mark))]
        configs |= {str(one["attack"]): dict(one["config"]) for one in marks if {"attack", "config"} <= one.keys()}
        by_seed.append({str(one.get("attack")) for one in marks})
    kept = []
    for name in sorted(configs.keys() & set.intersection(*by_seed)):
        try:
            settings = {f"{name}.{key}": value for key, value in configs[name].items()}
            kept += choose([name], plan.model, settings, plan.plugins)
        except UsageError:
            continue  # a plugin, or a setting, that is no longer there
    return kept
