"""Tuning: the search itself on a made-up method of scoring, and the defaults that ship against their trials."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from unbench.errors import UsageError
from unbench.plan import make_plan
from unbench.plugins import methods
from unbench.results.schema import Compute, Score
from unbench.sweep.job import Job, Outcome
from unbench.sweep.pool import Watch
from unbench.tune import Study, objective, open_study, suggest, tune
from unbench.tuned import Trial, Tuned, as_defaults, choose, read_config, read_tuned, shipped, tuned_settings

Answer = Callable[[dict[str, Any]], Outcome]


class Fake:
    """Does jobs without a model: ``answer`` maps the plan's settings to an outcome; after ``stop`` of them it is
    interrupted, the last one under way."""

    def __init__(self, answer: Answer, stop: int | None = None) -> None:
        self._answer = answer
        self._stop = stop
        self.jobs: list[Job] = []

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *problem: object) -> None:
        """Nothing to close."""

    def run(self, jobs: Iterable[Job], watch: Watch) -> Iterator[Outcome]:
        for job in jobs:
            if len(self.jobs) == self._stop:
                raise KeyboardInterrupt
            self.jobs.append(job)
            yield self._answer(job.plan.config).model_copy(update={"key": job.key})


def outcome(value: float | None, tokens: int = 100, retain: float = 0.5) -> Outcome:
    names = {"forget": 0.8, "trace": 0.1, "retain": retain, "specificity": 0.9, "overall": value}
    zero = dict.fromkeys(("wall_s", "prepare_s", "respond_s", "measure_s"), 0.0)
    cost = Compute(**zero, unlearn_s=1.5, peak_memory_bytes=1, tokens_trained=tokens, tokens_generated=0,
                   trainable_parameters=1)  # fmt: skip
    scores = {name: Score(value=one, low=None, high=None, n=1, reason=None) for name, one in names.items()}
    return Outcome(key="", state="done", scores=scores, compute=cost)


def by_lr(config: dict[str, Any]) -> Outcome:
    """The highest learning rate with the fewest steps is best."""
    return outcome(config["lr"] * 1000 - config["steps"] / 1000)


@pytest.fixture
def study() -> Study:
    return Study("grad_diff")


def as_tried(record: Tuned) -> list[dict[str, Any]]:
    return [trial.settings for trial in record.trials]


# What is asked


def test_the_first_trial_is_the_present_defaults_and_all_have_one_budget(study: Study, tmp_path: Path) -> None:
    fake = Fake(by_lr)
    record = tune(study, 4, tmp_path, pool=fake)
    assert fake.jobs[0].plan.config == make_plan("grad_diff").config
    assert {job.plan.budget_tokens for job in fake.jobs} == {200_000} == {record.budget_tokens}
    assert {job.plan.split for job in fake.jobs} == {"select"} == {record.split}
    assert {job.plan.seeds for job in fake.jobs} == {(0,)}
    for job in fake.jobs[1:]:
        assert all(job.plan.config[key] in choices for key, choices in study.space.items())


def test_the_budget_is_the_callers(tmp_path: Path) -> None:
    assert Study("npo", budget_tokens=5).base.budget_tokens == 5
    assert Study("npo", "facts/hogwarts").base.budget_tokens is None


def test_the_report_set_is_refused() -> None:
    with pytest.raises(UsageError, match="select"):
        Study("npo", split="report")


@pytest.mark.parametrize(("method", "settings"), [("none", {}), ("gradient_ascent", {"lr": 1, "steps": 1, "batch_size": 1})])  # fmt: skip  # noqa: E501
def test_nothing_to_search(method: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="nothing to tune"):
        Study(method, settings=settings)


def test_what_is_fixed_is_not_searched(tmp_path: Path) -> None:
    fixed = Study("grad_diff", settings={"lr": 0.123})
    assert "lr" not in fixed.space
    fake = Fake(by_lr)
    tune(fixed, 3, tmp_path, pool=fake)
    assert {job.plan.config["lr"] for job in fake.jobs} == {0.123}
    assert fixed.folder_name != Study("grad_diff").folder_name


def test_own_choices_stand_in_for_the_declared_ones(tmp_path: Path) -> None:
    study = Study("npo", settings={"batch_size": 8}, search={"lr": [3e-4, "1e-3"], "warmup": [0.0, 0.2]})
    assert study.space["lr"] == [3e-4, 1e-3]  # as YAML reads 1e-3, and as a number
    assert study.space["warmup"] == [0.0, 0.2]
    assert study.space["beta"] == Study("npo").space["beta"]
    assert "batch_size" not in study.space
    assert study.folder_name != Study("npo", settings={"batch_size": 8}).folder_name
    fake = Fake(by_lr)
    record = tune(study, 6, tmp_path, pool=fake)
    assert record.space == study.space
    assert {job.plan.config["lr"] for job in fake.jobs} <= {3e-4, 1e-3, study.base.config["lr"]}
    assert all(trial.state == "done" for trial in record.trials)


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"lr": 3e-4}, "wants a list"),
        ({"lr": []}, "wants a list"),
        ({"lrr": [1]}, "no setting 'lrr'"),
        ({"beta": [0.1]}, "both name 'beta'"),
    ],
)
def test_bad_choices_are_refused(search: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Study("npo", settings={"beta": 0.1}, search=search)


def test_every_declared_space_fits_its_method() -> None:
    registry = methods()
    searched = []
    for plugin in registry.plugins:
        method = registry.load_plugin(plugin)
        for key, choices in method.space.items():
            assert len({repr(one) for one in choices}) == len(choices) > 1
            for choice in choices:
                method.Config.model_validate({key: choice})
        if method.space:
            searched.append(plugin.name)
            assert Study(plugin.name).defaults.keys() == method.space.keys()
    assert {"npo", "unstar", "grad_diff", "jensun"} <= set(searched)
    assert not {"none", "retrain", "sham", "prompt_guard", "retain_only"} & set(searched)


# How it is searched


def test_nothing_is_tried_twice_and_a_small_space_ends() -> None:
    space = {"a": [1, 2], "b": [0.1, 0.2, 0.3]}
    tried: list[dict[str, Any]] = []
    while (drawn := suggest(space, [], tried, f"7/{len(tried)}")) is not None:
        assert drawn not in tried
        tried.append(drawn)
    assert len(tried) == 6


def test_a_choice_may_be_a_mapping(tmp_path: Path) -> None:
    settings = {"lr": 1e-4, "steps": 5, "batch_size": 15, "gamma": 1.0, "rho": 0.1}
    record = tune(Study("sam", settings=settings), 4, tmp_path, pool=Fake(by_lr))
    choices = methods().load("sam").space["inner_settings"]
    tried = as_tried(record)
    assert all({"inner_settings": one} in tried for one in choices)


def test_a_default_outside_the_space_is_tried_once(tmp_path: Path) -> None:
    study = Study("gradient_ascent", "facts/hogwarts", settings={"steps": 5})
    default = study.base.config["lr"]
    assert default == 1e-5
    study.space["lr"] = [1e-4, 3e-4]
    record = tune(study, 9, tmp_path, pool=Fake(by_lr))
    assert [trial.settings["lr"] for trial in record.trials].count(default) == 1
    assert len(record.trials) == 1 + 2 * len(study.space["batch_size"])


def test_a_space_smaller_than_the_trials(tmp_path: Path) -> None:
    study = Study("gradient_ascent", settings={"lr": 1e-4, "steps": 5})
    assert len(tune(study, 9, tmp_path, pool=Fake(by_lr)).trials) == len(study.space["batch_size"])


def test_the_sampler_learns() -> None:
    """After trials in which one value was always better, it is drawn more often than by chance."""
    space = {"a": [*range(10)]}
    past = [({"a": number % 10}, float(number % 10 == 3)) for number in range(40)]
    drawn = [suggest(space, past, [], f"{number}") for number in range(30)]
    assert sum(one == {"a": 3} for one in drawn) > 9


def test_stopped_and_started_again_it_tries_the_same(study: Study, tmp_path: Path) -> None:
    whole = tune(study, 7, tmp_path / "whole", pool=Fake(by_lr))
    for stop in (3, 1, 0):
        with pytest.raises(KeyboardInterrupt):
            tune(study, 7, tmp_path / "parts", pool=Fake(by_lr, stop))
    parts = tune(study, 7, tmp_path / "parts", pool=Fake(by_lr))
    assert [trial.trial for trial in parts.trials] == list(range(7))
    assert as_tried(parts) == as_tried(whole)
    assert parts.best == whole.best
    fake = Fake(by_lr)
    more = tune(study, 8, tmp_path / "parts", pool=fake)
    assert len(fake.jobs) == 1
    assert more.trials[:7] == parts.trials


def test_a_call_that_ended_before_its_trial_began(study: Study, tmp_path: Path) -> None:
    """What waits in the storage (or only has its first setting) is done, not counted as tried."""
    storage = tmp_path / "study.db"
    whole = tune(study, 4, tmp_path / "whole", pool=Fake(by_lr))
    tune(study, 2, tmp_path, storage=storage, pool=Fake(by_lr))
    kept = open_study(study, storage)
    kept.enqueue_trial(whole.trials[2].settings)
    assert tune(study, 2, tmp_path, storage=storage, pool=Fake(by_lr)).trials == whole.trials[:2]
    begun = kept.ask()
    begun.suggest_categorical("lr", study.space["lr"])
    assert tune(study, 4, tmp_path, storage=storage, pool=Fake(by_lr)).trials == whole.trials


def test_another_seed_tries_something_else(study: Study, tmp_path: Path) -> None:
    one = tune(study, 4, tmp_path, pool=Fake(by_lr))
    two = tune(Study("grad_diff", seed=1), 4, tmp_path, pool=Fake(by_lr))
    assert as_tried(one)[0] == as_tried(two)[0]
    assert as_tried(one)[1:] != as_tried(two)[1:]


# What is kept and chosen


def test_a_trial_that_fails_is_kept_and_the_rest_goes_on(study: Study, tmp_path: Path) -> None:
    def answer(config: dict[str, Any]) -> Outcome:
        if config["batch_size"] == 15:
            return Outcome(key="", state="failed", error="It ran out of memory.")
        return by_lr(config)

    record = tune(study, 6, tmp_path, pool=Fake(answer))
    states = {(trial.state, trial.settings["batch_size"] == 15) for trial in record.trials}
    assert states == {("failed", True), ("done", False)}
    assert {trial.error for trial in record.trials if trial.state == "failed"} == {"It ran out of memory."}
    assert record.config is not None
    assert record.config["batch_size"] == 30


def test_where_all_fail_nothing_is_chosen(study: Study, tmp_path: Path) -> None:
    record = tune(study, 2, tmp_path, pool=Fake(lambda config: Outcome(key="", state="failed", error="no")))
    assert record.best is None
    with pytest.raises(UsageError, match="succeeded"):
        read_config(tmp_path / study.folder_name / "tuned.json")


def test_the_best_is_chosen_and_a_tie_goes_to_fewer_tokens() -> None:
    def trial(number: int, value: float | None, tokens: int) -> Trial:
        return Trial(trial=number, state="done", settings={}, objective=value, tokens=tokens)

    few = trial(3, 0.9, 50)
    assert choose([trial(0, 0.8, 1), trial(1, 0.9, 60), trial(2, None, 0), few, trial(4, 0.9, 50)]) == few
    assert choose([]) is None


def test_without_overall_forget_and_retain_count() -> None:
    value, name = objective({"forget": 0.8, "retain": 0.4, "overall": None})
    assert value == pytest.approx(2 / (1 / 0.8 + 1 / 0.4))
    assert "forget and retain" in name
    assert objective({"forget": 0.0, "retain": 0.0, "overall": None})[0] == 0.0
    assert objective({"forget": 0.8, "retain": 0.4, "overall": 0.0}) == (0.0, "overall")
    assert objective({"forget": None, "retain": 0.4, "overall": None})[0] is None


def test_the_record_says_which(study: Study, tmp_path: Path) -> None:
    record = tune(study, 2, tmp_path, pool=Fake(lambda config: outcome(None, retain=config["lr"])))
    assert "forget and retain" in record.objective
    assert record.trials[0].tokens == 100
    assert record.trials[0].seconds == 1.5


def test_it_lies_in_optunas_storage(study: Study, tmp_path: Path) -> None:
    record = tune(study, 3, tmp_path, storage=tmp_path / "a b%20?.db", pool=Fake(by_lr))
    found = optuna.load_study(study_name=study.folder_name, storage=open_study(study, tmp_path / "a b%20?.db")._storage)
    assert [trial.value for trial in found.trials] == [trial.objective for trial in record.trials]
    assert found.best_trial.number == record.best


def test_a_file_that_is_no_storage(study: Study, tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("not a database, " * 100)
    with pytest.raises(UsageError, match="storage"):
        tune(study, 3, tmp_path, storage=tmp_path / "x.db", pool=Fake(by_lr))


def test_a_second_search_in_the_folder_is_refused(study: Study, tmp_path: Path) -> None:
    class Nested(Fake):
        def run(self, jobs: Iterable[Job], watch: Watch) -> Iterator[Outcome]:
            with pytest.raises(UsageError, match="Another search"):
                tune(study, 1, tmp_path, pool=Fake(by_lr))
            return super().run(jobs, watch)

    assert len(tune(study, 1, tmp_path, pool=Nested(by_lr)).trials) == 1


# What a run takes of it


def test_a_run_takes_the_chosen_settings(study: Study, tmp_path: Path) -> None:
    record = tune(study, 5, tmp_path, pool=Fake(by_lr))
    file = tmp_path / study.folder_name / "tuned.json"
    assert read_tuned(file) == record
    words = [sys.executable, "-m", "unbench", "run", "--config", str(file), "--set", "gamma=0.77", "--dry-run"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    plan = json.loads(done.stdout)
    assert record.config is not None
    assert plan["config"] == record.config | {"gamma": 0.77}
    assert plan["method"] == "unbench:grad_diff"
    assert plan["budget_tokens"] == 200_000


def test_a_plain_file_of_settings(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("lr: 1e-4\nsteps: 3\n")
    assert read_config(tmp_path / "s.yaml", "npo") == ("npo", {"lr": 1e-4, "steps": 3}, None)


@pytest.mark.parametrize("text", ["[1]", "{", '{"schema": "unbench.result/1"}', "", "\0"])
def test_a_file_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(UsageError):
        read_config(tmp_path / "s.json")


def test_it_is_for_one_method(study: Study, tmp_path: Path) -> None:
    tune(study, 1, tmp_path, pool=Fake(by_lr))
    file = tmp_path / study.folder_name / "tuned.json"
    assert read_config(file, "grad_diff")[0] == "unbench:grad_diff"
    with pytest.raises(UsageError, match="not for 'npo'"):
        read_config(file, "npo")


# The defaults that ship


def records(repository: Path) -> list[Tuned]:
    return [read_tuned(file) for file in sorted((repository / "benchmarks" / "tuning").glob("*.json"))]


def test_what_ships_is_what_the_trials_say(repository: Path) -> None:
    registry = methods()
    published = {plugin.name: registry.load_plugin(plugin) for plugin in registry.plugins if plugin.built_in}
    found = as_defaults(records(repository), published)
    assert found
    stored = yaml.safe_load((repository / "baselines" / "tuned.yaml").read_text(encoding="utf-8"))
    assert stored == found, "run: python benchmarks/tuned_defaults.py"
    assert shipped() == stored


def test_every_default_that_ships_is_its_best_trial(repository: Path) -> None:
    registry = methods()
    for record in records(repository):
        best = max((t for t in record.trials if t.objective is not None), key=lambda t: (t.objective, -(t.tokens or 0)))
        method = registry.load(record.method)
        config = method.Config.model_validate(tuned_settings(method, record.model)).model_dump(mode="json")
        assert best.config is not None
        assert {key: config[key] for key in best.config} == best.config, record.method
        assert record.best == best.trial
        assert record.split == "select"


def test_all_trials_that_ship_had_the_same_terms(repository: Path) -> None:
    terms = {(r.task, r.model, r.task_hash): set[Any]() for r in records(repository)}
    for r in records(repository):
        terms[(r.task, r.model, r.task_hash)].add((len(r.trials), r.budget_tokens, r.seed, canonical(r.train)))
    assert all(len(found) == 1 for found in terms.values())


def canonical(train: dict[str, Any]) -> str:
    return str(train["kind"])


def test_a_strangers_method_of_the_same_name_gets_none_of_it() -> None:
    base = methods().load("npo")
    stranger = type("NPO", (base,), {"__module__": "somewhere"})
    assert tuned_settings(base, "nano")
    assert tuned_settings(stranger, "nano") == {}
    own = type("NPO", (base,), {"__module__": "somewhere", "tuned": {"nano": {"lr": 1.0}}})
    assert tuned_settings(own, "nano") == {"lr": 1.0}


@pytest.mark.slow
def test_the_command_tunes(tmp_path: Path) -> None:
    words = ["tune", "gradient_ascent", "--trials", "2", "--set", "steps=2", "--json", "--write", "kept"]
    done = subprocess.run(
        [sys.executable, "-m", "unbench", *words], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    record = Tuned.model_validate_json(done.stdout)
    assert [trial.state for trial in record.trials] == ["done", "done"]
    assert all(trial.scores["overall"] is not None for trial in record.trials)
    assert read_tuned(tmp_path / "kept" / "bios-fact-gradient_ascent.json") == record


def test_shipped_settings_bring_their_budget_and_a_strangers_method_none() -> None:
    from unbench_baselines.npo import NPO

    from unbench.plan import make_plan
    from unbench.tuned import shipped, tuned_budget, tuned_settings

    entry = shipped()["nano"]["npo"]
    assert make_plan("npo", "bios/fact").budget_tokens == entry["budget_tokens"]
    assert make_plan("npo", "bios/fact", budget_tokens=7).budget_tokens == 7

    class Stranger(NPO):
        pass

    Stranger.__module__ = "somebody.else"
    assert tuned_settings(Stranger, "nano") == {}
    assert tuned_budget(Stranger, "nano") is None

    class Own(NPO):
        tuned = {"nano": {"steps": 3}}  # noqa: RUF012

    Own.__module__ = NPO.__module__
    assert tuned_settings(Own, "nano") == {"steps": 3}
    assert tuned_budget(Own, "nano") is None
