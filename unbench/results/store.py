"""Where a run lies on disk. Every file is written under a temporary name and renamed, so a run killed at any moment
resumes and ends with the same result.

``runs/<task>/<problem>/<method>/<run-id>/``: plan.json, result.json, probes.parquet, plugin.py (the code of a method
that was a file), and for each seed
``seed-<k>/``: work/ (the method's own files), unlearned/ (weights), unlearn.json, responses.parquet, respond.json,
lm_eval.json and attacks/ where those were asked for, and while a training lasts checkpoints/.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbench.errors import EnvironmentProblem, UnbenchError, UsageError
from unbench.method import Unlearned
from unbench.plan import Plan, differing_fields, identity_of
from unbench.results.schema import Result

if TYPE_CHECKING:
    import pandas as pd


def write_text(path: Path, text: str) -> None:
    """Write the whole file or nothing."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write the whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_record(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none or it is damaged (the step that writes it is not done)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


REFUSALS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENAMETOOLONG,
    }
)
"""The system's ways of refusing a write; any other OSError is left as it is."""


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn the system's refusal to write (full disk, no permission) into one sentence."""
    try:
        yield
    except UnbenchError:
        raise
    except Exception as problem:
        why = write_refused(problem)
        if why is None:
            raise
        raise EnvironmentProblem(
            f"Can't write to {folder}: {why}.",
            "Free some space or name another folder with --out, then add --resume.",
        ) from problem


def write_refused(problem: BaseException) -> str | None:
    """The system's words, if ``problem`` is a refused write; libraries wrap it in errors of their own."""
    if isinstance(problem, OSError) and problem.errno in REFUSALS:
        return problem.strerror or str(problem)
    if isinstance(problem, OSError) or type(problem).__module__.startswith(("safetensors", "pyarrow")):
        text = str(problem)
        for code in REFUSALS:
            # Rust (safetensors) and C++ (Arrow) writers name the number or the words in their message only.
            if f"code: {code}," in text or f"errno {code}" in text or os.strerror(code) in text:
                return os.strerror(code)
    return None


