"""systemd as the daemon sees it: readiness, watchdog, the socket that is passed, the journal.

The only importer of the systemd package.  Where systemd did not start the daemon, each of these
does nothing, and the log goes to standard error.
"""

from __future__ import annotations

import logging
import os
import socket

from systemd import daemon, journal


def started_us() -> bool:
    """Whether this process is the main process of a systemd unit."""
    return "INVOCATION_ID" in os.environ and "NOTIFY_SOCKET" in os.environ


def notify(state: str) -> None:
    """Tell the service manager `state`, lines of sd_notify(3) such as "READY=1"."""
    daemon.notify(state)


def watchdog_interval() -> float | None:
    """Seconds between two pings, half of what the unit allows (sd_watchdog_enabled(3)); None: no watchdog."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 2_000_000


def passed_socket() -> socket.socket | None:
    """The listening socket of terwayd.socket, None when there is none."""
    descriptors = daemon.listen_fds()
    return socket.socket(fileno=descriptors[0]) if descriptors else None


def set_up_logging(*, debug: bool) -> None:
    """Log to the journal where our standard error is the journal, to standard error otherwise."""
    handler: logging.Handler
    if "JOURNAL_STREAM" in os.environ and started_us():
        handler = journal.JournalHandler(SYSLOG_IDENTIFIER="terwayd")
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler])
    logging.getLogger("asyncio").setLevel(logging.WARNING)
