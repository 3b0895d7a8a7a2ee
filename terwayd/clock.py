"""The clocks: boot time for every deadline, wall time only to carry deadlines over a reboot."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path

_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, fixed since Linux 3.8


def boottime() -> float:
    """Seconds since boot, suspended time included; nobody can set it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One boot: its ID, and what to add to its boot time to get wall time (seconds)."""

    boot_id: str
    offset: float

    def since(self, other: Epoch) -> float:
        """What to add to a time written down under `other` to have it on this clock."""
        return 0.0 if self.boot_id == other.boot_id else other.offset - self.offset


def epoch() -> Epoch:
    return Epoch(_boot_id(), time.time() - boottime())


@functools.cache
def _boot_id() -> str:
    """The kernel's ID of this boot; in a container, which boots without the kernel, its PID 1's birth.

    What a container sees as the kernel's ID depends on who made its /proc/sys, and a service's sandbox may
    see another one than a shell.
    """
    if Path("/proc/self/ns/pid").stat().st_ino == _FIRST_PID_NAMESPACE:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    started = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]  # proc(5): starttime
    return f"container-{started}"
