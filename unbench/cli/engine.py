"""The options of what generates and scores, shared by ``run`` and ``eval``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
NAMES = click.Choice(["auto", "hf", "vllm"])


def engine_options(function: F) -> F:
    """They arrive as ``engine``, ``score_engine``, ``tensor_parallel``, ``data_parallel`` and ``gpu_memory``."""
    options = [
        click.option("--engine", type=NAMES, default="auto", show_default=True,
                     help="What generates and scores: hf (transformers) or vllm; auto: the faster one for each."),
        click.option("--score-engine", type=NAMES, default="auto", show_default=True,
                     help="What scores, where that is to be another: hf gives all that min-k++ and gradients need."),
        click.option("--tensor-parallel", type=click.IntRange(1), default=1, show_default=True,
                     help="GPUs that share one copy of the model in vLLM."),
        click.option("--data-parallel", type=click.IntRange(1), default=1, show_default=True,
                     help="Copies of the model in vLLM."),
        click.option("--gpu-memory", type=click.FloatRange(0, 1, min_open=True), metavar="SHARE",
                     help="Share of a GPU's memory for vLLM (on a CPU: of the machine's, for its cache).  "
                          "[default: 0.4 beside training, 0.9 alone; 1 GiB on a CPU]"),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function
