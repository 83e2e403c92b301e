"""``unbench validate``: can a submission be taken?

L0  every file is there, small, well formed, and says the same of the run as the others
L1  every score, interval and rank figure is that of the rows, held against the locked yardstick; no run twice
L2  nothing that stood there before was edited (``history``)

Nothing of a submission is ever run.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from unbench.errors import EnvironmentProblem, UnbenchError
from unbench.plan import LATER_FIELDS, MACHINE_FIELDS, Plan, identity_of
from unbench.pluginfile import DISTRIBUTION
from unbench.submissions import files as names
from unbench.submissions.read import Opened, open_submission, read_submission, yardsticks
from unbench.submissions.schema import SCORED
from unbench.submissions.score import Tried, score_rows
from unbench.submissions.strict import Refused, check_source, parse, shown, unpacked_lines
from unbench.submissions.yardstick import Measuring, Yardsticks
from unbench.task import canonical_json

MOST_FINDINGS = 20
"""Differences that are told of one submission, and strays of one folder."""
NOT_COMPARED = re.compile(r"attacks\[\d+\]\.(?:wall_s|notes)")
"""What a run says of an attack and rows can't give."""
MAX_SAMPLES = 10 * 2**20
"""Bytes of the anti-samples, unpacked."""
MAX_SAMPLE_LINES = 2_000
LONGEST_PATH = 1_000


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    path: str
    level: str
    """L0, L1 or L2."""
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what} ({self.level})"


def validate(roots: Sequence[Path], data_dir: Path | None = None) -> tuple[list[Path], list[Finding]]:
    """Every submission below ``roots``, and all that is wrong with them (levels L0 and L1). Raises ``UsageError`` where
    the lock is broken, ``EnvironmentProblem`` where a task's data is wanted and isn't there."""
    folders: list[Path] = []
    findings: list[Finding] = []
    sticks: dict[Path, Yardsticks] = {}
    seen: dict[str, Path] = {}
    done: set[Path] = set()
    for root in roots:
        # The root says whose leaderboard it is: a lock that lies further down is a stranger's.
        leaderboard = names.leaderboard_of(root)
        if leaderboard not in sticks:
            sticks[leaderboard] = Yardsticks(leaderboard, data_dir)
        below, strays = _below(root)
        findings += strays
        for folder in below:
            place = folder.resolve()
            if place in done:
                continue
            done.add(place)
            folders.append(folder)
            findings += check(folder, sticks[leaderboard])
            again = seen.setdefault(folder.name, place)
            if again != place:
                findings.append(_finding(folder, "L1", f"run {folder.name} stands in {again} too"))
    return folders, findings


def _below(root: Path) -> tuple[list[Path], list[Finding]]:
    """Submissions below a root, and what lies there that may not."""
    if not root.is_dir():
        if root.name == names.SUBMISSION_FILE:
            return [root.parent], []
        return [], [_finding(root, "L0", "is no submission")]
    found = names.walk(root)
    strays = [_finding(path, "L0", why) for path, why in found.strays[:MOST_FINDINGS]]
    if len(found.strays) > MOST_FINDINGS:
        strays.append(_finding(root, "L0", f"and {len(found.strays) - MOST_FINDINGS} further files of that sort"))
    return found.submissions, strays


def _finding(path: Path, level: str, what: str) -> Finding:
    """A finding that is fit for a terminal: whatever it is about was named by a stranger."""
    return Finding(shown(str(path), LONGEST_PATH), level, shown(what, 400))


def check(folder: Path, sticks: Yardsticks) -> Iterator[Finding]:
    """What is wrong with one submission; nothing where it can be taken."""
    try:
        opened = open_submission(folder)
        for what in disagreements(opened):
            yield _finding(folder, "L0", what)
            return
    except Refused as why:
        yield _finding(folder, "L0", str(why))
        return
    try:
        yard = sticks.find(opened.submission.result.task, opened.submission.yardstick)
        for what in compare(opened.body, computed(opened, yard)):
            yield _finding(folder, "L1", what)
        for what in _wrong_ancestor(opened, sticks.leaderboard):
            yield _finding(folder, "L1", what)
    except Refused as why:
        yield _finding(folder, "L1", str(why))


def consistent(folder: Path) -> bool:
    """Whether the rows of a submission give its numbers."""
    try:
        leaderboard = names.leaderboard_of(folder)
        return not any(check(folder, yardsticks(leaderboard)))
    except UnbenchError:
        return False


