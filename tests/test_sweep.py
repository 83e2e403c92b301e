"""Sweeps: which runs there are, processes that die, what is done and skipped, a sweep that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest

import unbench
from unbench.errors import UsageError
from unbench.plan import Plan, make_plan
from unbench.sweep.job import Job, Outcome
from unbench.sweep.pool import LocalPool, threads_for
from unbench.sweep.record import SweepRecord
from unbench.sweep.run import survey, sweep
from unbench.sweep.spec import grid, make_spec, read_spec

BROKEN = """
from unbench.method import Method, MethodCard

class Broken(Method):
    card = MethodCard(name="broken", title="Broken", kind="data", bibtex="")
    def unlearn(self, context):
        import pathlib
        from unbench import Unlearned
        if not pathlib.Path(getattr(self, "flag", "nowhere")).exists():
            raise RuntimeError("it broke")
        return Unlearned()
"""
FAKE = """
import json, os, sys, time
for line in sys.stdin:
    job = json.loads(line)["job"]
    what = job["label"]
    print(json.dumps({"progress": [str(os.getpid()), 1, 2]}), flush=True)
    if what == "die":
        os._exit(3)
    if what == "killed":
        os.kill(os.getpid(), 9)
    if what == "hang":
        time.sleep(600)
    print(json.dumps({"outcome": {"key": job["key"], "state": "done"}}), flush=True)
"""
"""A worker without torch."""


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan("none", limit=1)


class Seen:
    """Watches, and notes which process did what."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.pids: dict[str, int] = {}

    def started(self, job: Job) -> None:
        self.began.append(job.key)

    def progress(self, job: Job, description: str, done: int, total: int) -> None:
        self.pids[job.key] = int(description)

    def ended(self, job: Job, outcome: Outcome) -> None:
        assert outcome.key == job.key


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


# Which runs


def test_the_grid_is_every_combination() -> None:
    tasks = "bios/fact,bios/person"
    spec = make_spec({"methods": ["npo", "none"], "tasks": tasks, "train": ["full", "lora"], "seeds": 3})
    plans = [cell.plan for cell in grid(spec) if cell.plan]
    found = {(plan.method_name, plan.task, plan.train.kind) for plan in plans}
    assert found == {(m, t, k) for m in ("npo", "none") for t in ("bios/fact", "bios/person") for k in ("full", "lora")}
    assert len(plans) == 8
    assert {plan.seeds for plan in plans} == {(0, 1, 2)}


def test_the_same_run_stands_once() -> None:
    spec = make_spec({"methods": ["npo", "unbench:npo"], "tasks": ["bios/fact", "bios"]})
    assert len(grid(spec)) == 1


def test_settings_by_method_and_a_list_of_them() -> None:
    spec = make_spec({"methods": "npo,idk", "settings": {"npo": [{"lr": "1e-4"}, {"lr": 2e-4}], "idk": {"steps": 7}}})
    plans = [cell.plan for cell in grid(spec) if cell.plan]
    assert [(p.method_name, p.config["lr"]) for p in plans[:2]] == [("npo", 1e-4), ("npo", 2e-4)]
    assert plans[2].config["steps"] == 7


def test_further_options_of_a_run() -> None:
    (cell,) = grid(make_spec({"methods": "npo", "train": "lora", "options": {"rank": 4}}))
    assert cell.plan is not None
    assert cell.plan.train.rank == 4


def test_all_methods() -> None:
    cells = grid(make_spec({"methods": "all"}))
    assert {"none", "npo", "unstar", "retrain"} <= {cell.method.rpartition(":")[2] for cell in cells}
    assert all(cell.error is None for cell in cells)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "A sweep needs methods"),
        ({"methods": "npo", "taks": "bios"}, "Did you mean 'tasks'?"),
        ({"methods": "npoo"}, "Did you mean 'npo'?"),
        ({"methods": "npo", "seeds": []}, "seeds"),
        ({"methods": "npo", "seeds": "a"}, "seeds"),
        ({"methods": "npo", "seeds": 0}, "seeds"),
        ({"methods": "npo", "train": "lor"}, "train"),
        ({"methods": "npo", "settings": {"idk": {"lr": 1}}}, "settings for 'idk'"),
        ({"methods": "npo", "settings": {"npo": {"lrr": 1}}}, "no setting called 'lrr'"),
        ({"methods": "npo", "options": {"ranc": 1}}, "no 'ranc'"),
        ({"methods": "npo", "options": {"seeds": [1]}}, "no 'seeds'"),
    ],
)
def test_a_wrong_sweep_is_one_sentence(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence.replace("?", r"\?")):
        grid(make_spec(values))


