"""The clocks: boot time for every deadline, wall time only to carry deadlines over a reboot."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path


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
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Epoch(boot_id, time.time() - boottime())