def disagreements(opened: Opened) -> Iterator[str]:
    """Where the files of a submission, its place and its plan contradict each other."""
    submission, result = opened.submission, opened.submission.result
    try:
        plan = parse(opened.contents[names.PLAN_FILE])
        whole = Plan.model_validate(plan).public()
        own = hashlib.sha256(canonical_json(identity_of(plan)).encode()).hexdigest()[:12]
    except Refused as why:
        yield f"{names.PLAN_FILE} {why}"
        return
    except (ValidationError, ValueError, TypeError, AttributeError, KeyError) as problem:
        yield f"{names.PLAN_FILE} is no plan ({shown(str(problem).splitlines()[0])})"
        return
    # What is only read like a plan ("3" for 3), and what is left out, would have a run-id of its own.
    odd = next(_unlike(plan, whole, ""), None)
    lacking = sorted(whole.keys() - plan.keys() - MACHINE_FIELDS - {*LATER_FIELDS})
    if odd is not None or lacking:
        yield f"{names.PLAN_FILE} doesn't say {odd or lacking[0]} as a plan does"
        return
    if canonical_json(plan) != canonical_json(result.plan):
        yield f"{names.PLAN_FILE} is not the plan in {names.SUBMISSION_FILE}"
    if own != result.run_id:
        yield f"its run-id is {result.run_id}, and its plan's is {own}"
    place = names.Place.of(opened.folder.resolve())
    bare = result.method.rpartition(":")[2]
    if place != names.Place(result.task, bare, result.run_id):
        yield f"it lies at {opened.folder.name!r}, and belongs at {result.task}/{bare}/{result.run_id}"
    pairs: dict[str, tuple[Any, Any]] = {
        "method": (plan["method"], result.method),
        "method's name": (submission.method.name, result.method),
        "method's source": (submission.method.source, result.hashes.method),
        "task": (plan["task"], result.task),
        "task hash": (plan["task_hash"], result.hashes.task),
        "yardstick's task hash": (submission.yardstick.task_hash, result.hashes.task),
        "yardstick's model hash": (submission.yardstick.model_hash, result.hashes.model),
        "split": (plan["split"], "report"),
        "split of the result": (result.split, "report"),
        "model": (plan["model"], result.model),
        "seeds": (plan["seeds"], result.seeds),
        "seeds of per_seed": ([one.seed for one in result.per_seed], result.seeds),
        "limit": (plan.get("limit"), None),
        "place on disk": (result.dir, ""),
    }
    for what, (said, expected) in pairs.items():
        if said != expected:
            yield f"its {what} is {shown(repr(said), 80)}, not {shown(repr(expected), 80)}"
    if result.method.partition(":")[0] == DISTRIBUTION and not plan.get("plugins"):
        yield f"its method is a file, and {names.PLAN_FILE} names none"
    known = {*type(result.scores).model_fields, *result.metrics}
    foreign = [name for name in submission.claimed if not name.startswith("lm_eval/") or name in known]
    if foreign:
        yield f"it claims {foreign[0]!r}, which is no score of lm-eval's"
    yield from _unfit_files(opened)
    if len(set(result.seeds)) < len(result.seeds):
        yield "a seed stands there twice"
    kept = [one["hash"] for one in plan.get("plugins") or []]
    packed = opened.contents.get(names.METHOD_FILE)
    if (kept != []) != (packed is not None) or len(kept) > 1:
        yield f"{names.METHOD_FILE} and the plan's plugins don't go together"
    elif packed is not None and hashlib.sha256(packed).hexdigest() != kept[0]:
        yield f"{names.METHOD_FILE} is not the file that the plan names"
    if result.code.dirty:
        yield "it was made by an UnBench whose files differ from its commit"
    if (names.ATTACKS_FILE in opened.contents) != bool(submission.yardstick.attacks):
        yield f"{names.ATTACKS_FILE} and the yardstick's attacks don't go together"


def _unlike(said: Any, expected: Any, where: str) -> Iterator[str]:
    """Where ``said`` has what ``expected`` hasn't, or writes it otherwise; it may leave things out."""
    if isinstance(said, dict) and isinstance(expected, dict):
        for key, value in said.items():
            inner = f"{where}.{key}" if where else key
            yield from [inner] if key not in expected else _unlike(value, expected[key], inner)
    elif canonical_json(said) != canonical_json(expected):
        yield where


