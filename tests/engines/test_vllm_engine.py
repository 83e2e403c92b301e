"""The vLLM engine's half of the work, on a fake of the other half (``fake_vllm``): what is asked and answered, what
becomes of the processes, and what a user reads when something goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model

from unbench.engines.base import Sampling, ScoreRequest
from unbench.engines.hf import HFEngine
from unbench.engines.room import Engines
from unbench.engines.vllm import VLLMEngine
from unbench.engines.vllm_options import VLLMOptions
from unbench.engines.vllm_worker import Server
from unbench.errors import EnvironmentProblem, RunFailed, UsageError
from unbench.method import Unlearned
from unbench.models.load import Target, load_model
from unbench.models.nano import nano_folder
from unbench.plan import make_plan

FAKE = Path(__file__).parent / "fake_vllm"
ADAPTED = VLLMOptions(lora_rank=2, lora_targets=("q_proj", "v_proj"))
PROMPTS = [[5, 6, 7], [300, 20], [5, 6, 7], [8], [40, 41, 42, 43]]
REQUESTS = [ScoreRequest([5, 6], [[7, 8], [9], [7, 8]]), ScoreRequest([30], [[31, 32, 33]]), ScoreRequest([9], [[4]])]


@pytest.fixture(autouse=True, scope="module")
def _fake() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(FAKE))
        # Where the version is looked up.
        patch.syspath_prepend(str(FAKE))
        yield


@pytest.fixture(scope="module")
def target() -> Path:
    return nano_folder("target")


@pytest.fixture
def hf(target: Path) -> Iterator[HFEngine]:
    with HFEngine.open(target) as engine:
        yield engine


@pytest.fixture(scope="module")
def served(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMEngine]:
    with VLLMEngine.open(target, tmp_path_factory.mktemp("served") / "log") as engine:
        yield engine


def adapter(target: Path, folder: Path, rank: int = 2, targets: tuple[str, ...] = ("q_proj", "v_proj")) -> Path:
    torch.manual_seed(0)
    net = get_peft_model(
        load_model(target, "cpu", torch.float32),
        LoraConfig(r=rank, target_modules=list(targets), task_type="CAUSAL_LM"),
    )
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    net.save_pretrained(str(folder))
    return folder


def other_weights(target: Path, folder: Path) -> Path:
    net = load_model(target, "cpu", torch.float32)
    with torch.no_grad():
        net.model.embed_tokens.weight.mul_(1.5)
    net.save_pretrained(str(folder))
    return folder


def same(vllm: VLLMEngine, hf: HFEngine) -> None:
    for mine, theirs in zip(vllm.score(REQUESTS), hf.score(REQUESTS), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
            assert a.is_argmax == b.is_argmax
            assert a.mean is None
    greedy = Sampling(max_new_tokens=6)
    assert vllm.generate(PROMPTS, greedy) == hf.generate(PROMPTS, greedy)


def family(pids: list[int]) -> list[psutil.Process]:
    """The processes of an engine with all that they started."""
    heads = [psutil.Process(pid) for pid in pids]
    return [*heads, *(child for head in heads for child in head.children(recursive=True))]


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=20)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def test_the_same_as_hf_whatever_is_served(target: Path, hf: HFEngine, tmp_path: Path) -> None:
    whole = other_weights(target, tmp_path / "whole")
    with VLLMEngine.open(target, tmp_path / "log", VLLMOptions(data_parallel=2)) as vllm:
        processes = family(vllm.pids)
        assert len(processes) == 4
        for weights in (None, whole, None):
            vllm.load(Unlearned(weights))
            hf.load(Unlearned(weights))
            same(vllm, hf)
        assert vllm.stats.tokens_generated == hf.stats.tokens_generated
        # Equal requests are computed once: 2 + 1 + 3 + 1 tokens, three times.
        assert vllm.stats.tokens_scored == 21
        assert vllm.stats.notes
    assert gone(processes)
    assert "the log of a fake engine" in (tmp_path / "log").read_text()


def test_adapters_come_and_go(target: Path, hf: HFEngine, tmp_path: Path) -> None:
    own = adapter(target, tmp_path / "adapter")
    with VLLMEngine.open(target, tmp_path / "log", ADAPTED) as vllm:
        for weights in (own, None, own):
            vllm.load(Unlearned(weights))
            hf.load(Unlearned(weights))
            same(vllm, hf)
        with pytest.raises(EnvironmentProblem, match=r"rank 9.*up to 8\. Add --resume"):
            vllm.load(Unlearned(adapter(target, tmp_path / "high", rank=9)))
        with pytest.raises(EnvironmentProblem, match="not started for: o_proj"):
            vllm.load(Unlearned(adapter(target, tmp_path / "wide", targets=("q_proj", "o_proj"))))
        same(vllm, hf)  # what was refused changed nothing
        for weights in (other_weights(target, tmp_path / "whole"), own, None):
            vllm.load(Unlearned(weights))
            hf.load(Unlearned(weights))
            same(vllm, hf)


def test_stop_strings_and_limits(served: VLLMEngine, hf: HFEngine) -> None:
    free = hf.generate(PROMPTS, Sampling(max_new_tokens=8))
    cut = Sampling(max_new_tokens=8, stop=(free[0].text[2:5], "never said"))
    assert served.generate(PROMPTS, cut) == hf.generate(PROMPTS, cut)
    assert served.generate(PROMPTS, Sampling(max_new_tokens=0)) == hf.generate(PROMPTS, Sampling(max_new_tokens=0))
    assert served.generate([], Sampling()) == []
    assert served.score([]) == []
    with pytest.raises(UsageError, match="holds 512"):
        served.generate([[5] * 512], Sampling())
    with pytest.raises(ValueError, match="at least one token"):
        served.generate([[]], Sampling())


def test_progress_and_sampling_again(served: VLLMEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []
    sampling = Sampling(max_new_tokens=6, temperature=1.0, seed=4)
    monkeypatch.setattr(served, "progress", lambda *values: told.append(values))
    first = served.generate(PROMPTS, sampling)
    assert served.generate(PROMPTS, sampling) == first
    assert told[-1] == ("generate", len(PROMPTS), len(PROMPTS))


@pytest.mark.parametrize(
    ("fault", "says", "then"),
    [
        ("import", "can't be imported: no module that this vLLM wants.", "--engine hf"),
        ("memory", "too little memory for vLLM", "larger --gpu-memory"),
        ("taken", "too little memory for vLLM", "smaller --gpu-memory"),
        ("head", "can't serve .*: Head size 24 is not supported.", "--engine hf"),
        (
            "quiet",
            "ended with code 7 while it started. Its last lines:\n  .*\n  and what went wrong",
            "the log|Its log",
        ),
    ],
)
def test_an_engine_that_does_not_start(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, says: str, then: str
) -> None:
    monkeypatch.setenv("FAKE_VLLM", fault)
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(EnvironmentProblem, match=says) as found:
        VLLMEngine.open(target, tmp_path / "log")
    assert found.match(then)
    assert not set(psutil.Process().children(recursive=True)) - before


def test_an_engine_that_is_killed(target: Path, tmp_path: Path) -> None:
    with VLLMEngine.open(target, tmp_path / "log") as vllm:
        processes = family(vllm.pids)
        os.kill(vllm.pids[0], signal.SIGKILL)
        with pytest.raises(RunFailed, match="was killed by SIGKILL before it had answered") as found:
            vllm.generate(PROMPTS, Sampling())
        assert found.match("--resume")
        assert gone(processes), "what it had started too"


def test_memory_that_runs_out_in_the_middle(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VLLM", "full")
    with (
        VLLMEngine.open(target, tmp_path / "log") as vllm,
        pytest.raises(RunFailed, match=r"CUDA out of memory\. .*--batch-size.*--gpu-memory.*--resume"),
    ):
        vllm.generate(PROMPTS, Sampling())


@pytest.mark.parametrize(("fault", "sleeps"), [("", True), ("no sleep", False), ("insomnia", False)])
def test_a_device_that_can_not_sleep_goes_on_serving(
    target: Path, monkeypatch: pytest.MonkeyPatch, fault: str, sleeps: bool
) -> None:
    monkeypatch.setenv("FAKE_VLLM", fault)
    options = VLLMOptions().arguments(target, shared=False) | {"enable_sleep_mode": True}
    server = Server(options, lambda kind, value: None)
    try:
        server.rest()
        assert server._llm.asleep == sleeps
        # As always, the next call wakes it.
        assert len(server.score([[5, 6, 7]], [1])) == 1
        assert not server._llm.asleep
    finally:
        server._llm._helper.kill()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_process_that_started_it(target: Path, tmp_path: Path, how: signal.Signals) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom unbench.engines.vllm import VLLMEngine\n"
        "with VLLMEngine.open(sys.argv[1], Path(sys.argv[2])) as engine:\n"
        "    print(*engine.pids, flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(target), str(tmp_path / "log")],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        # A shell starts background jobs with SIGINT ignored, and children inherit it.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as started:  # fmt: skip
        assert started.stdout is not None
        processes = family([int(word) for word in started.stdout.readline().split()])
        assert len(processes) == 2
        started.send_signal(how)
    assert gone(processes)


def test_one_start_for_all_that_a_run_asks(target: Path, tmp_path: Path) -> None:
    plan = make_plan("npo", engine="vllm")
    with Engines(Target(target, "cpu", torch.float32), plan, tmp_path) as engines:
        for weights in (None, other_weights(target, tmp_path / "whole")):
            with engines.open() as engine:
                engine.load(Unlearned(weights))
                engine.generate(PROMPTS, Sampling(max_new_tokens=2))
            with engines.training():
                pass
        assert engines.starts == 1
        work = engines.take_work()
        assert work["tokens_generated"] == 4 * 2 * 2
        assert all(work[f"{what}_s"] > 0 for what in ("generation", "training"))
        # What was taken is not counted again.
        assert not any(engines.take_work().values())
        processes = family(engines._vllm.pids if engines._vllm else [])
    assert processes
    assert gone(processes)


UNSTAR = [
    "--quiet", "run", "--method", "unstar", "--engine", "vllm", "--limit", "2", "--json",
    "--set", "rounds=1", "--set", "paraphrases=1", "--set", "anti_samples_min=1", "--set", "steps=2",
]  # fmt: skip


def unbench(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(FAKE), str(Path(__file__).parents[2])])
    return subprocess.run(
        [sys.executable, "-m", "unbench", *words],
        env=os.environ | {"PYTHONPATH": path} | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_unstar_with_one_start_and_again_after_a_crash(tmp_path: Path) -> None:
    words = (*UNSTAR, "--out", str(tmp_path))
    before = time.time()
    died = unbench(*words, FAKE_VLLM="die")
    assert died.returncode == 4, died.stderr
    assert "killed by SIGKILL" in died.stderr
    assert "Traceback" not in died.stderr
    assert not _left_since(before)
    done = unbench(*words, "--resume")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    compute = result["compute"]
    assert compute["engine_starts"] == 1
    assert compute["tokens_generated"] > 0
    assert compute["tokens_per_s"] > 0
    shares = [compute[f"{what}_share"] for what in ("generation", "scoring", "training")]
    assert all(share > 0 for share in shares)
    assert sum(shares) < 1
    assert result["plan"]["engine"] == "vllm"
    (log,) = tmp_path.rglob("vllm-1.log")
    # Both starts wrote to it.
    assert log.read_text().count("the log of a fake engine") == 2
    assert "the log of a fake engine" not in done.stderr


@pytest.mark.slow
def test_scores_by_the_other_engine(tmp_path: Path) -> None:
    words = ("--quiet", "eval", "nano", "--limit", "1", "--json", "--gradnorm")
    plain = json.loads(unbench(*words).stdout)
    mixed = json.loads(unbench(*words, "--engine", "vllm", "--score-engine", "hf").stdout)
    vllm = json.loads(unbench(*words, "--engine", "vllm").stdout)
    for group, other, third in zip(plain["groups"], mixed["groups"], vllm["groups"], strict=True):
        assert group["known_unlearned"] == pytest.approx(other["known_unlearned"], abs=1e-4)
        assert group["known_unlearned"] == pytest.approx(third["known_unlearned"], abs=1e-4)
    assert (mixed["plan"]["engine"], mixed["plan"]["score_engine"]) == ("vllm", "hf")
    assert len({one["run_id"] for one in (plain, mixed, vllm)}) == 3


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _left_since(moment: float) -> list[psutil.Process]:
    """Engines, and what the fake ones start, that were started after ``moment`` and are still there."""
    wanted = ("vllm_worker", "sleep 600")
    return [
        process
        for process in psutil.process_iter(["create_time"])
        if process.info["create_time"] > moment and any(word in _words(process) for word in wanted)
    ]
