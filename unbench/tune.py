"""``tune``: search a method's declared space on the ``select`` forget set, every trial within one budget of tokens.

The search is Optuna's TPE. What a trial is to try depends on the seed, its number and the trials before it, not on how
often the search was stopped: killed and started again, it goes on as if nothing had happened (with one job at a time).
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbench.errors import UnbenchError, UsageError
from unbench.plan import Plan, make_plan, number_of
from unbench.plugins import choose_method
from unbench.results.store import alone_in, write_json, writing_to
from unbench.sweep.job import Job, Outcome
from unbench.sweep.pool import LocalPool, Pool, Silent, Watch, threads_for
from unbench.task import canonical_json
from unbench.tuned import Trial, Tuned, choose

if TYPE_CHECKING:
    import optuna

    from unbench.method import Method

BUDGET = {"bios": 200_000}
"""Tokens that a trial may train and generate, by family of tasks: the same for every method."""
RANDOM_TRIALS = 5
"""Trials before the sampler has enough to learn from."""
OVERALL = "overall"
INSTEAD = "harmonic mean of forget and retain (overall has no value here)"


class Study:
    """What is searched, and the folder where the trials lie: another question (other fixed settings, budget, seed or
    space) is another study with a folder of its own."""

    def __init__(
        self,
        method: str,
        task: str = "bios/fact",
        model: str | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        search: Mapping[str, Any] | None = None,
        budget_tokens: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        """``settings`` are held fixed; ``search``: choices of settings, in place of those that the method declares.

        Raises ``UsageError`` where the method has nothing to search or something doesn't fit. Imports no torch."""
        if options.get("split", "select") != "select":
            raise UsageError(
                "Tuning reads the select forget set only: a reported score must not be tuned on.", "Leave out --split."
            )
        self.seed = seed
        self.fixed = dict(settings or {})
        budget = budget_tokens if budget_tokens is not None else BUDGET.get(task.partition("/")[0])
        self._make = {**options, "split": "select", "seeds": (seed,), "budget_tokens": budget}
        self._named = (method, task, model)
        self.method: type[Method] = choose_method(method, options.get("plugins", ()))[1]
        self.base = self.plan({})
        self.space = search_space(self.method, self.fixed, search or {})
        question = {"plan": self.base.identity(), "seed": seed, "space": self.space}
        self.id = hashlib.sha256(canonical_json(question).encode()).hexdigest()[:12]

    def plan(self, searched: Mapping[str, Any]) -> Plan:
        """The run of one trial."""
        method, task, model = self._named
        return make_plan(method, task, model, settings={**self.fixed, **searched}, **self._make)

    @property
    def folder_name(self) -> str:
        """``task/problem/method/study-id``, below the folder of all tuning."""
        return f"{self.base.task}/{self.base.method_name}/{self.id}"

    @property
    def defaults(self) -> dict[str, Any]:
        """The searched settings of trial 0."""
        return {name: self.base.config[name] for name in self.space}

    @property
    def known(self) -> dict[str, list[Any]]:
        """The space and the present defaults, which trial 0 tries and no later one draws."""
        default = self.defaults
        return {key: [*every, *([] if default[key] in every else [default[key]])] for key, every in self.space.items()}