@pytest.mark.parametrize("text", ["a: [", "- a", "3", "1: 2", ""])
def test_a_file_that_is_no_sweep(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UsageError):
        read_spec(tmp_path / "s.yaml")
    with pytest.raises(UsageError):
        read_spec(tmp_path / "none.yaml")


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert threads_for(["nano", "nano"], 4) == 1
    assert threads_for(["nano", "smollm2"], 4) == 2
    assert threads_for(["smollm2"], 1) is None
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_for(["nano"], 4) is None


# Processes


def jobs_of(plan: Plan, out: Path, *labels: str) -> list[Job]:
    return [Job(key=f"{i}", label=label, plan=plan, out=str(out)) for i, label in enumerate(labels)]


def test_a_process_does_several_jobs_and_one_that_dies_fails_its_job_alone(plan: Plan, tmp_path: Path) -> None:
    seen = Seen()
    jobs = jobs_of(plan, tmp_path, "a", "b", "die", "c", "killed", "d")
    with LocalPool(1, tmp_path / "logs", command=[sys.executable, "-c", FAKE]) as pool:
        outcomes = list(pool.run(jobs, seen))
    assert [outcome.state for outcome in outcomes] == ["done", "done", "failed", "done", "failed", "done"]
    assert "code 3" in str(outcomes[2].error)
    assert "SIGKILL" in str(outcomes[4].error)
    assert seen.pids["0"] == seen.pids["1"] == seen.pids["2"]
    assert len({seen.pids["2"], seen.pids["3"], seen.pids["5"]}) == 3
    assert not any(psutil.pid_exists(pid) for pid in seen.pids.values())


def test_jobs_are_asked_for_when_there_is_room(plan: Plan, tmp_path: Path) -> None:
    heard: list[str] = []

    def source() -> object:
        for job in jobs_of(plan, tmp_path, "a", "b", "c"):
            # The outcome of what came before is known: one job at a time.
            assert len(heard) == int(job.key)
            yield job

    with LocalPool(1, tmp_path / "logs", command=[sys.executable, "-c", FAKE]) as pool:
        for outcome in pool.run(source(), Seen()):  # type: ignore[arg-type]
            heard.append(outcome.key)
    assert heard == ["0", "1", "2"]


def test_leaving_the_pool_leaves_no_process(plan: Plan, tmp_path: Path) -> None:
    seen = Seen()

    def interrupted() -> None:
        with LocalPool(2, tmp_path / "logs", command=[sys.executable, "-c", FAKE]) as pool:
            for outcome in pool.run(jobs_of(plan, tmp_path, "hang", "b", "c"), seen):
                if outcome.key == "2":
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert seen.began == ["0", "1", "2"]
    assert not any(psutil.pid_exists(pid) for pid in seen.pids.values())


def test_a_worker_ends_when_its_parent_does() -> None:
    worker = subprocess.Popen([sys.executable, "-m", "unbench.sweep.worker"], stdin=subprocess.PIPE)
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(60) == 0


# Runs


def test_a_sweep_does_what_is_left(tmp_path: Path) -> None:
    file, flag = tmp_path / "broken.py", tmp_path / "mended"
    file.write_text(BROKEN.replace("    def unlearn", f"    flag = {str(flag)!r}\n    def unlearn"))
    spec = make_spec({"methods": ["none", "broken", "prompt_guard"], "limit": 1, "seeds": 2, "plugins": [str(file)]})
    out = tmp_path / "runs"
    first = sweep(spec, out)
    assert [run.state for run in first.runs] == ["done", "failed", "done"]
    assert "it broke" in str(first.runs[1].error)
    assert [one.seed for one in first.runs[0].per_seed] == [0, 1]
    assert SweepRecord.model_validate_json((out / "sweep.json").read_text()).runs == first.runs

    flag.touch()
    times = {file: file.stat().st_mtime_ns for file in out.rglob("result.json")}
    second = sweep(spec, out)
    assert [run.kept for run in second.runs] == [True, False, True]
    assert second.count("done") == 3
    assert len(times) == 2
    assert all(file.stat().st_mtime_ns == when for file, when in times.items())


