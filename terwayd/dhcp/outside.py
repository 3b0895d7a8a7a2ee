"""What the engine needs of the world outside, and an alarm by the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol


class Transport(Protocol):
    """Where frames go and come from; `on_frame` is set by the engine and called on the loop's thread."""

    on_frame: Callable[[bytes | memoryview, bool], None]

    def send(self, frame: bytes) -> None:
        """Send an Ethernet frame; OSError when the link does not take it."""

    @property
    def has_local(self) -> bool:
        """Whether there is a way to the node itself and its pods, which `send` does not reach."""

    def send_local(self, frame: bytes, *, to_pod: bool) -> None:
        """Send to the node and its pods; `to_pod`: the answer comes to the client's address alone."""

    def close(self) -> None:
        """End: no more frames come or go."""


class Watcher(Protocol):
    """Told of the messages and of what came of asking; the metrics are one."""

    def dhcp_message(self, direction: str, kind: str) -> None:
        """A message of this kind was "sent" or "received"."""

    def dhcp_acquired(self, seconds: float | None) -> None:
        """A lease was had after `seconds`; None: in vain."""


class Alarm(Protocol):
    """Rings at a time of the leases' clock, which goes on while the machine sleeps: the loop's does not."""

    on_ring: Callable[[], None]

    def set(self, at: float) -> None:
        """Ring at `at` and not at the time set before; at once when that is over."""

    def close(self) -> None:
        """End: it rings no more."""


class LoopAlarm:
    """An alarm by the event loop's timers, for a clock that runs as the loop's does."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.on_ring: Callable[[], None] = lambda: None
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at: float) -> None:
        self.close()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - self._clock()), self.on_ring)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