def search_space(method: type[Method], fixed: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Choices by setting: those the method declares, less what is fixed; ``own`` choices in place of them."""
    name = method.card.name
    found: dict[str, list[Any]] = {}
    for key, choices in own.items():
        if not isinstance(choices, list) or not choices:
            raise UsageError(f"--search {key} wants a list of choices.", f"For example: --search {key}=[1e-4,5e-4].")
        if key not in method.Config.model_fields:
            raise UsageError(
                f"Method {name!r} has no setting {key!r} to search.", f"'unbench methods {name}' lists its settings."
            )
        if key in fixed:
            raise UsageError(f"--search and --set both name {key!r}.", "Leave out one of them.")
    for key, choices in {**method.space, **own}.items():
        if key not in method.Config.model_fields:
            raise UsageError(
                f"The space of method {name!r} names {key!r}, which is no setting of it.", "Mend its class."
            )
        if key in fixed:
            continue
        found[key] = [number_of(one) for one in choices]
    if not found:
        why = "every setting it searches is fixed by --set" if method.space else "it declares no space"
        raise UsageError(
            f"Method {name!r} has nothing to tune: {why}.", f"'unbench methods {name}' lists its settings."
        )
    return found


def tune(
    study: Study,
    trials: int,
    out: Path | str = "tuning",
    *,
    jobs: int = 1,
    storage: Path | None = None,
    watch: Watch | None = None,
    pool: AbstractContextManager[Pool] | None = None,
) -> Tuned:
    """Bring the study to ``trials`` trials and return them with the chosen one (also in ``<folder>/tuned.json``).

    Trials lie in Optuna's SQLite file ``study.db`` (or ``storage``). A trial that fails is recorded and the rest goes
    on. Raises ``UsageError`` for a file that is no such storage.
    """
    folder = Path(out) / study.folder_name
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder, ".lock", "search"):
            ledger = Ledger(study, open_study(study, storage or folder / "study.db"), folder)
            if ledger.left(trials):
                if pool is None:
                    workers = max(1, min(jobs, trials))
                    pool = LocalPool(workers, folder / "logs", threads_for([study.base.model], workers))
                with pool as open_pool:
                    for outcome in open_pool.run(ledger.jobs(trials), watch or Silent()):
                        ledger.enter(outcome)
                        write_json(folder / "tuned.json", ledger.record(trials).model_dump(mode="json", by_alias=True))
            record = ledger.record(trials)
            write_json(folder / "tuned.json", record.model_dump(mode="json", by_alias=True))
    return record


def open_study(study: Study, file: Path) -> optuna.Study:
    """Optuna's study in its SQLite storage; a new one where the file has none of that name."""
    import optuna
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file.parent.mkdir(parents=True, exist_ok=True)
    url = URL.create("sqlite", database=str(file.resolve())).render_as_string()
    try:
        storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
        return optuna.create_study(
            storage=storage, study_name=study.folder_name, direction="maximize", load_if_exists=True
        )
    except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as problem:
        why = " ".join(str(problem).split())[:150]
        raise UsageError(f"{file} can't be used as Optuna's storage: {why}.", "Name another file: --storage.") from (
            problem
        )


class Ledger:
    """The trials of a study: hands out what is to be tried, enters what came of it."""

    def __init__(self, study: Study, optuna_study: optuna.Study, folder: Path) -> None:
        self._study = study
        self._optuna = optuna_study
        self._folder = folder
        self._under_way: set[int] = set()

    def left(self, trials: int) -> int:
        """How many of ``trials`` have not ended."""
        return max(0, trials - len(self._ended()))

    def jobs(self, trials: int) -> Iterator[Job]:
        """Trials that an earlier call began first, then new ones until there are ``trials``."""
        import optuna

        states = optuna.trial.TrialState
        for begun in self._optuna.get_trials(deepcopy=False, states=(states.RUNNING,)):
            if begun.number < trials:
                yield from self._job(optuna.trial.Trial(self._optuna, begun._trial_id))
        while True:
            every = self._optuna.get_trials(deepcopy=False)
            if sum(trial.state != states.WAITING for trial in every) >= trials:
                return
            # What waits was put there by an earlier call that got no further, or by the user.
            if all(trial.state != states.WAITING for trial in every):
                settings = self._next(every)
                if settings is None:
                    return
                self._optuna.enqueue_trial({name: _encoded(value) for name, value in settings.items()})
            yield from self._job(self._optuna.ask())

    def enter(self, outcome: Outcome) -> None:
        """What came of a trial. The weights go; what a failed run left is kept for a look."""
        number = int(outcome.key)
        if outcome.state == "failed":
            self._fail(number, outcome.error or "failed")
            return
        scores = {name: score.value for name, score in outcome.scores.items()}
        value, name = objective(scores)
        cost = outcome.compute
        facts = {
            "scores": scores,
            "tokens": None if cost is None else cost.tokens_trained + cost.tokens_generated,
            "seconds": None if cost is None else round(cost.unlearn_s, 1),
        }
        self._note(number, facts)
        if value is None:
            why = next((score.reason for score in outcome.scores.values() if score.reason), None)
            self._fail(number, f"The scores have no value{f': {why}' if why else ''}.")
        else:
            self._note(number, {"objective": name})
            self._optuna.tell(number, value)
            shutil.rmtree(self._trial_folder(number), ignore_errors=True)

    def record(self, asked: int) -> Tuned:
        """Everything that was tried so far, and the best of it."""
        from unbench.results.record import versions

        trials = [_trial_record(self._study.known, one) for one in self._ended()]
        best = choose(trials)
        base = self._study.base
        names = {str(one.user_attrs["objective"]) for one in self._ended() if "objective" in one.user_attrs}
        return Tuned(
            method=base.method, task=base.task, task_hash=base.task_hash, model=base.model,
            train=base.train.model_dump(mode="json"), dtype=base.dtype, seed=self._study.seed,
            budget_tokens=base.budget_tokens,
            objective=" or ".join(sorted(names)) or OVERALL, space=self._study.space, asked=asked,
            best=None if best is None else best.trial, config=None if best is None else best.config,
            trials=trials, versions=versions(),
        )  # fmt: skip

    def _ended(self) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in self._optuna.get_trials(deepcopy=False) if trial.state.is_finished()]

    def _next(self, every: Sequence[optuna.trial.FrozenTrial]) -> dict[str, Any] | None:
        """What the next trial is to try; None where everything has been tried."""
        import optuna

        if not every:
            return self._study.defaults
        tried = [_decoded(self._study.known, trial.params) for trial in every]
        done = [
            (settings, float(trial.value))
            for settings, trial in zip(tried, every, strict=True)
            if trial.state == optuna.trial.TrialState.COMPLETE and trial.value is not None
        ]
        return suggest(self._study.space, done, tried, f"{self._study.seed}/{len(every)}")

    def _job(self, trial: optuna.Trial) -> Iterator[Job]:
        """The run of a trial; none where the settings don't go together, which fails the trial."""
        for name, distribution in _distributions(self._study.known).items():
            # What an earlier call set already comes back as it is.
            trial.suggest_categorical(name, distribution.choices)
        number, settings = trial.number, _decoded(self._study.known, trial.params)
        try:
            plan = self._study.plan(settings)
        except UnbenchError as problem:
            self._fail(number, str(problem))
            return
        trial.set_user_attr("config", plan.config)
        words = ", ".join(f"{key}={value}" for key, value in settings.items())
        yield Job(key=str(number), label=f"trial {number}: {words}", plan=plan, out=str(self._trial_folder(number)))

    def _fail(self, number: int, error: str) -> None:
        import optuna

        self._note(number, {"error": error})
        self._optuna.tell(number, state=optuna.trial.TrialState.FAIL)

    def _note(self, number: int, facts: Mapping[str, Any]) -> None:
        # Optuna's public way to a user attribute goes through a Trial; one that an earlier process began has none.
        import optuna

        trial_id = self._optuna.get_trials(deepcopy=False)[number]._trial_id
        trial = optuna.trial.Trial(self._optuna, trial_id)
        for key, value in facts.items():
            trial.set_user_attr(key, value)

    def _trial_folder(self, number: int) -> Path:
        return self._folder / "trials" / str(number)


