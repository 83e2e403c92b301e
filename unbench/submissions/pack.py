"""A run as a submission: what ``unbench submit`` writes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from unbench.attacks.choose import attack_file_name
from unbench.errors import UsageError
from unbench.metrics.overlap import asked_again
from unbench.plan import Plan, resolve_config
from unbench.results.schema import AttackResult, Result
from unbench.results.store import RunFolder, SeedFolder, read_record, read_result, write_bytes
from unbench.submissions import files as names
from unbench.submissions.rows import (
    AttackRows,
    Of,
    Own,
    plain_text,
    read_attacks,
    read_rows,
    write_attacks,
    write_rows,
)
from unbench.submissions.schema import SCORED, Submission, SubmittedMethod, Tuning, Weights, Yardstick
from unbench.submissions.score import Tried, rounded, score_rows
from unbench.submissions.strict import Refused, pack, parse, shown
from unbench.submissions.yardstick import LockedAttack, Measuring, Yardsticks, sha256

if TYPE_CHECKING:
    import pandas as pd

    from unbench.method import Method

M = TypeVar("M", bound=BaseModel)
MAX_SAMPLES = 400
"""Anti-samples that are packed, of the first seed."""
DIRTY = "Its result was made by an UnBench whose files differ from its commit"


@dataclass
class Packed:
    """A submission that was written."""

    folder: Path
    submission: Submission
    notes: list[str] = field(default_factory=list)
    """What was left out, one sentence each."""


def pack_run(
    folder: RunFolder,
    leaderboard: Path,
    *,
    submitter: str,
    weights: Weights | None = None,
    supersedes: str | None = None,
    tuning: Tuning | None = None,
    data_dir: Path | None = None,
) -> Packed:
    """Write the submission of a finished run below ``leaderboard/submissions`` and return it.

    Raises ``UsageError`` with the reason where the run can't stand on a leaderboard."""
    result = read_result(folder)
    plan = folder.read_plan((), data_dir)
    refuse_unfit(result, plan)
    place = names.Place(result.task, result.method.rpartition(":")[2], result.run_id)
    where = leaderboard / "submissions" / place.path
    if names.Place.of(where) != place:
        # A run folder may come from a stranger too.
        said = (
            f"{shown(result.task)}, {shown(result.method)} and {shown(result.run_id)} name no place on a leaderboard."
        )
        raise UsageError(said, "Make the run again with this UnBench.")
    yard = _yardstick(result, leaderboard, data_dir)
    notes: list[str] = []
    seeds = {seed: folder.seed(seed) for seed in result.seeds}
    contents: dict[str, bytes] = {names.PLAN_FILE: names.dump(result.plan)}
    contents[names.ROWS_FILE] = _rows(seeds, yard)
    tables, tried = _attacks(result, seeds, yard, notes)
    if tables:
        contents[names.ATTACKS_FILE] = write_attacks(tables)
    if plan.plugins:
        contents[names.METHOD_FILE] = plan.plugins[0].source()
    samples = _samples(seeds[result.seeds[0]])
    if samples is not None:
        contents[names.SAMPLES_FILE] = samples
    for name, content in contents.items():
        if len(content) > names.MAX_SIZES[name]:
            most = names.MAX_SIZES[name]
            raise UsageError(f"{name} would have {len(content):,} bytes; {most:,} are allowed.", "Submit fewer seeds.")
    submission = _submission(result, plan, yard, contents, tried, submitter, weights, supersedes, tuning)
    contents[names.SUBMISSION_FILE] = names.dump(submission.model_dump(mode="json", by_alias=True))
    _write(where, contents)
    return Packed(where, submission, notes)


def refuse_unfit(result: Result, plan: Plan) -> None:
    """Raise ``UsageError`` for a run that can't stand on a leaderboard."""
    again = "Make the run again without it: unbench run …"
    if plan.limit is not None:
        raise UsageError(f"Run {result.run_id} was made with --limit: it is a quick look, not a result.", again)
    if result.split != "report":
        raise UsageError(f"Run {result.run_id} is of the split 'select', which is for tuning.", again)
    if result.code.dirty:
        commit = f"{DIRTY} {(result.code.commit or '')[:12]}."
        raise UsageError(commit, "Commit what you changed (git status shows it), and make the run again.")
    if plan.task_path is not None:
        raise UsageError(f"{result.task} is a task of your own; a leaderboard knows only tasks that it can check.",
                         "Build your own board of it: unbench leaderboard build runs.")  # fmt: skip
    if len(plan.plugins) > 1:
        raise UsageError(f"The run was made with {len(plan.plugins)} plugin files, and one can be packed.",
                         "Put it into one file, or into a package: unbench new-method NAME --package.")  # fmt: skip


