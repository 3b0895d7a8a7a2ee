"""A doorbell that does not tire: a burst rings once, and is read once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_PAUSE = 0.2


class Bell:
    """Calls `on_ring` in the event loop, 0.2 s after there is something to be read; it reads all of that.

    What comes can wait in the descriptor: whatever is under way has the processor meanwhile.
    """

    def __init__(self, descriptor: int, on_ring: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._on_ring = on_ring
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._listen()

    def _listen(self) -> None:
        self._loop.add_reader(self._descriptor, self._begin)

    def _begin(self) -> None:
        self._loop.remove_reader(self._descriptor)
        self._timer = self._loop.call_later(_PAUSE, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._listen()
        self._on_ring()

    def close(self) -> None:
        """Before the descriptor is."""
        self._loop.remove_reader(self._descriptor)
        if self._timer is not None:
            self._timer.cancel()
