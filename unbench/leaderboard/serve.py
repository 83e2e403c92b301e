"""A small web server for one machine: the built site, and the submissions beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from unbench.errors import EnvironmentProblem, UsageError


class _Quiet(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".gz": "application/gzip", ".bib": "text/plain"}

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: stdout is data, and stderr is for errors."""

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()


@contextmanager
def server(site: Path, port: int) -> Iterator[tuple[ThreadingHTTPServer, str]]:
    """A server of the built site on 127.0.0.1, and the address of its first page.

    Where the site lies beside ``submissions``, both are served, so that pages' links to files lead somewhere. Raises
    ``UsageError`` where there is no site, ``EnvironmentProblem`` where the port is taken.
    """
    if not (site / "index.html").is_file():
        raise UsageError(f"There is no site in {str(site)!r}.", "Build it first: unbench leaderboard build.")
    home = site.resolve()
    beside = (home.parent / "submissions").is_dir()
    root = home.parent if beside else home
    try:
        running = ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=str(root)))
    except OSError as problem:
        raise EnvironmentProblem(
            f"Port {port} can't be used: {problem.strerror or problem}.", "Name another: --port 0 takes a free one."
        ) from problem
    path = f"{home.name}/index.html" if beside else "index.html"
    try:
        yield running, f"http://127.0.0.1:{running.server_address[1]}/{path}"
    finally:
        running.server_close()
