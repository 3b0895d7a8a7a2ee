"""An alarm on the clock of leases, which goes on while the machine sleeps (timerfd_create(2), CLOCK_BOOTTIME).

The event loop's own timers stand still meanwhile, so that they would have to look every now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
import time
from collections.abc import Callable
from typing import Final

_TFD_TIMER_ABSTIME: Final = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Alarm:
    """Calls `on_ring` on the loop's thread at the time it is set to; one time, the last one that was set."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.on_ring: Callable[[], None] = lambda: None
        self._loop = loop
        self._fd = _libc.timerfd_create(time.CLOCK_BOOTTIME, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"timerfd_create: {os.strerror(number)}")
        loop.add_reader(self._fd, self._ring)

    def set(self, at: float) -> None:
        """Ring at `at` (seconds of boot time), at once when that is over."""
        nanoseconds = int(at * 1e9) + 1  # never too early; 0 would switch it off
        # struct itimerspec: the interval, then the time
        when = struct.pack("@llll", 0, 0, *divmod(nanoseconds, 1_000_000_000))
        _libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, when, None)

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it was set anew meanwhile
            os.read(self._fd, 8)
            self.on_ring()

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
