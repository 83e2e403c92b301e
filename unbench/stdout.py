"""stdout is data. What a plugin prints there, by ``print``, a C library or a child process, goes to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def to_stderr() -> Iterator[None]:
    """Within the block, everything written to stdout lands on stderr: Python's stream and the process's file."""
    try:
        sys.stdout.flush()
        kept = os.dup(1)
    except (OSError, ValueError, AttributeError):
        # No stdout at all (a service, a notebook of some kinds): Python's stream is all there is.
        with redirect_stdout(sys.stderr):
            yield
        return
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
