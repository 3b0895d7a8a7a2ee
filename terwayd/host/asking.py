"""Asking the host: files that may not be there, and commands that may not be installed.  Both block."""

from __future__ import annotations

import subprocess
from pathlib import Path

_TIMEOUT = 5.0  # seconds


def read(path: str) -> str:
    """The text of a file, "" where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def output(*command: str) -> str:
    """What a command prints, "" where it cannot be run or takes too long."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")
