"""Fields of pydantic models in the Python reference: each with the description that the model itself has."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from sphinx.application import Sphinx


def _is_model(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, BaseModel)


def add_fields(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Behind the docstring of a model, a list of its fields."""
    if what != "class" or not _is_model(thing):
        return
    if lines and lines[-1].strip():
        lines.append("")
    for field, info in thing.model_fields.items():
        said = " ".join((info.description or "").split()).rstrip(".")
        lines.append(f"* **{info.alias or field}**: {said}" if said else f"* **{info.alias or field}**")
    lines.append("")


def hide_signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str, str] | None:
    """The list says it better than a signature with every type."""
    return ("", "") if what == "class" and _is_model(thing) else None


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", add_fields)
    app.connect("autodoc-process-signature", hide_signature)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
