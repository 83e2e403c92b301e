"""Sweeps on Ray, and results at a URL."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from unbench.errors import EnvironmentProblem
from unbench.plan import make_plan
from unbench.sweep.job import Job, do
from unbench.sweep.place import Place
from unbench.sweep.run import survey, sweep
from unbench.sweep.spec import make_spec

SLOW = """
import json, pathlib, time
from pydantic import Field
from unbench.method import Method, MethodCard, MethodConfig, Unlearned

class Slow(Method):
    card = MethodCard(name="slow", title="Slow", kind="data", bibtex="")
    trains = False
    class Config(MethodConfig):
        number: int = Field(0, description="which")
    def unlearn(self, context):
        import ray
        line = {"number": self.config.number, "node": ray.get_runtime_context().get_node_id()}
        with open(NOTES, "a") as stream:
            stream.write(json.dumps(line) + "\\n")
        time.sleep(SECONDS)
        return Unlearned()
"""


def silent(description: str, done: int, total: int) -> None:
    """Nothing."""


# At a URL


@pytest.fixture
def url() -> Iterator[str]:
    yield "memory://sweep/runs"
    fsspec.filesystem("memory").rm("/sweep", recursive=True)


def test_a_run_at_a_url(url: str, tmp_path: Path) -> None:
    """It lies there whole, is known as done, and with more seeds asked it goes on from there."""
    spec = make_spec({"methods": "none", "limit": 1})
    plan = make_plan("none", limit=1)
    job = Job(key="a", label="a", plan=plan, out=url)
    outcome = do(job, silent)
    assert outcome.state == "done", outcome.error
    place = Place(url)
    assert place.read(f"{plan.folder_name}/seed-0/responses.parquet")
    assert survey(spec, url)[1].runs[0].kept

    place.fetch(plan.folder_name, tmp_path)
    before = (tmp_path / plan.folder_name / "seed-0" / "respond.json").read_bytes()
    more = job.model_copy(update={"plan": plan.model_copy(update={"seeds": (1,)})})
    assert [one.seed for one in do(more, silent).per_seed] == [0, 1]
    assert place.read(f"{plan.folder_name}/seed-0/respond.json") == before
    assert survey(make_spec({"methods": "none", "limit": 1, "seeds": 2}), url)[1].runs[0].kept


def test_a_failed_run_leaves_its_error_there(url: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text(SLOW.replace("import ray", "raise RuntimeError('it broke')"))
    plan = make_plan("slow", limit=1, plugins=[str(file)])
    outcome = do(Job(key="a", label="a", plan=plan, out=url), silent)
    assert outcome.state == "failed"
    assert f"{url}/{plan.folder_name}/seed-0/error.txt" in str(outcome.error)
    assert b"it broke" in (Place(url).read(f"{plan.folder_name}/seed-0/error.txt") or b"")


@pytest.mark.parametrize("out", ["nosuch://x", "file:///proc/version/x"])
def test_a_place_that_cannot_be_written(out: str) -> None:
    with pytest.raises(EnvironmentProblem, match="can't be read or written"):
        Place(out).write_json("a.json", {})


# On a cluster


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without work and two nodes of one CPU each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 100 * 1024 * 1024}
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    found.add_node(num_cpus=1, **small)
    found.add_node(num_cpus=1, **small)
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.mark.slow
def test_a_node_is_lost_in_the_middle_and_every_run_ends_once(cluster: Any, tmp_path: Path) -> None:
    from unbench.sweep.raypool import RayPool

    notes, file = tmp_path / "notes", tmp_path / "slow.py"
    file.write_text(SLOW.replace("NOTES", repr(str(notes))).replace("SECONDS", "4"))
    numbers = [{"number": number} for number in range(4)]
    spec = make_spec({"methods": "slow", "settings": {"slow": numbers}, "limit": 1, "plugins": str(file)})
    lost: list[str] = []

    def lose_one() -> None:
        while not notes.exists() or len(started()) < 2:
            time.sleep(0.1)
        victim = started()[-1]["node"]
        node = next(node for node in cluster.worker_nodes if node.node_id == victim)
        cluster.remove_node(node, allow_graceful=False)
        lost.append(victim)

    def started() -> list[dict[str, Any]]:
        return [json.loads(line) for line in notes.read_text().splitlines()]

    thread = threading.Thread(target=lose_one, daemon=True)
    thread.start()
    ended: list[str] = []

    class Watch:
        def started(self, job: Job) -> None:
            """Nothing."""

        def progress(self, job: Job, *words: object) -> None:
            """Nothing."""

        def ended(self, job: Job, outcome: object) -> None:
            ended.append(job.key)

    out = f"file://{tmp_path}/runs"
    record = sweep(spec, out, watch=Watch(), pool=RayPool(cluster.address))  # type: ignore[arg-type]
    thread.join(10)
    assert len(lost) == 1
    assert [run.state for run in record.runs] == ["done"] * 4, [run.error for run in record.runs]
    assert sorted(ended) == sorted(str(run.folder) for run in record.runs)
    assert len(list((tmp_path / "runs").rglob("result.json"))) == 4
    # What was under way on the lost node was begun again elsewhere.
    assert len(started()) > 4
    assert {one["number"] for one in started()} == {0, 1, 2, 3}
    assert json.loads((tmp_path / "runs" / "sweep.json").read_text())["schema"] == "unbench.sweep/1"
    assert all(run.kept for run in survey(spec, out)[1].runs)


def test_no_cluster_there() -> None:
    pytest.importorskip("ray")
    from unbench.sweep.raypool import RayPool

    with pytest.raises(EnvironmentProblem, match="no Ray cluster"), RayPool("127.0.0.1:1"):
        pass
