"""The dead man: another process that undoes a takeover which nobody finished or confirmed in time.

It is started before the first step, and looks once, when its time has come: where the journal says
that all is well, it does nothing.  Under systemd it is a transient timer, which outlives the
daemon's unit; elsewhere a process of its own session.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import time
from pathlib import Path

from terwayd.errors import HostError

log = logging.getLogger(__name__)

OPTION = "--dead-man"
_SYSTEMD = Path("/run/systemd/system")
_TIMEOUT = 10.0  # seconds for systemd to take the timer


def name() -> str:
    """A name for another dead man: he watches over one takeover, and no other."""
    return f"terwayd-dead-man-{time.monotonic_ns()}"


def arm(name: str, delay: float) -> None:
    """Have `name` look after `delay` seconds.  HostError when that cannot be had: then nothing may start."""
    look = [sys.executable, "-m", "terwayd", OPTION]
    if _SYSTEMD.exists():
        timer = ["systemd-run", "--quiet", f"--unit={name}", "--collect", f"--on-active={delay:.1f}s"]
        command = [*timer, "--timer-property=AccuracySec=100ms", *look, "0", name]
    else:
        command = ["setsid", "--fork", *look, f"{delay:.1f}", name]
    try:
        subprocess.run(
            command,
            check=True,
            timeout=_TIMEOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # whoever waits for the end of our output does not wait for him
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(
            f"the process that would undo a takeover gone wrong cannot be started: {error}",
            hint="systemctl status; journalctl -u terwayd",
        ) from None


def disarm(name: str) -> None:
    """All is well: nobody need look.  What cannot be stopped looks, and finds that all is well."""
    if _SYSTEMD.exists():
        command = ["systemctl", "stop", "--no-block", f"{name}.timer"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(command, check=False, timeout=_TIMEOUT, capture_output=True)
