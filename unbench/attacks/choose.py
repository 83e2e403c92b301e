"""Which attacks a run tries, and with which settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from unbench import plugins
from unbench.attack import Attack
from unbench.errors import UsageError
from unbench.plan import first_error
from unbench.pluginfile import PluginFile
from unbench.plugins import Registry
from unbench.results.record import source_hash

SETS = ("all", "default", "none")


@dataclass(frozen=True)
class Chosen:
    """One attack with its settings."""

    name: str
    """Qualified, distribution:attack."""
    attack: Attack
    source: str
    """SHA-256 over its source file."""

    @property
    def short(self) -> str:
        return self.name.rpartition(":")[2]

    @property
    def file_name(self) -> str:
        """Name of its files in a run; a stranger's may share its short name with a built-in."""
        return attack_file_name(self.name)


def attack_file_name(name: str) -> str:
    """Of an attack's qualified name."""
    return name.removeprefix(f"{plugins.OWN}:").replace(":", "--")


def attack_names(asked: Sequence[str], files: Sequence[PluginFile] = ()) -> tuple[str, ...]:
    """Qualified names of the attacks asked for: names, or one of ``all``, ``default`` and ``none``; attacks of the
    plugin files are always among them unless ``none`` is asked.

    Raises ``UsageError`` for one that isn't there."""
    registry = plugins.attacks(files)
    own = [plugin.qualified for plugin in registry.plugins if plugin.from_file]
    if "none" in asked:
        if len(asked) > 1:
            raise UsageError("--attacks none goes with nothing else.", "Leave out the others, or none.")
        return ()
    found: list[str] = []
    for name in asked:
        if name == "all":
            found += [plugin.qualified for plugin in registry.plugins if plugin.built_in]
        elif name == "default":
            found += [p.qualified for p in registry.plugins if p.built_in and registry.load_plugin(p).default]
        else:
            found.append(registry.find(name).qualified)
    return tuple(dict.fromkeys([*found, *own]))


def choose(
    names: Sequence[str], model: str, settings: Mapping[str, Any] | None = None, files: Sequence[PluginFile] = ()
) -> list[Chosen]:
    """The attacks of these names with the settings for ``model`` and those given (``attack.key`` -> value).

    Raises ``UsageError`` for a setting or an attack that isn't there."""
    registry = plugins.attacks(files)
    given: dict[str, dict[str, Any]] = {}
    for key, value in (settings or {}).items():
        attack, dot, field = key.rpartition(".")
        if not dot:
            raise UsageError(
                f"--set {key} names no attack.", "Give attack.setting=value: relearn_heldout.batch_size=4."
            )
        given.setdefault(registry.find(attack).qualified, {})[field] = value
    idle = [name for name in given if name not in names]
    if idle:
        raise UsageError(f"--set names {idle[0]}, which is not among the attacks.", "Add it to --attacks.")
    return [_chosen(registry, name, model, given.get(name, {})) for name in names]


def _chosen(registry: Registry[Attack], name: str, model: str, given: Mapping[str, Any]) -> Chosen:
    attack_class = registry.load(name)
    try:
        config = attack_class.Config.model_validate({**attack_class.for_model(model), **given})
    except ValidationError as problem:
        fields = ", ".join(attack_class.Config.model_fields) or "none"
        raise UsageError(f"Attack {name}: {first_error(problem)}", f"It has: {fields}.") from problem
    return Chosen(name, attack_class(config), source_hash(attack_class, one_file=True))
