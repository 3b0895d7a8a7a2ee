"""What can go wrong for terwayctl, and the exit status that each error ends in.

0 well, 1 error, 2 usage, 3 daemon unreachable, 4 degraded or differs, 5 rolled back, 6 not permitted.
"""

from __future__ import annotations

import errno
from typing import Final

from terwayd.errors import DaemonUnavailable, TerwayError

__all__ = [
    "DEGRADED",
    "DaemonUnavailable",
    "NotPermittedError",
    "NotRunningError",
    "RemoteError",
    "TerwayError",
    "UsageError",
    "exit_status",
    "kind",
]

DEGRADED: Final = 4

EXIT_STATUS: Final = {
    "UsageError": 2,
    "DaemonUnavailable": 3,
    "NotRunningError": 3,
    "RolledBack": 5,
    "NotPermittedError": 6,
    "PermissionError": 6,
}


class UsageError(TerwayError):
    """A word of the command line is not what it should be."""


class RemoteError(TerwayError):
    """The daemon refused or failed; `kind` is the name of its own error's class."""

    def __init__(self, message: str, *, hint: str = "", kind: str = "") -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


class NotRunningError(DaemonUnavailable):
    """Nobody listens on the socket, so nobody else is at work on the host."""


class NotPermittedError(TerwayError):
    """The user may not talk to the daemon, or not do this."""


def kind(error: BaseException) -> str:
    """The name that decides how an error is told: the daemon's own for what came from there."""
    if isinstance(error, RemoteError):
        return error.kind
    if getattr(error, "errno", None) in (errno.EPERM, errno.EACCES):
        return "NotPermittedError"
    return type(error).__name__


def exit_status(error: BaseException) -> int:
    """The exit status for `error`; 1 for everything without a meaning of its own."""
    return EXIT_STATUS.get(kind(error), 1)