def test_what_is_written_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text(BROKEN)
    _, record = survey(make_spec({"methods": "broken", "plugins": str(file)}), tmp_path / "runs")
    assert str(tmp_path) not in json.dumps(record.public())


@pytest.mark.slow
def test_the_numbers_are_those_of_a_run(tmp_path: Path) -> None:
    """The second run of a process gives what a process of its own gives."""
    steps = {"gradient_ascent": {"steps": 2}}
    spec = make_spec({"methods": ["gradient_ascent", "prompt_guard"], "limit": 2, "settings": steps})
    record = sweep(spec, tmp_path / "runs")
    assert record.count("done") == 2
    for run in record.runs:
        cell = next(cell for cell in grid(spec) if cell.plan and cell.plan.run_id == run.run_id)
        assert cell.plan is not None
        alone = unbench.run(run.method, limit=2, settings=cell.plan.config, out=tmp_path / "alone")
        swept = pd.read_parquet(tmp_path / "runs" / str(run.folder) / "probes.parquet")
        pd.testing.assert_frame_equal(swept, alone.probes)

    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("result.json")}
    again = sweep(spec, tmp_path / "runs")
    assert all(run.kept for run in again.runs)
    assert times == {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("result.json")}
    more = survey(make_spec(spec.model_dump() | {"seeds": [0, 5]}), tmp_path / "runs")[1]
    assert [run.state for run in more.runs] == ["todo", "todo"]


# The command


def start(*words: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "unbench", *words], cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_methods_of_the_command_narrow_a_file(tmp_path: Path) -> None:
    """Its settings of the other methods are left out with them; of one that no one has they are still a mistake."""
    from unbench.cli.sweep import _spec

    file = tmp_path / "sweep.yaml"
    file.write_text("methods: [npo, unstar, none]\nsettings:\n  npo: [{beta: 0.2}]\n  unstar: [{rounds: 2}]\n")
    (cell,) = grid(_spec(file, {"methods": "npo"}))
    assert cell.plan is not None
    assert cell.plan.config["beta"] == 0.2
    assert len(grid(_spec(file, {"methods": "npo, none"}))) == 2
    assert len(grid(_spec(file, {}))) == 3
    file.write_text("methods: [none]\nsettings: {npo: [{beta: 0.2}]}\n")
    with pytest.raises(UsageError, match="settings for 'npo'"):
        grid(_spec(file, {}))


def test_the_dry_run_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom unbench.cli import cli\n"
        "cli.main(['sweep', '--methods', 'npo,none', '--dry-run', '--json'], standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'optuna', 'ray'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["schema"] == "unbench.sweep/1"
    assert [run["state"] for run in shown["runs"]] == ["todo", "todo"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_in_the_middle_it_goes_on(tmp_path: Path, how: signal.Signals) -> None:
    words = ("sweep", "--methods", "none,npo,idk", "--limit", "1", "--jobs", "2", "--json")
    first = start(*words, cwd=tmp_path)
    try:
        wait_for(lambda: any(tmp_path.rglob("result.json")))
        children = psutil.Process(first.pid).children(recursive=True)
        assert children
        first.send_signal(how)
        _, said = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == (130 if how == signal.SIGINT else -9)
    if how == signal.SIGINT:
        assert "go on with: unbench sweep --methods none,npo,idk" in said
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("result.json")}
    second = start(*words, cwd=tmp_path)
    out, said = second.communicate(timeout=200)
    assert second.returncode == 0, said
    assert [run["state"] for run in json.loads(out)["runs"]] == ["done"] * 3
    assert times.items() <= {file: file.stat().st_mtime_ns for file in tmp_path.rglob("result.json")}.items()


def test_a_sweep_with_a_failure_ends_with_4(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    done = start("sweep", "-m", "broken", "--plugin", "broken.py", "--limit", "1", "--json", cwd=tmp_path)
    out, said = done.communicate(timeout=120)
    assert done.returncode == 4, said
    assert "it broke" in json.loads(out)["runs"][0]["error"]
    assert "1 of 1 runs failed" in said
    assert "Traceback" not in said
