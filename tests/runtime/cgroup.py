"""One parent for the control groups of all containers of a run.

Control groups are the one thing that a lab machine does not have for itself: they live in the real
machine's hierarchies, whatever namespace their makers are in, and outlast them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

PREFIX = "terwayd-lab-"
PARENT = f"/{PREFIX}{os.getpid()}"
HIERARCHIES = Path("/sys/fs/cgroup")


def remove_stale() -> None:
    """Remove what this run's containers left, and those of runs that were killed."""
    for parent in parents():
        pid = parent.name.removeprefix(PREFIX)
        if pid == str(os.getpid()) or not Path("/proc", pid).exists():
            for directory, _, _ in os.walk(parent, topdown=False):
                with contextlib.suppress(OSError):  # in use: it will be stale another time
                    Path(directory).rmdir()


def parents() -> Iterator[Path]:
    """Every run's parent, in the unified hierarchy and in those of version 1."""
    yield from HIERARCHIES.glob(f"{PREFIX}*")
    yield from HIERARCHIES.glob(f"*/{PREFIX}*")