def _yardstick(result: Result, leaderboard: Path, data_dir: Path | None) -> Measuring:
    sticks = Yardsticks(leaderboard, data_dir)
    task = sticks.lock.find(result.task, result.hashes.task)
    model = None
    if task is not None:
        model = next((one for one in task.models if one.model_hash == result.hashes.model), None)
    if task is None or model is None:
        what = f"{result.task} in this version" if task is None else f"{result.task} with this {result.model}"
        raise UsageError(
            f"The leaderboard in {leaderboard} has no yardstick for {what}.",
            "A maintainer adds one: unbench leaderboard lock RUN.",
        )
    return sticks.read(task, model)


def _rows(seeds: Mapping[int, SeedFolder], yard: Measuring) -> bytes:
    asked = {probe.id: probe.question for probe in yard.probes if probe.ring == "forget"}
    frames: dict[Of, pd.DataFrame] = {}
    own: dict[Of, Own] = {}
    for seed, place in seeds.items():
        frames[seed] = place.read_responses()
        taught = {fact: [plain_text(one) for one in answers] for fact, answers in place.taught_answers().items()}
        own[seed] = Own(taught, tuple(asked_again(asked, place.trained_questions())))
    try:
        return write_rows(frames, own, yard.probes, yard.task.knowledge)
    except ValueError as problem:
        raise UsageError(f"The run can't be packed: {problem}.", "Make it again with this UnBench.") from problem


def _attacks(
    result: Result, seeds: Mapping[int, SeedFolder], yard: Measuring, notes: list[str]
) -> tuple[dict[str, dict[Of, pd.DataFrame]], list[Tried]]:
    """What the run's attacks found, those that the yardstick has too."""
    import pyarrow.parquet as pq

    tables: dict[str, dict[Of, pd.DataFrame]] = {}
    tried = []
    for one in result.attacks:
        if not one.points:
            tried.append(Tried(None, one))
            continue
        locked = find_locked(one, yard, result.plan)
        if locked is None:
            notes.append(f"{one.name} is left out: the leaderboard has not tried it, in this version and with these "
                         "settings, on a model that never knew.")  # fmt: skip
            continue
        file = f"{attack_file_name(one.name)}.parquet"
        try:
            tables[one.name] = {seed: pq.ParquetFile(place.attacks / file).read().to_pandas()
                                for seed, place in seeds.items()}  # fmt: skip
        except Exception as problem:
            again = f"Give 'unbench attack {result.run_id} --attacks {one.name}' again."
            raise UsageError(f"What {one.name} found is gone or damaged.", again) from problem
        tried.append(Tried(locked, one))
    return tables, tried


def find_locked(attack: AttackResult, yard: Measuring, plan: Mapping[str, Any]) -> LockedAttack | None:
    """The yardstick's entry of the same attack in the same version with the same settings."""
    key = (attack.name, attack.method_hash, attack.config, plan.get("train"))
    return next((one for one in yard.model.attacks if (one.name, one.source, one.config, one.train) == key), None)


def _submission(
    result: Result,
    plan: Plan,
    yard: Measuring,
    contents: Mapping[str, bytes],
    tried: list[Tried],
    submitter: str,
    weights: Weights | None,
    supersedes: str | None,
    tuning: Tuning | None,
) -> Submission:
    from unbench.plugins import methods

    try:
        rows = read_rows(contents[names.ROWS_FILE], yard.probes, yard.task.knowledge)
        packed = contents.get(names.ATTACKS_FILE)
        attacked = AttackRows({}) if packed is None else read_attacks(packed, yard.asked)
        scored = score_rows(rows, attacked, tried, yard).fields()
    except Refused as why:
        raise UsageError(f"The run can't be packed ({why}).", "Make it again with this UnBench.") from why
    claimed = {name: rounded(score) for name, score in result.metrics.items() if name not in scored["metrics"]}
    ranking = scored.pop("ranking")
    body = result.model_dump(mode="json", by_alias=True)
    body |= {key: scored[key] for key in SCORED} | {"dir": "", "notes": _without_paths(result.notes)}
    method_class = methods(plan.plugins).load(plan.method)
    return _said(
        Submission,
        {
            "schema": "unbench.submission/1",
            "result": Result.model_validate(body),
            "ranking": ranking,
            "claimed": claimed,
            "method": _method(result, method_class),
            "yardstick": Yardstick(
                task_hash=yard.task.task_hash, model_hash=yard.model.model_hash, responses=yard.model.responses,
                attacks={one.locked.name: one.locked.sha256 for one in tried if one.locked is not None},
            ),
            "files": {name: sha256(content) for name, content in sorted(contents.items())},
            "weights": weights,
            "tuning": tuning or _shipped_tuning(method_class, plan),
            "command": command_of(plan, method_class),
            "submitter": submitter,
            "supersedes": supersedes,
        },
    )  # fmt: skip


