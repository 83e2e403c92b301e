"""Errors a user may meet. Each says in one sentence what is wrong, and in another which command to try next."""

from __future__ import annotations


class UnbenchError(Exception):
    """Something the user can mend. ``exit_code`` is the process's code; a traceback shows only with ``--debug``."""

    exit_code = 1

    def __init__(self, message: str, try_next: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.try_next = try_next

    def __str__(self) -> str:
        return f"{self.message} {self.try_next}" if self.try_next else self.message


class UsageError(UnbenchError):
    """A wrong argument, name, setting or file (exit code 2)."""

    exit_code = 2


class EnvironmentProblem(UnbenchError):
    """The machine lacks something: memory, disk, a device, an optional package (exit code 3)."""

    exit_code = 3


class RunFailed(UnbenchError):
    """A run stopped part-way; what it had finished is kept and ``--resume`` goes on (exit code 4)."""

    exit_code = 4
