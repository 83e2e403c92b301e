"""The UnSTAR method: the model writes its own misleading anti-samples and is fine-tuned on them (arXiv 2410.17050)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unbench.unstar.config import UnSTARConfig
    from unbench.unstar.loop import UnSTAR

__all__ = ["UnSTAR", "UnSTARConfig"]


def __getattr__(name: str) -> Any:
    """Loaded on demand: tasks read ``unbench.unstar.prompts`` for their corpora and need none of the method."""
    if name == "UnSTAR":
        from unbench.unstar.loop import UnSTAR

        return UnSTAR
    if name == "UnSTARConfig":
        from unbench.unstar.config import UnSTARConfig

        return UnSTARConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