def _said(model: type[M], values: Mapping[str, Any]) -> M:
    """A model of what the submitter says. Raises ``UsageError`` where that doesn't fit."""
    try:
        # What can't be read again by everybody is refused before it is written.
        parse(json.dumps([value for value in values.values() if isinstance(value, str)]))
        return model.model_validate(values)
    except (Refused, ValidationError) as problem:
        why = f"it {problem}"
        if isinstance(problem, ValidationError):
            first = problem.errors()[0]
            why = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise UsageError(
            f"This can't be submitted ({shown(why)}).", "'unbench submit --help' says what it takes."
        ) from problem


def _method(result: Result, method_class: type[Method]) -> SubmittedMethod:
    from importlib.metadata import PackageNotFoundError, metadata

    card = method_class.card
    distribution = result.method.partition(":")[0]
    try:
        about = metadata(distribution).json
        version, licence = (str(about.get(key) or "") for key in ("version", "license_expression"))
    except PackageNotFoundError:
        version, licence = "", ""
    return SubmittedMethod(
        name=result.method, version=version, source=result.hashes.method, title=card.title, kind=card.kind,
        summary=card.summary, paper=card.paper, year=card.year, licence=licence[:500], bibtex=card.bibtex,
    )  # fmt: skip


def _shipped_tuning(method_class: type[Method], plan: Plan) -> Tuning | None:
    """How the settings were chosen, where they are those that ship with UnBench."""
    from unbench.tuned import shipped_entries

    entry = shipped_entries(method_class).get(plan.model)
    if entry is None or resolve_config(method_class, plan.model, {}).model_dump(mode="json") != plan.config:
        return None
    return Tuning(trials=entry["trials"], budget_tokens=entry["budget_tokens"])


def command_of(plan: Plan, method_class: type[Method]) -> str:
    """The command that makes the run again."""
    words = ["unbench", "run"]
    words += ["--plugin", names.METHOD_FILE] if plan.plugins else ["--method", plan.method.removeprefix("unbench:")]
    words += ["--task", plan.task, "--model", plan.model]
    words += ["--revision", plan.revision] if plan.revision else []
    if plan.train.kind == "lora":
        words += ["--train", "lora", "--rank", str(plan.train.rank), "--lora-alpha", str(plan.train.lora_alpha),
                  "--lora-targets", ",".join(plan.train.targets)]  # fmt: skip
    elif plan.model != "nano":
        words += ["--train", "full"]
    usual = resolve_config(method_class, plan.model, {}).model_dump(mode="json")
    for key, value in plan.config.items():
        if usual.get(key) != value:
            words += ["--set", f"{key}={json.dumps(value)}"]
    if plan.budget_tokens is not None:
        words += ["--budget-tokens", str(plan.budget_tokens)]
    if plan.attacks:
        words += ["--attacks", ",".join(name.removeprefix("unbench:") for name in plan.attacks)]
    if list(plan.seeds) == list(range(len(plan.seeds))):
        return shlex.join([*words, "--seeds", str(len(plan.seeds))])
    # Seeds of one plan join the same run.
    return " && ".join(shlex.join([*words, "--seed", str(seed)]) for seed in plan.seeds)


def _samples(place: SeedFolder) -> bytes | None:
    """The anti-samples of one seed, the kept ones first; None where there are none."""
    try:
        # Not splitlines: a text may hold a line separator of its own.
        lines = (place.work / "anti_samples.jsonl").read_text(encoding="utf-8").split("\n")
        found = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError):
        return None
    found = [one for one in found if isinstance(one, dict)]
    kept = sorted(found, key=lambda one: not one.get("kept", False))[:MAX_SAMPLES]
    clean = [
        {key: plain_text(value) if isinstance(value, str) else value for key, value in one.items()} for one in kept
    ]
    text = "".join(json.dumps(one, ensure_ascii=False, allow_nan=False) + "\n" for one in clean)
    return pack(text.encode()) if kept else None


def _without_paths(value: Any) -> Any:
    """Notes without a place on the machine that made the run."""
    home = str(Path.home())
    if isinstance(value, str):
        return plain_text(value.replace(str(Path.cwd()), ".").replace(home, "~") if home != "/" else value)
    if isinstance(value, Mapping):
        return {str(key): _without_paths(inner) for key, inner in value.items()}
    return [_without_paths(one) for one in value] if isinstance(value, list) else value


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    """All files, ``submission.json`` last: half a submission is none."""
    for name, content in contents.items():
        write_bytes(folder / name, content)
    for path in folder.iterdir():
        if path.name not in contents and path.is_file():
            path.unlink()


def read_weights(text: str, folder: RunFolder) -> Weights:
    """``URL[@REVISION]`` as published weights, with the hash of every seed's."""
    url, _, revision = text.partition("@")
    records = {seed: read_record(folder.seed(seed).path / "unlearn.json") or {} for seed in folder.finished_seeds()}
    hashes = {str(seed): str(one["weights_hash"]) for seed, one in records.items() if one.get("weights_hash")}
    return _said(Weights, {"url": url, "revision": revision, "sha256": hashes})
