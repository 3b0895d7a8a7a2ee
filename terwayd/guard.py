"""The guard: mends what has become different on the host since the takeover, and says so.

Where it is different again and again, somebody else wants it otherwise: then the host is left alone.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import deque

from terwayd.clock import boottime
from terwayd.errors import TerwayError
from terwayd.events import MENDED, about
from terwayd.host.drift import Limit
from terwayd.host.takeover import Takeover
from terwayd.kernel import local
from terwayd.kernel.worker import Worker
from terwayd.metrics import Metrics
from terwayd.running import Running

log = logging.getLogger(__name__)


class Guard:
    """`repairs` are the last ones, by Unix time; `fighting` is whether another manager undoes them."""

    def __init__(self, worker: Worker, takeover: Takeover, metrics: Metrics) -> None:
        self._worker = worker
        self._takeover = takeover
        self._metrics = metrics
        self._limit = Limit()
        self.repairs: deque[tuple[float, str]] = deque(maxlen=10)
        self.fighting = False

    def begin(self) -> None:
        """The host is as it shall be: what was mended before does not count."""
        self.fighting, self._limit = False, Limit()

    async def look(self, running: Running) -> tuple[str, str] | None:
        """Mend what has to be; why no pods can be taken any more with the next step, None while they can."""
        try:
            found, host = await self._worker.call(self._takeover.mend)
            if host is not None and not found.steps:
                running.see(host)
            if found.steps:
                await running.replug()
                if running.host_lease is not None:
                    await running.host_lease.refresh()
            elif not await self._worker.call(local.stands):
                log.warning("mended: %s is gone", local.PORT)
                await running.replug()
        except TerwayError as error:
            again = getattr(error, "errno", 0) == errno.EAGAIN  # then the next change rings again
            return None if again else (error.message, error.hint)
        words = "; ".join(found.found)
        if not found.steps:
            return (words, "plug it in again; terwayd waits for it") if found.found else None
        log.warning("mended: %s", words, extra=about(MENDED))
        self.repaired(words)
        if not self._limit.reached(boottime()):
            return None
        self.fighting = True
        return (
            f"{words}, again and again: another manager of the NIC?",
            "stop the other manager, then terwayctl setup",
        )

    def repaired(self, words: str) -> None:
        self.repairs.append((time.time(), words))
        self._metrics.repairs += 1
