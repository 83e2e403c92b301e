"""How a vLLM engine is started: what is checked before, what ``vllm.LLM`` is told, which devices it gets."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from unbench.errors import EnvironmentProblem, UsageError

OLDEST = (0, 32)
"""The oldest vLLM that takes new weights in place the way this engine hands them over."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The limits that vLLM can set for the rank of adapters."""
SHARED, ALONE = 0.4, 0.9
"""Share of a GPU's memory that the engine takes beside training, and on a GPU of its own."""
LONGEST = 4096
"""Most tokens of a prompt and its answer; a model's full context would reserve memory that no probe needs."""
START_ANEW = "Add --resume: the next engine is started for it; or give --engine hf."
CPU_CACHE_BYTES = 1 << 30
"""Key-value cache on a CPU; vLLM's own choice there is half of the machine's memory."""


@dataclass(frozen=True)
class VLLMOptions:
    """What the user may choose, and what the run knows beforehand."""

    device: str = "cpu"
    dtype: str = "float32"
    tensor_parallel: int = 1
    """Devices that share one copy of the model."""
    data_parallel: int = 1
    """Copies of the model, each with its part of the requests."""
    gpu_memory: float | None = None
    """Share of each GPU's memory; None is 0.4 beside training and 0.9 on a GPU of the engine's own. On a CPU: share of
    the machine's memory for the key-value caches of all copies; None is ``CPU_CACHE_BYTES`` each."""
    batch_size: int | None = None
    """Most sequences at once; None leaves it to vLLM."""
    lora_rank: int = 0
    """Highest rank of the adapters to come; 0 is none."""
    lora_targets: tuple[str, ...] = ()
    """The modules that they adapt."""

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def top_rank(self) -> int:
        """The limit that vLLM is given for ``lora_rank``. Raises ``EnvironmentProblem`` above its highest."""
        for rank in RANKS:
            if self.lora_rank <= rank:
                return rank
        raise EnvironmentProblem(
            f"vLLM serves adapters up to rank {RANKS[-1]}, not {self.lora_rank}.",
            "Train one of a lower --rank, or give --engine hf.",
        )

    @property
    def cpu_cache_bytes(self) -> int:
        """Of one copy's key-value cache on a CPU."""
        if self.gpu_memory is None:
            return CPU_CACHE_BYTES
        import psutil

        return int(psutil.virtual_memory().total * self.gpu_memory / self.data_parallel)

    def arguments(self, model: Path, shared: bool) -> dict[str, Any]:
        """Of ``vllm.LLM``; ``shared`` says that training takes place on the same GPU."""
        found: dict[str, Any] = {
            "model": str(model),
            "dtype": self.dtype,
            "max_model_len": longest(model),
            "tensor_parallel_size": self.tensor_parallel,
            # Never pickled weights.
            "load_format": "safetensors",
            # The model's own advice on sampling would change what was asked for.
            "generation_config": "vllm",
            "enable_prefix_caching": True,
        }
        if self.batch_size:
            found["max_num_seqs"] = self.batch_size
        if self.lora_rank:
            # Named, without the output layer: with it, prompt log-probabilities are not to be had.
            names = sorted({target.rpartition(".")[2] for target in self.lora_targets} - {"lm_head"})
            found |= {
                "enable_lora": True, "max_lora_rank": self.top_rank, "max_loras": 1, "lora_target_modules": names,
            }  # fmt: skip
        if self.on_gpu:
            share = self.gpu_memory or (SHARED if shared else ALONE)
            return found | {"gpu_memory_utilization": share, "enable_sleep_mode": shared}
        return found | {
            "kv_cache_memory_bytes": self.cpu_cache_bytes,
            "enforce_eager": True,
            # A prompt that is computed in pieces would need its random numbers rewound, which a CPU's can't be.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(LONGEST, found["max_model_len"]),
        }


def longest(model: Path) -> int:
    """Most tokens of a prompt and its answer together that an engine on ``model`` takes."""
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise UsageError(f"{model} has no config.json that can be read.", "Save the model again.") from problem
    own = config.get("max_position_embeddings")
    return min(own, LONGEST) if isinstance(own, int) and own > 0 else LONGEST


@dataclass(frozen=True)
class Place:
    """Where one copy of the engine runs."""

    environment: Mapping[str, str]
    shared: bool = False
    """Whether training takes place on the same GPU."""


def places(options: VLLMOptions, gpus: int) -> list[Place]:
    """Where each copy is to run; ``gpus`` is the number of GPUs that this process sees. They are the last ones, apart
    from the one that trains, where there are enough. Raises ``EnvironmentProblem`` where there are too few."""
    if not options.on_gpu:
        if options.tensor_parallel > 1:
            raise EnvironmentProblem("Tensor parallelism needs GPUs.", "Leave out --tensor-parallel.")
        # A limit on threads that the user set would otherwise be overruled by vLLM's own choice of cores.
        bound = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"} if os.environ.get("OMP_NUM_THREADS") else {}
        return [Place(bound) for _ in range(options.data_parallel)]
    wanted = options.tensor_parallel * options.data_parallel
    if wanted > gpus:
        raise EnvironmentProblem(
            f"{options.data_parallel} × {options.tensor_parallel} GPUs were asked for, and there are {gpus}.",
            "Lower --data-parallel or --tensor-parallel.",
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",")[:gpus] if visible else [str(i) for i in range(gpus)]
    training = int(options.device.partition(":")[2] or 0)
    if training >= gpus:
        raise EnvironmentProblem(f"There is no {options.device} among {gpus} GPUs.", "Name another --device.")
    order = [name for i, name in enumerate(names) if i != training]
    # The one that trains comes last, so that it is taken only where it has to be.
    chosen = [*reversed(order), names[training]][:wanted]
    found = []
    for first in range(0, wanted, options.tensor_parallel):
        part = chosen[first : first + options.tensor_parallel]
        found.append(Place({"CUDA_VISIBLE_DEVICES": ",".join(part)}, names[training] in part))
    return found


