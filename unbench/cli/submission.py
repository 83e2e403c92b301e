"""``unbench submit``, ``validate``, ``verify`` and ``leaderboard lock``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unbench.cli.run import data_option

leaderboard_option = click.option(
    "--leaderboard", type=click.Path(path_type=Path), default=Path("leaderboard"), show_default=True,
    help="Folder of the leaderboard (tasks.lock.json, submissions).",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN…")
@click.option("--submitter", required=True, help="Who submits: a name, as the page shows it.")
@click.option("--weights", "published", metavar="URL[@REVISION]", help="Where the unlearned weights are published.")
@click.option("--supersedes", metavar="RUN-ID", help="Older submission whose place this one takes.")
@leaderboard_option
@data_option
@json_option
def submit(runs: tuple[str, ...], submitter: str, published: str | None, supersedes: str | None, leaderboard: Path,
           data_dir: Path | None, as_json: bool) -> None:  # fmt: skip
    """Pack a finished RUN for the leaderboard, check it and print the git steps.

    Works offline: it writes LEADERBOARD/submissions/<task>/<method>/<run-id>/ and nothing else. A run made with
    --limit, by an UnBench with changed files, or of a task of your own is refused.

    \b
    unbench submit runs/bios/fact/unstar/ec88ad368b53 --submitter "A. Researcher"
    """
    import shlex

    from unbench.cli.output import print_json
    from unbench.results.store import find_run
    from unbench.submissions.check import check
    from unbench.submissions.pack import pack_run, read_weights
    from unbench.submissions.read import yardsticks

    done = []
    for run in runs:
        folder = find_run(run)
        weights = None if published is None else read_weights(published, folder)
        packed = pack_run(folder, leaderboard, submitter=submitter, weights=weights, supersedes=supersedes,
                          data_dir=data_dir)  # fmt: skip
        yardsticks.cache_clear()
        findings = list(check(packed.folder, yardsticks(leaderboard)))
        for finding in findings:
            click.echo(str(finding), err=True)
        if findings:
            raise click.exceptions.Exit(1)
        for note in packed.notes:
            click.echo(note, err=True)
        done.append(packed)
    if as_json:
        print_json({"schema": "unbench.submitted/1", "submissions": [
            {"run_id": one.submission.result.run_id, "folder": str(one.folder), "notes": one.notes} for one in done
        ]})  # fmt: skip
        return
    for one in done:
        size = sum(path.stat().st_size for path in one.folder.iterdir())
        click.echo(f"packed {one.folder} ({size / 1000:.0f} kB); its rows give its numbers")
    first = done[0].submission.result
    name = f"{first.method.rpartition(':')[2]}-{first.run_id}"
    click.echo("Next, in a fork of the repository:")
    click.echo(f"  git switch -c {name}")
    click.echo(f"  git add {shlex.join(str(one.folder) for one in done)}")
    click.echo(f"  git commit -m {shlex.quote(f'Submit {name}')}")
    click.echo(f"  git push -u origin {name}")
    click.echo("and open a pull request: CI validates it without running its code.")


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path), metavar="[PATH…]")
@click.option("--base", metavar="REF", help="Git ref to compare with: old entries may only be added to.")
@data_option
@json_option
def validate(paths: tuple[Path, ...], base: str | None, data_dir: Path | None, as_json: bool) -> None:
    """Check submissions (default: leaderboard/submissions). Nothing of theirs is run.

    Every file is read within limits, every score computed again from the rows and compared digit by digit; with
    --base nothing that was there before may have changed. Exit code 1 where something is wrong.

    \b
    unbench validate leaderboard/submissions --base origin/main
    """
    from unbench.cli.output import print_json
    from unbench.errors import UsageError
    from unbench.submissions.check import validate as checked
    from unbench.submissions.files import leaderboard_of
    from unbench.submissions.history import compare_with

    roots = list(paths) or [Path("leaderboard/submissions")]
    if not roots[0].exists():
        raise UsageError(f"There is no folder {str(roots[0])!r}.", "Name the submissions: unbench validate PATH.")
    folders, findings = checked(roots, data_dir)
    if base is not None:
        for leaderboard in sorted({leaderboard_of(root) for root in roots}):
            findings += compare_with(leaderboard, base)
    if as_json:
        body = [{"path": one.path, "level": one.level, "what": one.what} for one in findings]
        print_json({"schema": "unbench.validation/1", "checked": len(folders), "findings": body})
    else:
        for finding in findings:
            click.echo(str(finding))
        click.echo(f"{len(folders)} submissions checked, {len(findings)} findings", err=True)
    if findings:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("run", metavar="RUN-ID")
@leaderboard_option
@click.option("--weights", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Folder with the published weights, one folder a seed: they are asked again.")  # fmt: skip
@click.option("--seeds", type=click.IntRange(1), help="Only the first so many seeds.  [default: all]")
@click.option("--run-code", is_flag=True, help="Run a method that was submitted as a file. Read it first.")
@click.option("--device", default="auto", envvar="UNBENCH_DEVICE", show_envvar=True, help="auto, cpu, cuda …")
@click.option("--out", type=click.Path(path_type=Path), default=Path("verify"), show_default=True,
              help="Folder of the run that is made.")  # fmt: skip
@data_option
@json_option
@click.pass_obj
def verify(obj: dict[str, Any], run: str, leaderboard: Path, weights: Path | None, seeds: int | None, run_code: bool,
           device: str, out: Path, data_dir: Path | None, as_json: bool) -> None:  # fmt: skip
    """Do a submission again (for maintainers) and write LEADERBOARD/verifications/<run-id>.json.

    The run is made again from its plan, or its published weights are asked again. Exit code 1 where a score is not
    found within 0.02 of what was claimed on the same seeds.
    """
    from unbench.cli.output import print_json, score_text
    from unbench.cli.progress import progress_bars
    from unbench.cli.run import quiet_libraries
    from unbench.submissions.verify import find_submission
    from unbench.submissions.verify import verify as verified

    folder = find_submission(leaderboard, run)
    quiet_libraries()
    with progress_bars(obj["quiet"]) as progress:
        found = verified(folder, leaderboard, out, weights=weights, seeds=seeds, run_code=run_code, device=device,
                         data_dir=data_dir, progress=progress)  # fmt: skip
    if as_json:
        print_json(found.model_dump(mode="json", by_alias=True))
    else:
        for name, score in found.scores.items():
            click.echo(f"{name:12} claimed {score_text(found.claimed[name])}, found {score_text(score)}")
        click.echo(f"{found.run_id}: {found.badge}")
    if found.badge == "refuted":
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN…")
@leaderboard_option
@data_option
@click.pass_obj
def lock(obj: dict[str, Any], runs: tuple[str, ...], leaderboard: Path, data_dir: Path | None) -> None:
    """Add the yardstick of finished RUNs (for maintainers): what target and references answer, and what the runs'
    attacks find on them. What is locked is never changed."""
    from unbench.cli.progress import progress_bars
    from unbench.cli.run import quiet_libraries
    from unbench.results.store import find_run
    from unbench.submissions.lock import add_yardstick

    quiet_libraries()
    for run in runs:
        with progress_bars(obj["quiet"]) as progress:
            added = add_yardstick(find_run(run), leaderboard, progress, data_dir)
        what = ["the model's answers"] if added.new_model else []
        what += [f"{len(added.attacks)} attacks"] if added.attacks else []
        click.echo(f"{added.task}, {added.model}: {' and '.join(what) or 'nothing new'}")