@contextmanager
def alone_in(folder: Path, lock: str, what: str | None = None) -> Iterator[None]:
    """Hold a folder (as ``what``, where several things happen in it): a second process is refused."""
    with open(folder / lock, "w", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            said, then = (f"Another {what}", "start it again") if what else ("Another process", "add --resume")
            raise UsageError(f"{said} is at work on {folder}.", f"Wait for it to end, then {then}.") from problem
        yield


class SeedFolder:
    """One seed's part of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.work = path / "work"
        self.unlearned = path / "unlearned"
        self.checkpoints = path / "checkpoints"
        self.attacks = path / "attacks"
        self.responses = path / "responses.parquet"
        self._unlearn = path / "unlearn.json"
        self._respond = path / "respond.json"
        self._lm_eval = path / "lm_eval.json"

    def unlearn_record(self) -> dict[str, Any] | None:
        """What the unlearn step wrote when it ended; None where it has not."""
        found = read_record(self._unlearn)
        if found is None or not {"weights", "system_prompt", "usage", "wall_s"} <= found.keys():
            return None
        weights = found["weights"]
        if weights is not None and not list((self.path / weights).glob("*.safetensors")):
            return None
        return found

    def unlearned_model(self) -> Unlearned | None:
        """What the method handed back, its weights where they lie on this machine; None where it has not ended."""
        done = self.unlearn_record()
        if done is None:
            return None
        weights = done["weights"]
        return Unlearned(None if weights is None else (self.path / weights).resolve(), done["system_prompt"])

    def trained_questions(self) -> frozenset[str]:
        """Every question that the method trained on."""
        usage = (self.unlearn_record() or {}).get("usage", {})
        return frozenset(usage.get("questions", ()))

    def taught_answers(self) -> dict[str, list[str]]:
        """Fact -> answers that the method taught in place of its own; empty where it teaches none."""
        found: dict[str, list[str]] = (self.unlearn_record() or {}).get("usage", {}).get("taught", {})
        return found

    def respond_record(self) -> dict[str, Any] | None:
        found = read_record(self._respond)
        return found if found is not None and "wall_s" in found and self.responses.is_file() else None

    def read_responses(self) -> pd.DataFrame:
        """The stored answers. Raises ``UsageError`` where they are gone or damaged."""
        from unbench import responses

        again = "Run it again: the same command with --resume makes what is missing."
        if self.unlearn_record() is None:
            raise UsageError(f"The unlearned model of {self.path} is gone.", again)
        try:
            return responses.load(self.responses)
        except Exception as problem:
            raise UsageError(f"The answers in {self.responses} can't be read.", again) from problem

    def finish_unlearn(self, record: dict[str, Any]) -> None:
        write_json(self._unlearn, record)
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def finish_respond(self, record: dict[str, Any]) -> None:
        write_json(self._respond, record)

    def lm_eval_record(self, tasks: Sequence[str]) -> dict[str, Any] | None:
        """What lm-eval found, where it was asked those tasks."""
        found = read_record(self._lm_eval)
        return found if found is not None and found.get("tasks") == list(tasks) and "scores" in found else None

    def finish_lm_eval(self, record: dict[str, Any]) -> None:
        write_json(self._lm_eval, record)

    def restart_unlearn(self, *, keep_checkpoints: bool = False) -> None:
        """Remove what an unfinished unlearn step left (and what later steps made of an earlier one)."""
        for marker in (self._respond, self._lm_eval, self._unlearn, self.path / "error.txt"):
            marker.unlink(missing_ok=True)
        for folder in (self.work, self.unlearned, self.attacks, *(() if keep_checkpoints else (self.checkpoints,))):
            if folder.exists():
                shutil.rmtree(folder)
        self.work.mkdir(parents=True)


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan_file = path / "plan.json"
        self.result_file = path / "result.json"
        self.probes_file = path / "probes.parquet"
        self.logs = path / "logs"

    @property
    def submitted(self) -> bool:
        """Whether this is a submission, which is only read."""
        return (self.path / "submission.json").is_file()

    @classmethod
    def start(cls, out: Path, plan: Plan, *, resume: bool) -> tuple[RunFolder, Plan]:
        """Open the plan's folder. With ``resume``, finished steps are kept, and an unfinished run of the same task and
        method with another plan is refused, naming the field. Without it the plan's seeds are to be made anew; what an
        earlier run left is kept until its place is taken.

        Returns the folder and the plan, whose seeds are joined with those finished before."""
        folder = cls(out / plan.folder_name)
        if resume:
            folder._refuse_other_plan(plan)
        with writing_to(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
            seeds = sorted({*plan.seeds, *folder.finished_seeds()})
            plan = plan.model_copy(update={"seeds": tuple(seeds)})
            write_json(folder.plan_file, plan.model_dump(mode="json", by_alias=True))
        return folder, plan

    def _refuse_other_plan(self, plan: Plan) -> None:
        if self.plan_file.is_file():
            return
        own = plan.identity()
        others = sorted(self.path.parent.glob("*/plan.json"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in others:
            other = read_record(file)
            # A run that never got as far as its first seed left nothing to go on with.
            if other is None or (file.parent / "result.json").exists() or not list(file.parent.glob("seed-*")):
                continue
            fields = differing_fields(identity_of(other), own)
            raise UsageError(
                f"The unfinished run {file.parent} has another plan: {'; '.join(fields)}.",
                "Give the same options to go on with it, or leave out --resume to start a new run.",
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder: a second process with the same plan is refused instead of mixed in."""
        with alone_in(self.path, ".lock"):
            yield

    def keep_plugins(self, plan: Plan) -> None:
        """The code that ran, beside the plan: ``plugin.py``, and ``plugin-2.py`` … where there were several files."""
        for number, file in enumerate(plan.plugins, start=1):
            name = "plugin.py" if number == 1 else f"plugin-{number}.py"
            write_bytes(self.path / name, file.source())

    def read_plan(self, plugins: Sequence[Any] = (), data_dir: Path | None = None) -> Plan:
        """The run's plan, with where the files that it names lie on this machine: plugins that were named before, or
        are in ``plugins`` now, or as they were kept with the run."""
        from unbench.pluginfile import plugin_files

        found = read_record(self.plan_file)
        try:
            plan = Plan.model_validate(found)
        except ValueError as problem:
            raise UsageError(f"The plan of the run {self.path} can't be read.", "Run it again.") from problem
        kept = sorted(self.path.glob("plugin*.py"), key=lambda file: (len(file.name), file.name))
        places = [str(file.resolve()) for file in kept]
        named = [one.model_copy(update={"path": at}) for one, at in zip(plan.plugins, places, strict=False)]
        files = tuple(dict.fromkeys([*named, *plugin_files(plugins)]))
        update: dict[str, Any] = {"plugins": files}
        if data_dir is not None:
            update["data_dir"] = str(data_dir)
        return plan.model_copy(update=update)

    def attacked(self, seeds: Sequence[int]) -> bool:
        """Whether some attack has been tried on every seed."""
        return all(any(self.seed(seed).attacks.glob("*.json")) for seed in seeds)

    def seed(self, seed: int) -> SeedFolder:
        return SeedFolder(self.path / f"seed-{seed}")

    def finished_seeds(self) -> list[int]:
        found = []
        for path in self.path.glob("seed-*"):
            number = path.name.removeprefix("seed-")
            if number.isdigit() and SeedFolder(path).respond_record() is not None:
                found.append(int(number))
        return sorted(found)


def find_run(path: Path | str) -> RunFolder:
    """The run at a folder, at its result.json, or with that run-id below ``runs/`` or the leaderboard's submissions."""
    given = Path(path)
    if given.name in ("result.json", "submission.json") and given.is_file():
        given = given.parent
    if (given / "plan.json").is_file():
        return RunFolder(given)
    known = re.fullmatch(r"[0-9a-f]{1,12}", str(path)) is not None
    roots = (Path(os.environ.get("UNBENCH_OUT", "runs")), Path("leaderboard/submissions"))
    found = (sorted(root.glob(f"*/*/*/{path}*/plan.json")) for root in roots) if known else ()
    hits: list[Path] = next((some for some in found if some), [])
    if len(hits) == 1:
        return RunFolder(hits[0].parent)
    if hits:
        raise UsageError(f"{str(path)!r} stands for {len(hits)} runs.", "Give more of the run-id, or the folder.")
    raise UsageError(f"There is no run at {str(path)!r}.", "'ls runs/*/*/*' lists the runs of this folder.")


def read_result(folder: RunFolder) -> Result:
    """The stored result (of a submission too), with ``dir`` filled. Raises ``UsageError`` where there is none or it is
    damaged."""
    from unbench.leaderboard.reader import parse_result

    if not folder.result_file.is_file():
        if folder.submitted:
            return _submitted(folder.path)
        raise UsageError(f"The run {folder.path} has not finished.", "Give its command again with --resume.")
    result = parse_result(folder.result_file)
    result.dir = str(folder.path)
    return result


def _submitted(folder: Path) -> Result:
    from unbench.submissions.read import read_submission
    from unbench.submissions.strict import Refused

    try:
        result = read_submission(folder)[1].result
    except Refused as why:
        raise UsageError(f"The submission {folder} can't be read: {why}.", f"See 'unbench validate {folder}'.") from why
    result.dir = str(folder)
    return result
