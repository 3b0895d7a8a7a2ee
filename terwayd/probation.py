"""Probation: a takeover that is undone unless somebody confirms it in time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from terwayd.errors import HostError
from terwayd.host.journal import Journal

log = logging.getLogger(__name__)


class Probation:
    """The time that is left to confirm; `on_over` is called when it is over."""

    def __init__(self, journal: Journal, *, on_over: Callable[[], None]) -> None:
        self._journal = journal
        self._on_over = on_over
        self._timer: asyncio.TimerHandle | None = None

    @property
    def left(self) -> float | None:
        """Seconds until the takeover is undone for want of confirmation; None: it stands."""
        return self._journal.unconfirmed()

    def watch(self) -> None:
        """Wait as long as the takeover says, also one of an earlier run of the daemon."""
        self.end()
        if (left := self.left) is not None:
            log.warning("waiting %.0f s for terwayctl confirm", max(left, 0))
            self._timer = asyncio.get_running_loop().call_later(max(left, 0), self._on_over)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def confirm(self) -> None:
        """Keep the takeover that waits for it.  HostError when none does."""
        if not self._journal.confirm():
            raise HostError("nothing waits for confirmation", hint="terwayctl status")
        self.watch()
        log.info("confirmed")

    def require(self) -> None:
        """HostError when no takeover waits for confirmation."""
        if self.left is None:
            raise HostError("nothing waits for confirmation", hint="terwayctl teardown gives the host back")
