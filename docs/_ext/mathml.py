"""Formulas as MathML, written when the site is built: a browser shows them without a script, a font or a network."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.writers.html5 import HTML5Translator


def _markup(node: nodes.Element, display: str) -> str:
    source = node.astext()
    try:
        return convert(source, display=display)
    except Exception as problem:
        raise ExtensionError(f"A formula can't be read: {source}") from problem


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(_markup(node, "inline"))
    raise nodes.SkipNode


def visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(f'<div class="formula">{_markup(node, "block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
