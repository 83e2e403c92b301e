"""The models that vLLM is compared on, the task that each is asked, and one with questions enough for 200 texts."""

from __future__ import annotations

import pytest

MODELS = ["nano", pytest.param("smollm2", marks=pytest.mark.slow)]
TASKS = {"nano": "bios/fact", "smollm2": "facts/hogwarts"}
TEXTS = {"nano": "bios/fact", "smollm2": "facts/all"}
