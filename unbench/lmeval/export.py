"""UnBench's tasks as YAML for lm-eval: one group a problem, one lm-eval task a ring.

    lm_eval --model hf --model_args pretrained=FOLDER --apply_chat_template \
        --include_path "$(unbench tasks path)" --tasks unbench_bios_fact

The YAML only names the problem and the ring: its rows are those of the installed task (``unbench.lmeval.probes``), so
they can't drift apart. ``python -m unbench.lmeval.export`` writes the files of the built-in tasks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from unbench.task import Probe, Ring, Task

Ask = Literal["choice", "rouge"]
"""``choice``: which candidate is the likeliest. ``rouge``: how much of the answer stands in the greedy text."""

_HEAD = "# Written by `python -m unbench.lmeval.export`; the task's README says what the numbers are.\n"
_TASK = """\
task: {name}
class: !function unbench.lmeval.probes.ProbeTask
dataset_kwargs:
  task: {problem}
  ring: {ring}
{kinds}  ask: {ask}
test_split: test
doc_to_text: question
{how}num_fewshot: 0
metadata:
  version: "{version}"
"""
_CHOICE = """\
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: right
target_delimiter: " "
metric_list:
  - {{metric: {metric}, aggregation: mean, higher_is_better: true}}
"""
_ROUGE = """\
output_type: generate_until
doc_to_target: answer
generation_kwargs: {{do_sample: false, until: [], max_gen_toks: {tokens}}}
process_results: !function unbench.lmeval.probes.rouge_recall
metric_list:
  - {{metric: rougeL_recall, aggregation: mean, higher_is_better: true}}
"""


@dataclass(frozen=True)
class Part:
    """Some probes of one problem, asked in one way: one lm-eval task."""

    name: str
    ring: Ring
    kinds: tuple[str, ...]
    """Only these kinds of probe; all of the ring's where empty."""
    ask: Ask


def tasks_path() -> Path:
    """The folder for lm-eval's ``--include_path``: the built-in tasks, in the checkout or in the installed package."""
    from importlib.resources import files

    return Path(str(files("unbench_tasks")))


def group_name(task: Task) -> str:
    """``unbench_bios_fact`` for ``bios/fact``."""
    return f"unbench_{task.id.replace('/', '_')}"


def parts(task: Task) -> list[Part]:
    """The lm-eval tasks of a problem, in the order of the rings. Reads the task's probes.

    A task whose knowledge is a probability also has its greedy answers compared with the right ones (ROUGE-L recall);
    its questions on the world stand apart by kind, as TOFU reports them.
    """
    group = group_name(task)
    found = []
    for ring in get_args(Ring):
        kinds = dict.fromkeys(probe.kind for probe in task.probes() if probe.ring == ring)
        if not kinds or ring == "holdout":
            continue
        if task.knowledge == "candidates":
            found.append(Part(f"{group}_{ring}", ring, (), "choice"))
            continue
        own = [(kind, (kind,)) for kind in kinds] if ring == "world" else [(ring, ())]
        found += [Part(f"{group}_{name}", ring, only, "choice") for name, only in own]
        # The published forget ROUGE is that of the questions as trained.
        own = [(ring, ("direct",))] if ring == "forget" and "direct" in kinds else own
        found += [Part(f"{group}_{name}_rouge", ring, only, "rouge") for name, only in own]
    return [part for part in found if rows(task, part.ring, part.kinds, part.ask)]


def rows(task: Task, ring: Ring, kinds: Sequence[str] = (), ask: Ask = "choice") -> list[dict[str, Any]]:
    """The probes of one ring as lm-eval's documents: the withheld ones, or all where nothing is withheld.

    Keys: id, ring, kind, given, turns (chat turns), question (the last user turn), answer, and for ``choice`` the
    choices (each a whole answer, its prefix included) and right (index of the right one). The right answer in other
    words is no choice. Probes with one candidate, or whose greedy answer isn't wanted, are left out where that is
    asked for.
    """
    chosen = [probe for probe in task.probes() if probe.ring == ring and (not kinds or probe.kind in kinds)]
    if not all(probe.given for probe in chosen):
        chosen = [probe for probe in chosen if not probe.given]
    documents = (_document(probe, ask) for probe in chosen if ask == "choice" or probe.generate)
    return [document for document in documents if ask == "rouge" or len(document["choices"]) > 1]


def _document(probe: Probe, ask: Ask) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": probe.id,
        "ring": probe.ring,
        "kind": probe.kind,
        "given": probe.given,
        "turns": [{"role": turn.role, "content": turn.content} for turn in probe.messages],
        "question": probe.messages[-1].content,
        "answer": probe.answer,
    }
    if ask == "choice":
        # lm-eval takes the first of equals, and the first of NaNs: the right answer must not always stand first.
        kept = sorted(_choices(probe), key=lambda text: hashlib.sha256(f"{probe.id}\0{text}".encode()).digest())
        document["choices"] = [_whole(probe, text) for text in kept]
        document["right"] = kept.index(probe.answer)
    return document


def _choices(probe: Probe) -> list[str]:
    return [text for text in probe.candidates if text == probe.answer or text != probe.paraphrased]


def _whole(probe: Probe, candidate: str) -> str:
    return " ".join(text for text in (probe.answer_prefix, candidate) if text)


def yaml_files(task: Task) -> dict[str, str]:
    """File name -> text of every YAML file of a problem: its lm-eval tasks and the group of them."""
    found = parts(task)
    files = {f"{part.name}.yaml": _HEAD + _task_yaml(task, part) for part in found}
    members = "".join(f"  - {part.name}\n" for part in found)
    group = f'group: {group_name(task)}\ntask:\n{members}metadata:\n  version: "{task.version}"\n'
    return {f"{group_name(task)}.yaml": _HEAD + group, **files}


def _task_yaml(task: Task, part: Part) -> str:
    if part.ask == "rouge":
        how = _ROUGE.format(tokens=task.max_new_tokens)
    else:
        # Total log-probability ranks candidates of one form; where they are not, it would rank them by their length.
        how = _CHOICE.format(metric="acc" if task.knowledge == "candidates" else "acc_norm")
    kinds = f"  kinds: [{', '.join(part.kinds)}]\n" if part.kinds else ""
    return _TASK.format(
        name=part.name, problem=task.id, ring=part.ring, kinds=kinds, ask=part.ask, how=how, version=task.version
    )


def write(task: Task, folder: Path) -> list[Path]:
    """Write a problem's YAML files into ``folder`` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in yaml_files(task).items():
        (folder / name).write_text(text, encoding="utf-8")
        written.append(folder / name)
    return written


def main(families: Iterable[str]) -> None:
    """Write the YAML of every problem of the built-in ``families`` into their folders of the checkout."""
    from unbench import plugins

    for family in families:
        for problem in plugins.tasks().load(family).card.problems:
            for path in write(plugins.open_task(f"{family}/{problem}"), tasks_path() / family / "lm_eval"):
                print(path)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:] or ("bios", "facts", "tofu"))