def suggest(
    space: Mapping[str, Sequence[Any]],
    done: Iterable[tuple[Mapping[str, Any], float]],
    tried: Sequence[Mapping[str, Any]],
    seed: str,
) -> dict[str, Any] | None:
    """Settings that were not tried yet: what TPE draws after ``done`` (settings and what they reached), by the seed
    alone; where it would repeat itself, one drawn at random of what is left. None where nothing is left."""
    import optuna

    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big")
    sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=RANDOM_TRIALS)
    shadow = optuna.create_study(sampler=sampler, direction="maximize")
    distributions = _distributions(space)
    for settings, value in done:
        # A default from outside the space says nothing about what may be drawn of that setting.
        inside = {name: _encoded(one) for name, one in settings.items() if one in space[name]}
        within: dict[str, Any] = {name: distributions[name] for name in inside}
        shadow.add_trial(optuna.trial.create_trial(params=inside, distributions=within, value=value))
    drawn = _decoded(space, shadow.ask({**distributions}).params)
    if drawn not in tried:
        return drawn
    names = list(space)
    every = (dict(zip(names, values, strict=True)) for values in product(*space.values()))
    left = [one for one in every if one not in tried]
    return random.Random(number).choice(left) if left else None


def objective(scores: Mapping[str, float | None]) -> tuple[float | None, str]:
    """What is maximised, and its name: overall, or the harmonic mean of forget and retain where a task has none."""
    if scores.get("overall") is not None:
        return scores["overall"], OVERALL
    forget, retain = scores.get("forget"), scores.get("retain")
    if forget is None or retain is None:
        return None, INSTEAD
    return (2 * forget * retain / (forget + retain) if forget + retain > 0 else 0.0), INSTEAD


def _distributions(space: Mapping[str, Sequence[Any]]) -> dict[str, optuna.distributions.CategoricalDistribution]:
    from optuna.distributions import CategoricalDistribution

    return {name: CategoricalDistribution([_encoded(one) for one in choices]) for name, choices in space.items()}


def _encoded(value: Any) -> Any:
    """Optuna keeps plain values; a choice that is a list or a mapping becomes its JSON."""
    return value if value is None or isinstance(value, bool | int | float | str) else canonical_json(value)


def _decoded(space: Mapping[str, Sequence[Any]], params: Mapping[str, Any]) -> dict[str, Any]:
    """Back again, by the choices."""
    return {name: next(one for one in choices if _encoded(one) == params[name]) for name, choices in space.items()}


def _trial_record(space: Mapping[str, Sequence[Any]], trial: optuna.trial.FrozenTrial) -> Trial:
    facts = trial.user_attrs
    ok = trial.value is not None
    return Trial(
        trial=trial.number, state="done" if ok else "failed", settings=_decoded(space, trial.params),
        config=facts.get("config"), objective=trial.value, scores=facts.get("scores", {}), tokens=facts.get("tokens"),
        seconds=facts.get("seconds"), error=facts.get("error"),
    )  # fmt: skip