def gpu_count(device: str) -> int:
    """GPUs that an engine on ``device`` may choose from; 0 on a CPU. Imports torch only where there may be any."""
    if not device.startswith("cuda"):
        return 0
    import torch

    return torch.cuda.device_count()


def check_install(device: str) -> str:
    """The version of the vLLM that is installed. Raises ``EnvironmentProblem`` where there is none, one that is too
    old, or one that was built for another kind of device. Imports neither vLLM nor torch."""
    found = installed()
    if found is None:
        raise EnvironmentProblem(
            "The engine 'vllm' needs vLLM, which is not installed.",
            "Install it: pip install 'unbench[vllm]' (CUDA; for a CPU see the README), or give --engine hf.",
        )
    name, number = found
    if _release(number) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise EnvironmentProblem(
            f"The engine 'vllm' needs vLLM {oldest} or newer, and {number} is installed.",
            f"Install a newer one: pip install '{name}>={oldest}', or give --engine hf.",
        )
    for_cpu, on_cpu = built_for_cpu(name, number), not device.startswith("cuda")
    if for_cpu != on_cpu:
        built, asked = ("a CPU", device) if for_cpu else ("CUDA", "the CPU")
        raise EnvironmentProblem(
            f"The vLLM that is installed ({name} {number}) was built for {built}, and the run is to take {asked}.",
            "Install the other build (README, 'vLLM'), or give --engine hf.",
        )
    return number


def installed() -> tuple[str, str] | None:
    """Name and version of the distribution that brings vLLM; None without one."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return name, version(name)
        except PackageNotFoundError:
            continue
    return None


def built_for_cpu(name: str, number: str) -> bool:
    return name == "vllm-cpu" or number.partition("+")[2].startswith("cpu")


def for_this_gpu(device: str) -> bool:
    """Whether an 'auto' engine may be vLLM: it is installed for CUDA, and there is a GPU to run on. Imports no torch,
    for a plan is made without."""
    found = installed()
    if found is None or built_for_cpu(*found) or _release(found[1]) < OLDEST or not device.startswith(("auto", "cuda")):
        return False
    return os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and Path("/dev/nvidiactl").exists()


def check_served(options: VLLMOptions) -> None:
    """Raises ``EnvironmentProblem`` for adapters that vLLM is known not to serve."""
    if options.lora_rank and options.top_rank and "lm_head" in options.lora_targets:
        raise EnvironmentProblem(
            "vLLM gives no log-probabilities of prompts where an adapter changes the output layer (lm_head).",
            "Leave it out of --lora-targets, or give --engine hf.",
        )


def check_adapter(folder: Path, options: VLLMOptions) -> None:
    """Raises ``EnvironmentProblem`` where an engine that was started with ``options`` can't serve the adapter."""
    rank, targets = adapter_shape(folder)
    if not options.lora_rank:
        raise EnvironmentProblem(
            f"{folder} is an adapter, and the vLLM engine was started for whole models.",
            START_ANEW,
        )
    if rank > options.top_rank:
        raise EnvironmentProblem(
            f"The adapter in {folder} has rank {rank}, and the vLLM engine was started for up to {options.top_rank}.",
            START_ANEW,
        )
    check_served(VLLMOptions(lora_rank=rank, lora_targets=targets))
    outside = sorted(set(targets) - set(options.lora_targets))
    if outside:
        raise EnvironmentProblem(
            f"The adapter in {folder} adapts modules that the vLLM engine was not started for: {', '.join(outside)}.",
            START_ANEW,
        )


def adapter_shape(folder: Path) -> tuple[int, tuple[str, ...]]:
    """Highest rank of a peft adapter, and the modules that it adapts. Raises ``EnvironmentProblem`` for one that is no
    plain LoRA adapter and ``UsageError`` for one that can't be read."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise UsageError(
            f"{folder} has no adapter_config.json that can be read.", "Save the adapter again."
        ) from problem
    if not list(folder.glob("adapter_model*.safetensors")):
        raise UsageError(f"{folder} holds no adapter_model.safetensors.", "Save the adapter as safetensors.")
    targets, kind = config.get("target_modules"), config.get("peft_type")
    plain = kind == "LORA" and config.get("bias", "none") == "none" and not config.get("modules_to_save")
    if not plain or config.get("use_dora") or not isinstance(targets, Sequence) or isinstance(targets, str):
        raise EnvironmentProblem(
            f"The adapter in {folder} is no plain LoRA adapter with named modules, which is all that vLLM serves.",
            "Give --engine hf.",
        )
    return max([config.get("r", 0), *(config.get("rank_pattern") or {}).values()]), tuple(targets)


def _release(number: str) -> tuple[int, ...]:
    parts = number.partition("+")[0].split(".")[:2]
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in parts)