def _unfit_files(opened: Opened) -> Iterator[str]:
    """What is wrong with files that no score is computed from."""
    try:
        name = names.METHOD_FILE
        if name in opened.contents:
            check_source(opened.contents[name])
        name = names.SAMPLES_FILE
        for number, line in unpacked_lines(opened.contents[name], MAX_SAMPLES) if name in opened.contents else ():
            if number > MAX_SAMPLE_LINES:
                raise Refused(f"has more than {MAX_SAMPLE_LINES:,} lines")
            if not isinstance(parse(line), dict):
                raise Refused(f"line {number} is no JSON object")
    except Refused as why:
        yield f"{name} {why}"


def _wrong_ancestor(opened: Opened, leaderboard: Path) -> Iterator[str]:
    """Why a submission may not take the place of the one that it names."""
    submission = opened.submission
    old = submission.supersedes
    if old is None:
        return
    place = names.Place(submission.result.task, submission.result.method.rpartition(":")[2], old)
    try:
        _, other = read_submission(leaderboard / "submissions" / place.path)
    except Refused:
        yield f"it supersedes {old}, and there is no such run of the same method and task"
        return
    mine, its = submission.result, other.result
    if (mine.method, mine.model, mine.hashes.task) != (its.method, its.model, its.hashes.task):
        yield f"it supersedes {old}, which is of another method, model or version of the task"
    elif mine.run_id == old:
        yield "it supersedes itself"
    elif submission.submitter != other.submitter:
        yield f"it supersedes {old}, which somebody else submitted"


def computed(opened: Opened, yard: Measuring) -> dict[str, Any]:
    """The numbers that the rows give. Raises ``Refused``."""
    submission = opened.submission
    named = (submission.result.model, submission.result.plan.get("task_version"))
    if named != (yard.model.model, yard.task.version):
        raise Refused(f"is of model {named[0]!r} and task version {named[1]!r}, which the lock calls "
                      f"{yard.model.model!r} and {yard.task.version!r}")  # fmt: skip
    rows, attacked = opened.rows(yard)
    if list(rows.frames) != submission.result.seeds:
        raise Refused(f"{names.ROWS_FILE} is of {list(rows.frames)}, not of the seeds {submission.result.seeds}")
    tried = []
    said = {one.name: one for one in submission.result.attacks}
    if len(said) < len(submission.result.attacks):
        raise Refused("names an attack twice")
    for name, sha in submission.yardstick.attacks.items():
        locked = yard.locked_attack(sha)
        if name not in said or locked is None or locked.name != name:
            raise Refused(f"is held against another {name} than the lock's")
        if locked.train != submission.result.plan.get("train"):
            raise Refused(f"is held against a {name} that trains otherwise")
        tried.append(Tried(locked, said.pop(name)))
    tried += [Tried(None, one) for one in said.values()]
    foreign = attacked.tables.keys() - submission.yardstick.attacks.keys()
    if foreign:
        raise Refused(f"has rows of {min(foreign)}, which it doesn't name")
    return score_rows(rows, attacked, sorted(tried, key=lambda one: one.said.name), yard).fields()


def compare(body: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    """Every difference between what ``submission.json`` says and what the rows give, the first few."""
    said = {name: body["result"].get(name) for name in SCORED} | {"ranking": body.get("ranking")}
    found = list(_differences(said, expected, ""))
    yield from found[:MOST_FINDINGS]
    if len(found) > MOST_FINDINGS:
        yield f"and {len(found) - MOST_FINDINGS} further numbers that its rows don't give"


def _differences(said: Any, expected: Any, where: str) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(said, dict):
        for key in [*expected, *(key for key in said if key not in expected)]:
            inner = f"{where}.{key}" if where else str(key)
            if NOT_COMPARED.fullmatch(inner):
                continue
            if key not in said or key not in expected:
                yield f"{shown(inner)} is {'missing' if key not in said else 'no score that the rows give'}"
            else:
                yield from _differences(said[key], expected[key], inner)
    elif isinstance(expected, list) and isinstance(said, list) and len(expected) == len(said):
        for number, (one, other) in enumerate(zip(said, expected, strict=True)):
            yield from _differences(one, other, f"{where}[{number}]")
    elif not _same(said, expected):
        yield f"{shown(where)} is {shown(repr(said), 60)}, and the rows give {shown(repr(expected), 60)}"


def _same(said: Any, expected: Any) -> bool:
    number = (int, float)
    if isinstance(said, number) and isinstance(expected, number) and bool not in (type(said), type(expected)):
        return said == expected and (said != 0 or math.copysign(1, said) == math.copysign(1, expected))
    return type(said) is type(expected) and bool(said == expected)


__all__ = ["EnvironmentProblem", "Finding", "check", "consistent", "validate"]
