"""What every page has in common: templates that escape always, and a policy under which only our own style runs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def environment(package: str, finalize: Callable[[Any], Any] | None = None) -> Environment:
    """Templates of ``package``'s folder ``templates``; an undefined name is an error. ``finalize`` sees every value
    before it is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # select_autoescape goes by file ending and would miss .html.j2: escape always.
    return Environment(
        autoescape=True,
        auto_reload=False,
        finalize=finalize,
        loader=PackageLoader(package, "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def policy(style: str, script: str | None = None) -> str:
    """Content security policy of a page: only this style and script run, whatever a method's name holds; nothing is
    fetched from anywhere. Hashes, since 'self' matches nothing on file://."""
    scripts = "" if script is None else f"script-src {_digest(script)}; "
    return (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; {scripts}base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
