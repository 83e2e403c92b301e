"""Write ``baselines/tuned.yaml``, the defaults that ship, from the trials in ``benchmarks/tuning``: nothing is copied
by hand. Made anew after 'unbench tune METHOD --task bios/fact --trials N --write benchmarks/tuning' of every method.

    python benchmarks/tuned_defaults.py
"""

from __future__ import annotations

from pathlib import Path

import yaml

from unbench.plugins import methods
from unbench.tuned import as_defaults, read_tuned

HEAD = "# Written by benchmarks/tuned_defaults.py from the trials in benchmarks/tuning: model, method, settings.\n"


def main() -> None:
    root = Path(__file__).resolve().parent
    records = [read_tuned(file) for file in sorted((root / "tuning").glob("*.json"))]
    registry = methods()
    published = {plugin.name: registry.load_plugin(plugin) for plugin in registry.plugins if plugin.built_in}
    found = as_defaults(records, published)
    text = HEAD + yaml.safe_dump(found, sort_keys=True, allow_unicode=True)
    (root.parent / "baselines" / "tuned.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
