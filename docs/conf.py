"""How Sphinx builds this folder into a site: `make docs`. Everything a page loads lies in the site itself."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from unbench import __version__  # noqa: E402  (the checkout's, wherever the build was started)

project = "UnBench"
author = "UnBench contributors"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "mathml",
    "cli_reference",
    "pydantic_fields",
]
exclude_patterns = ["_build"]
smartquotes = False  # "--seeds" is no dash

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 4
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# Annotations name types of other packages, and short names that only type checkers import. What UnBench's own prose and
# docstrings refer to is written in full, and must exist.
nitpick_ignore_regex = [("py:.*", r"(?!unbench\.).*")]
# Types of arguments that no caller writes by hand.
nitpick_ignore = [
    ("py:class", f"unbench.{name}")
    for name in (
        "models.pairs.Found",
        "pluginfile.PluginFile",
        "sweep.pool.Pool",
        "sweep.pool.Watch",
        "training.batch.EncodedRow",
    )
]

html_theme = "furo"
html_title = "UnBench"
html_static_path = ["_static"]
html_css_files = ["unbench.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
