"""``--plugin file.py[:Class]``: what is taken, what is refused, what stands in the plan and is kept with the run."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from plugin_world import GOOD, nothing

import unbench
from unbench import plugins
from unbench.errors import EnvironmentProblem, UsageError
from unbench.plan import Plan, differing_fields, make_plan
from unbench.plugincard import describe_source
from unbench.pluginfile import classes_of, load_module, plugin_files

Write = Callable[[str, str], Path]


def test_the_single_method_of_a_file_is_taken(plugin: Write) -> None:
    path = plugin("good.py", GOOD)
    plan = make_plan(plugins=[path], settings={"margin": 3})
    assert plan.method == "file:good"
    assert plan.config["margin"] == 3.0
    (kept,) = plan.plugins
    assert kept.hash == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (kept.name, kept.path) == ("good.py", str(path))
    assert plan.public()["plugins"][0]["path"] is None
    assert make_plan("good", plugins=[path]).method == make_plan("file:good", plugins=str(path)).method == "file:good"
    assert make_plan("npo", plugins=[path]).method == "unbench:npo"


def test_the_run_id_follows_the_source_alone(plugin: Write, tmp_path: Path) -> None:
    first = make_plan(plugins=[plugin("good.py", GOOD)])
    (tmp_path / "elsewhere").mkdir()
    moved = make_plan(plugins=[f"{plugin('elsewhere/renamed.py', GOOD)}:Good"])
    assert moved.run_id == first.run_id
    changed = make_plan(plugins=[plugin("good.py", GOOD + "\n# another version\n")])
    assert changed.run_id != first.run_id
    assert any("plugins" in field for field in differing_fields(first.identity(), changed.identity()))
    assert make_plan("npo").run_id not in (first.run_id, changed.run_id)
    assert Plan.model_validate(json.loads(first.model_dump_json(by_alias=True))) == first


def test_a_file_is_run_once_under_a_name_with_its_hash(plugin: Write) -> None:
    before = list(sys.path)
    (file,) = plugin_files([plugin("a-b c.py", "import sys\nruns = []\nruns.append(__name__)\n")])
    module = load_module(file)
    assert load_module(file) is module
    assert sys.modules[module.__name__] is module
    assert file.hash[:16] in module.__name__
    assert module.runs == [module.__name__]
    assert sys.path == before


def test_a_file_that_changes_after_the_plan_is_refused(plugin: Write) -> None:
    path = plugin("good.py", GOOD + "# first\n")
    (file,) = plugin_files([path])
    path.write_text(GOOD + "# second\n")
    with pytest.raises(UsageError, match="has changed since the plan was made"):
        load_module(file)


def test_imported_and_abstract_classes_are_no_plugins(plugin: Write) -> None:
    source = GOOD + "\nfrom unbench_baselines.npo import NPO\n\n\nclass Base(LossMethod):\n    pass\n"
    (file,) = plugin_files([plugin("good.py", source)])
    assert [one.__name__ for one in classes_of(file, unbench.Method)] == ["Good"]


@pytest.mark.parametrize(
    ("name", "source", "wanted", "sentence"),
    [
        ("two.py", nothing("one") + nothing("two").replace("Nothing", "Two"), "", "hold 2 methods: one, two"),
        ("two.py", nothing("one") + nothing("one").replace("Nothing", "Two"), "", "'one' is there twice"),
        ("none.py", "x = 1\n", "", "defines no class"),
        ("none.py", "class A:\n    pass\n", ":B", "has no 'B'"),
        ("none.py", "class A:\n    pass\n", ":A", "'A' in the plugin none.py is not a subclass"),
        ("abstract.py", GOOD.replace("def forget_loss", "def forget_los"), "", "doesn't define forget_loss"),
        ("mine.py", nothing("npo"), "", "has the name of unbench:npo, and what is built in can't be overridden"),
        ("bad name.py", nothing("../up"), "", "can't be a folder's"),
    ],
)
def test_files_that_are_refused(plugin: Write, name: str, source: str, wanted: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        make_plan(plugins=[f"{plugin(name, source)}{wanted}"])
    assert sentence in str(refused.value)


def test_names_that_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("x = 1")
    for spec, sentence in (
        (tmp_path / "nowhere.py", "can't be read"),
        (tmp_path, "is a folder"),
        (tmp_path / "text.txt", "is no Python file"),
    ):
        with pytest.raises(UsageError, match=sentence):
            make_plan(plugins=[str(spec)])


def test_a_class_is_picked_by_its_name(plugin: Write) -> None:
    path = plugin("two.py", nothing("one") + nothing("two").replace("Nothing", "Two"))
    assert make_plan(plugins=[f"{path}:Two"]).method == "file:two"
    assert make_plan("one", plugins=[path]).method == "file:one"


def test_a_file_without_an_end_is_told_in_one_line(plugin: Write) -> None:
    with pytest.raises(EnvironmentProblem, match=r"can't be read as Python: line 1") as refused:
        make_plan(plugins=[plugin("broken.py", "def (:\n")])
    assert "\n" not in str(refused.value)


TASK = """
from unbench.task import Task, TaskCard, TaskData


class Mine(Task):
    family = "mine"
    version = "1"
    card = TaskCard(title="Mine", summary="", bibtex="@misc{mine}", licence="CC0", problems={"all": "everything"})
    default_problem = "all"
    target = "given"

    def data(self):
        return TaskData(forget=[], retain=[], withheld=[], holdout=[])

    def probes(self):
        return []
"""


def test_a_task_of_a_file(plugin: Write) -> None:
    path = plugin("mine.py", TASK)
    assert plugins.open_task("mine", files=[path]).id == "mine/all"
    plan = make_plan("none", "mine/all", plugins=[path])
    assert plan.open_task().id == "mine/all"
    with pytest.raises(UsageError, match="no task called 'mine'"):
        plugins.open_task("mine")


def test_a_run_keeps_the_file_and_its_page_knows_the_card(plugin: Write, tmp_path: Path) -> None:
    path = plugin("quiet.py", nothing("quiet") + "    # \u03b2, kept as it is\r\n")
    result = unbench.run(plugins=[path], limit=1, out=tmp_path / "runs")
    assert result.method == "file:quiet"
    assert (Path(result.dir) / "plugin.py").read_bytes() == path.read_bytes()
    assert result.plan["plugins"] == [
        {"name": "quiet.py", "hash": hashlib.sha256(path.read_bytes()).hexdigest(), "cls": None, "path": None}
    ]
    assert str(tmp_path) not in (Path(result.dir) / "result.json").read_text()
    cards = plugins.method_cards({result.method: result.dir})
    assert cards["file:quiet"].kind == "control"
    # The run goes on with the same file, and with another version of it is another run.
    again = unbench.run(plugins=[path], limit=1, out=tmp_path / "runs", resume=True)
    assert again.run_id == result.run_id


def test_what_a_source_says_without_running_it(plugin: Write) -> None:
    found = describe_source(plugin("good.py", GOOD + "\nraise SystemExit\n"), "good")
    assert found.card is None  # a module that always raises can't work
    found = describe_source(plugin("good.py", GOOD), "good")
    assert found.card is not None
    assert (found.card.paper, found.card.year, found.card.bibtex) == (
        "arXiv:0000.00001",
        2030,
        "@misc{good, title={Good}}",
    )
    assert (found.needs, found.tuned) == (("retain",), ("nano",))
    assert describe_source(plugin("good.py", GOOD), "other").card is None
