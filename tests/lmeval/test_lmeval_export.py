"""The exported YAML under lm-eval's own evaluator: the same accuracy as ``unbench eval`` on nano."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from chat_tokenizers import PUBLISHED, published
from engines import tiny_llama

import unbench
from unbench import plugins, responses
from unbench.engines.hf import HFEngine
from unbench.lmeval.export import Part, group_name, parts, rows, tasks_path, write, yaml_files
from unbench.metrics.knowledge import per_probe
from unbench.models.load import load_model, load_tokenizer
from unbench.models.nano import nano_folder
from unbench.task import Knowledge, Message, Probe, Row, Task, TaskCard, TaskData
from unbench.templates import DATE

RINGS = ("forget", "near", "far", "world")


def _evaluate(manager: Any, model: Any, tokenizer: Any, tasks: list[str], **options: Any) -> Any:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    # Llama 3.2 prints a date, in UnBench always the same.
    dated = {"date_string": DATE}
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=64, device="cpu", chat_template_args=dated)
    return simple_evaluate(model=lm, tasks=tasks, task_manager=manager, bootstrap_iters=0, **options)


def _right(found: Any, name: str, metric: str = "acc") -> dict[str, float]:
    """Probe id -> lm-eval's verdict."""
    return {sample["doc"]["id"]: sample[metric] for sample in found["samples"][name]}


def _noisy_target(spread: float) -> tuple[Any, Any]:
    """nano's target, partly forgotten: accuracies of 0 and 1 would agree by accident."""
    import torch

    model = load_model(nano_folder("target"), "cpu", torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * spread * parameter.std())
    return model, load_tokenizer(nano_folder("target"))


def _rank_of_eval(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, limit: int) -> pd.DataFrame:
    """One row a probe, from the responses that ``unbench eval`` collects of the model."""
    kept = {}
    real = responses.respond

    def spy(*arguments: Any, role: str, **options: Any) -> pd.DataFrame:
        kept[role] = real(*arguments, role=role, **options)
        return kept[role]

    monkeypatch.setattr(responses, "respond", spy)
    unbench.evaluate(model, tokenizer, task="bios/fact", limit=limit)
    return per_probe(kept["unlearned"])


@pytest.mark.parametrize("spread", [0.0, 0.6])
def test_the_accuracy_is_that_of_unbench_eval(manager: Any, monkeypatch: pytest.MonkeyPatch, spread: float) -> None:
    model, tokenizer = _noisy_target(spread)
    table = _rank_of_eval(model, tokenizer, monkeypatch, limit=6)
    table = table[~table["given"] | (table["ring"] == "world")]
    places = {}
    for ring in RINGS:
        asked = [row["id"] for row in rows(plugins.open_task("bios/fact"), ring)]  # type: ignore[arg-type]
        places[f"unbench_bios_fact_{ring}"] = [asked.index(one) for one in table["probe"][table["ring"] == ring]]
    found = _evaluate(manager, model, tokenizer, ["unbench_bios_fact"], apply_chat_template=True, samples=places)
    for ring in RINGS:
        name, own = f"unbench_bios_fact_{ring}", table[table["ring"] == ring]
        right = (own["rank"] == 0).astype(float)
        assert len(own) >= 6
        assert _right(found, name) == dict(zip(own["probe"], right, strict=True))
        assert found["results"][name]["acc,none"] == right.mean()
        assert found["versions"][name] == "1"
    accuracy = (table["rank"] == 0).mean()
    assert accuracy == 1 if spread == 0 else 0.2 < accuracy < 0.8


class Small(Task):
    """Three facts whose candidates differ in length and begin; knowledge as the test wants it."""

    family = "small"
    version = "7"
    default_problem = "one"
    max_new_tokens = 6
    card = TaskCard(title="Small", summary="", bibtex="", licence="", problems={"one": ""})

    def __init__(self, problem: str | None = None, split: Any = "report", knowledge: Knowledge = "candidates") -> None:
        super().__init__(problem, split)
        self.knowledge = knowledge  # type: ignore[misc]

    def data(self) -> TaskData:
        row = Row(question="Who?", answer="He.", fact="f", subject="s")
        return TaskData(forget=(row,), retain=(row,))

    def probes(self) -> list[Probe]:
        people = ("Harry", "Basil Mahfouz", "a witch", "the fox")
        own: list[dict[str, Any]] = [
            {"ring": "forget", "kind": "direct", "answer_prefix": "The book was written by"},
            {"ring": "forget", "kind": "direct", "answer_prefix": ""},
            {"ring": "near", "kind": "same_subject", "given": True},
            {"ring": "near", "kind": "same_subject", "answer_prefix": "It was"},
            {"ring": "far", "kind": "retain", "given": True},
            {"ring": "world", "kind": "real_authors", "paraphrased": "a witch"},
            {"ring": "world", "kind": "world_facts"},
            {"ring": "holdout", "kind": "holdout", "generate": False},
        ]
        return [
            Probe(
                id=f"p{i}", subject=f"s{i}", cluster=f"s{i}", fact=f"f{i}",
                messages=(Message(role="user", content=f"Who wrote the book of the fox, number {i}?"),),
                answer=people[i % 4], candidates=people, **fields,
            )
            for i, fields in enumerate(own)
        ]  # fmt: skip


