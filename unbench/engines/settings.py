"""Which engine does what, as a plan says it. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from unbench.engines.vllm_options import for_this_gpu
from unbench.errors import UsageError

EngineName = Literal["hf", "vllm"]
EngineChoice = Literal["auto", "hf", "vllm"]


class ServingSettings(BaseModel):
    """How vLLM is started. None of these changes a number beyond rounding, so they stay out of the run-id."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    tensor_parallel: int = Field(default=1, ge=1, description="GPUs that share one copy of the model in vLLM")
    data_parallel: int = Field(default=1, ge=1, description="copies of the model in vLLM, each on GPUs of its own")
    gpu_memory: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of a GPU's memory for vLLM; null: 0.4 beside training, 0.9 alone. "
        "On a CPU: share of the machine's memory for its key-value cache; null: 1 GiB",
    )


def choose_engines(
    engine: str, score_engine: str, device: str, *, generates: bool, processes: int, serving: ServingSettings
) -> tuple[EngineName, EngineName | None]:
    """What generates, and what scores where that is another engine. 'auto' is the engine that is faster at each: vLLM
    for the texts of a method that writes many, on a GPU that it was built for; hf for everything else.

    Raises ``UsageError`` for names that are none, and for options of vLLM's where hf does everything.
    """
    for option, name in (("--engine", engine), ("--score-engine", score_engine)):
        if name not in ("auto", "hf", "vllm"):
            raise UsageError(f"There is no engine {name!r}.", f"Give {option} auto, hf or vllm.")
    writes: EngineName = "hf"
    if engine == "vllm" or (engine == "auto" and generates and processes == 1 and for_this_gpu(device)):
        writes = "vllm"
    scores: EngineName = "hf"
    if score_engine == "vllm" or (score_engine == "auto" and engine == "vllm"):
        scores = "vllm"
    if "vllm" in (writes, scores) and processes > 1:
        raise UsageError("vLLM is not started beside several training processes.", "Leave out --num-processes.")
    if "vllm" not in (writes, scores) and serving != ServingSettings():
        raise UsageError("Options of vLLM's change nothing where hf does everything.", "Add --engine vllm.")
    return writes, None if scores == writes else scores
