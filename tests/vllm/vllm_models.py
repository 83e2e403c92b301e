"""The models that vLLM is compared on, and the task that each is asked."""

from __future__ import annotations

import pytest

MODELS = ["nano", pytest.param("smollm2", marks=pytest.mark.slow)]
TASKS = {"nano": "bios/fact", "smollm2": "facts/hogwarts"}
