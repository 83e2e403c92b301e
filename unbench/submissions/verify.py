"""``unbench verify``: the published weights asked again, or the run made again from its plan."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from unbench.engines.settings import ServingSettings
from unbench.errors import UsageError
from unbench.models.cache import folder_hash
from unbench.plan import Plan
from unbench.pluginfile import plugin_files
from unbench.results.schema import Result, Score, Scores
from unbench.results.store import RunFolder, write_bytes, write_json
from unbench.submissions import files as names
from unbench.submissions.check import check
from unbench.submissions.read import Opened, open_submission
from unbench.submissions.rows import Of, Rows, write_rows
from unbench.submissions.schema import Verified
from unbench.submissions.score import rounded, score_rows
from unbench.submissions.strict import Refused, read_file
from unbench.submissions.yardstick import Measuring, Yardsticks, sha256
from unbench.training.settings import MachineSettings

if TYPE_CHECKING:
    import pandas as pd

    from unbench.method import Progress

TOLERANCE = 0.02
"""Difference of a score, on the same seeds, that another machine's arithmetic may make."""


def find_submission(leaderboard: Path, run: str) -> Path:
    """The submission in a folder, or with that run-id (or its beginning) below ``leaderboard/submissions``."""
    given = Path(run)
    if (given / names.SUBMISSION_FILE).is_file():
        return given
    known = run.isalnum()
    hits = sorted((leaderboard / "submissions").glob(f"*/*/*/{run}*/{names.SUBMISSION_FILE}")) if known else []
    if len(hits) != 1:
        raise UsageError(f"{run!r} stands for {len(hits)} submissions in {leaderboard}.",
                         f"Name one of: ls -d {leaderboard}/submissions/*/*/*/*.")  # fmt: skip
    return hits[0].parent