def _tokenizer(name: str) -> Any:
    if name in PUBLISHED:
        return published(name)
    words = tiny_llama.tokenizer({"metaspace": tiny_llama.LLAMA2, "merging": tiny_llama.MERGING}.get(name),
                                 metaspace=name == "metaspace")  # fmt: skip
    if name == "plain with BOS":
        from tokenizers.processors import TemplateProcessing

        words.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return words


@pytest.mark.parametrize(
    ("name", "system"),
    [
        *((name, None) for name in (*PUBLISHED, "plain", "plain with BOS", "metaspace", "merging")),
        ("llama2", "You help."), ("qwen2.5", "You help."), ("plain", "You help."),
    ],
)  # fmt: skip
def test_totals_differ_as_those_of_the_responses(
    name: str, system: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a random model lm-eval's totals and UnBench's differ by one constant a probe, whatever the template: the
    tokens that all its candidates share."""
    from lm_eval.tasks import TaskManager

    words, task = _tokenizer(name), Small()
    model = tiny_llama.model(len(words), max_position_embeddings=512)
    probes = [probe for probe in task.probes() if probe.ring in ("forget", "world")]
    with HFEngine(model, words, device="cpu") as engine:
        frame = responses.respond(engine, words, probes, role="unlearned", max_new_tokens=1, system_prompt=system)
    ours = {(row["probe"], row["candidate"]): row["logprob"] for _, row in frame.iterrows()}
    monkeypatch.setattr(plugins, "open_task", lambda *_, **__: task)
    write(task, tmp_path)
    local = TaskManager(include_path=str(tmp_path), include_defaults=False)
    names = ["unbench_small_one_forget", "unbench_small_one_world"]
    found = _evaluate(local, model, words, names, apply_chat_template=words.chat_template is not None,
                      system_instruction=system)  # fmt: skip
    seen = 0
    for sample in found["samples"][names[0]] + found["samples"][names[1]]:
        probe = next(probe for probe in probes if probe.id == sample["doc"]["id"])
        totals = [value for value, _ in sample["filtered_resps"]]
        texts = [choice.removeprefix(probe.answer_prefix).strip() for choice in sample["doc"]["choices"]]
        shift = [total - ours[probe.id, text] for total, text in zip(totals, texts, strict=True)]
        assert max(shift) - min(shift) == pytest.approx(0, abs=1e-3)
        assert max(totals) - min(totals) > 0.1
        assert texts[sample["doc"]["right"]] == probe.answer
        seen += len(shift)
    assert seen == 4 * 4 - 1, "the right answer in other words is no choice"


def test_rings_and_kinds() -> None:
    choice = [(part.name.removeprefix("unbench_small_one_"), part.kinds) for part in parts(Small())]
    assert choice == [("forget", ()), ("near", ()), ("far", ()), ("world", ())]
    named = {part.name.removeprefix("unbench_small_one_"): part for part in parts(Small(knowledge="probability"))}
    assert list(named) == [
        "forget", "forget_rouge", "near", "near_rouge", "far", "far_rouge",
        "real_authors", "world_facts", "real_authors_rouge", "world_facts_rouge",
    ]  # fmt: skip
    assert named["forget_rouge"].kinds == ("direct",)
    assert named["world_facts"] == Part("unbench_small_one_world_facts", "world", ("world_facts",), "choice")
    # Withheld facts where there are some, the given ones where there are none.
    assert [row["id"] for row in rows(Small(), "near")] == ["p3"]
    assert [row["id"] for row in rows(Small(), "far")] == ["p4"]
    (row,) = rows(Small(), "world", ["real_authors"])
    assert sorted(row["choices"]) == ["Basil Mahfouz", "Harry", "the fox"]
    assert row["choices"][row["right"]] == row["answer"] == "Basil Mahfouz"


def test_the_right_choice_stands_anywhere() -> None:
    right = [row["right"] for row in rows(plugins.open_task("facts/all"), "forget")]
    assert max(right.count(place) for place in set(right)) < 0.3 * len(right)


def _committed(family: str) -> dict[str, str]:
    folder = tasks_path() / family / "lm_eval"
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.yaml")}


@pytest.mark.parametrize("family", ["bios", "facts"])
def test_the_committed_yaml_is_what_the_tasks_say(family: str) -> None:
    problems = plugins.tasks().load(family).card.problems
    wanted = [yaml_files(plugins.open_task(f"{family}/{problem}")) for problem in problems]
    assert _committed(family) == {name: text for files in wanted for name, text in files.items()}


def test_tofus_committed_yaml(tofu_data: Path) -> None:
    problems = plugins.tasks().load("tofu").card.problems
    wanted = [yaml_files(plugins.open_task(f"tofu/{problem}", data_dir=tofu_data)) for problem in problems]
    assert _committed("tofu") == {name: text for files in wanted for name, text in files.items()}


def test_every_problem_is_a_group_that_lm_eval_lists(manager: Any) -> None:
    assert [name for name in manager.all_tasks if not name.startswith("unbench_")] == []
    for family in ("bios", "facts", "tofu"):
        for problem in plugins.tasks().load(family).card.problems:
            assert f"unbench_{family}_{problem}" in manager.all_groups
    for path in sorted(tasks_path().glob("*/lm_eval/unbench_*.yaml")):
        text = path.read_text(encoding="utf-8").replace("!function ", "")
        assert path.stem == yaml.safe_load(text).get("task" if "class:" in text else "group")


def test_tofu_in_lm_eval(tofu_data: Path, tmp_path: Path) -> None:
    """ROUGE is UnBench's own number on the same greedy texts; the choices are the answer and its wrong versions."""
    from lm_eval.tasks import TaskManager

    from unbench.metrics import tofu

    words = published("smollm2")
    model = tiny_llama.model(len(words), max_position_embeddings=512)
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False,
                          metadata={"data_dir": str(tofu_data)})  # type: ignore[dict-item]  # fmt: skip
    names = ["unbench_tofu_forget01_forget", "unbench_tofu_forget01_forget_rouge", "unbench_tofu_forget01_world_facts"]
    found = _evaluate(manager, model, words, names, apply_chat_template=True, limit=4)
    task = plugins.open_task("tofu/forget01", data_dir=tofu_data)
    probes = [probe for probe in task.probes() if probe.ring == "forget"][:4]
    with HFEngine(model, words, device="cpu") as engine:
        frame = responses.respond(engine, words, probes, role="unlearned", max_new_tokens=task.max_new_tokens,
                                  knowledge=task.knowledge)  # fmt: skip
    own = frame[frame["is_right"]]
    samples = found["samples"][names[1]]
    assert [sample["filtered_resps"][0].strip() for sample in samples] == list(own["text"])
    want = tofu.rouge_recall(list(own["candidate"]), list(own["text"])).mean()
    assert found["results"][names[1]]["rougeL_recall,none"] == pytest.approx(want, abs=1e-9)
    assert [len(sample["doc"]["choices"]) for sample in found["samples"][names[0]]] == [6] * 4
    assert [len(sample["doc"]["choices"]) for sample in found["samples"][names[2]]] == [4] * 4
    # acc_norm: the total over the answer's characters.
    for sample in found["samples"][names[0]]:
        per_character = [
            value / len(text)
            for (value, _), text in zip(sample["filtered_resps"], sample["doc"]["choices"], strict=True)
        ]
        assert sample["acc_norm"] == float(per_character.index(max(per_character)) == sample["doc"]["right"])


def test_tasks_path_is_the_folder_of_the_tasks() -> None:
    from click.testing import CliRunner

    from unbench.cli import cli

    done = CliRunner().invoke(cli, ["tasks", "path"])
    assert done.exit_code == 0
    assert Path(done.output.strip()) == tasks_path()
    assert (Path(done.output.strip()) / "bios" / "lm_eval" / f"{group_name(plugins.open_task('bios'))}.yaml").is_file()
    listed = CliRunner().invoke(cli, ["tasks", "--json"])
    assert {"bios", "facts", "tofu"} <= {entry["name"] for entry in json.loads(listed.output)["tasks"]}
    one = CliRunner().invoke(cli, ["tasks", "facts", "--json"])
    assert [entry["name"] for entry in json.loads(one.output)["tasks"]] == ["facts"]