def verify(
    folder: Path,
    leaderboard: Path,
    out: Path,
    *,
    weights: Path | None = None,
    seeds: int | None = None,
    run_code: bool = False,
    device: str = "auto",
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Verified:
    """Do a submission again and write what was found to ``leaderboard/verifications``.

    Args:
        folder: the submission.
        leaderboard: its leaderboard.
        out: where the run is made.
        weights: folder with the published weights, one folder a seed (``seed-0`` …): they are asked again. None: the
            run is made again.
        seeds: only so many of its seeds.
        run_code: whether a method that was submitted as a file may be run here.

    Raises ``UsageError`` where that can't be done; a submission whose own numbers don't hold is refused too.
    """
    from unbench import spine

    again = f"See 'unbench validate {folder}'."
    sticks = Yardsticks(leaderboard, data_dir)
    # A plan that nobody has checked could name a file to run or a folder to write to.
    for finding in check(folder, sticks):
        raise UsageError(f"This submission can't be verified: {finding.what}.", again)
    try:
        opened = open_submission(folder)
        yard = sticks.find(opened.submission.result.task, opened.submission.yardstick)
        rows, _ = opened.rows(yard)
    except Refused as why:
        raise UsageError(f"This submission can't be verified: it {why}.", again) from why
    wanted = tuple(opened.submission.result.seeds[:seeds])
    plan = _plan(opened, wanted, out, run_code, device, data_dir)
    if weights is not None:
        _place_weights(opened, rows, plan, out, weights)
    result = spine.run(plan, out, resume=weights is not None, progress=progress)
    found = _scores(result, RunFolder(Path(result.dir)), rows, yard, wanted)
    claimed = _claimed(rows, yard, wanted)
    same = agree(found, claimed)
    verified = Verified(
        schema="unbench.verification/1",
        run_id=result.run_id,
        submission=sha256(read_file(folder / names.SUBMISSION_FILE)),
        badge=("re-evaluated" if weights is not None else "reproduced") if same else "refuted",
        seeds=list(wanted),
        scores=found,
        claimed=claimed,
        code={"commit": result.code.commit, "dirty": result.code.dirty, "versions": result.versions},
        device=result.device,
        verified_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_json(leaderboard / "verifications" / f"{result.run_id}.json", verified.model_dump(mode="json", by_alias=True))
    return verified


def agree(found: dict[str, Score], claimed: dict[str, Score]) -> bool:
    """Whether every score was found as claimed, within ``TOLERANCE``; null is found null."""
    for name, claim in claimed.items():
        value = found[name].value
        if (value is None) != (claim.value is None):
            return False
        if value is not None and claim.value is not None and abs(value - claim.value) > TOLERANCE:
            return False
    return True


def _plan(
    opened: Opened, seeds: tuple[int, ...], out: Path, run_code: bool, device: str, data_dir: Path | None
) -> Plan:
    plan = Plan.model_validate(opened.submission.result.plan)
    # How it was computed is this machine's affair, and where its curves are sent too.
    update: dict[str, object] = {
        "seeds": seeds, "device": device, "attacks": (), "lm_eval": (), "batch_size": None,
        "machine": MachineSettings(), "serving": ServingSettings(),
    }  # fmt: skip
    if plan.plugins:
        if not run_code:
            raise UsageError("Its method is a file that a stranger wrote, and verifying it runs that file.",
                             "Read method.py first; then add --run-code, on a machine that may be lost.")  # fmt: skip
        place = out / f"{opened.submission.result.run_id}-{names.METHOD_FILE}"
        write_bytes(place, opened.contents[names.METHOD_FILE])
        update["plugins"] = plugin_files([str(place)])
    if data_dir is not None:
        update["data_dir"] = str(data_dir)
    if plan.model_hash is not None or plan.references:
        raise UsageError(f"Its model {plan.model!r} is a folder, which only its submitter has.",
                         "Only named and hub models can be verified.")  # fmt: skip
    return plan.model_copy(update=update)


def _place_weights(opened: Opened, rows: Rows, plan: Plan, out: Path, weights: Path) -> None:
    """A run folder in which the unlearn step is done: the published weights, checked against their hashes."""
    published = opened.submission.weights
    if published is None:
        raise UsageError("This submission publishes no weights.", "Leave out --weights: the run is made again.")
    folder, plan = RunFolder.start(out, plan, resume=False)
    for seed in plan.seeds:
        given = weights / f"seed-{seed}"
        if not given.is_dir() or folder_hash(given) != published.sha256.get(str(seed)):
            raise UsageError(f"{given} does not hold the published weights of seed {seed}.",
                             f"Get them from {published.url}, one folder a seed.")  # fmt: skip
        place = folder.seed(seed)
        shutil.rmtree(place.path, ignore_errors=True)
        own = rows.own[seed]
        usage = {"questions": [], "taught": own.taught}
        place.work.mkdir(parents=True)
        place.finish_unlearn(
            {"weights": str(given.resolve()), "system_prompt": None, "usage": usage, "wall_s": 0.0,
             "dtype": f"torch.{opened.submission.result.dtype}", "weights_hash": published.sha256[str(seed)]}
        )  # fmt: skip


def _scores(result: Result, folder: RunFolder, rows: Rows, yard: Measuring, seeds: tuple[int, ...]) -> dict[str, Score]:
    """The scores of the run that was made now, rounded and held against the yardstick as a submission's."""
    from unbench.submissions.rows import read_rows

    frames: dict[Of, pd.DataFrame] = {seed: folder.seed(seed).read_responses() for seed in seeds}
    content = write_rows(frames, {seed: rows.own[seed] for seed in seeds}, yard.probes, yard.task.knowledge)
    return _headline(read_rows(content, yard.probes, yard.task.knowledge), yard)


def _claimed(rows: Rows, yard: Measuring, seeds: tuple[int, ...]) -> dict[str, Score]:
    return _headline(Rows({seed: rows.frames[seed] for seed in seeds}, {seed: rows.own[seed] for seed in seeds}), yard)


def _headline(rows: Rows, yard: Measuring) -> dict[str, Score]:
    from unbench.submissions.rows import AttackRows

    scores = score_rows(rows, AttackRows({}), [], yard).measured.scores
    return {name: rounded(getattr(scores, name)) for name in Scores.model_fields}
