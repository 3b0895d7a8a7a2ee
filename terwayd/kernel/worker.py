"""The netlink thread: one thread, one Netlink, for as long as the daemon lives."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Concatenate, ParamSpec, TypeVar

from terwayd.kernel.netlink import Netlink

P = ParamSpec("P")
T = TypeVar("T")

_Work = tuple[asyncio.Future[Any], Callable[[Netlink], Any]]


class Worker:
    """Runs functions of a Netlink one after the other in its own thread, off the event loop.

    A plain queue: the executors of the standard library take as long to hand a call over as the kernel for
    many of them.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(
        self, work: Callable[Concatenate[Netlink, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Have the netlink thread do `work(netlink, ...)`, begun at once when it is idle; not when cancelled before."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="netlink", daemon=True)
            self._thread.start()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put((future, lambda netlink: work(netlink, *args, **kwargs)))
        return future

    async def call(self, work: Callable[Concatenate[Netlink, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`work(netlink, ...)` in the netlink thread; what it raises is raised here."""
        return await self.submit(work, *args, **kwargs)

    def _run(self) -> None:
        netlink: Netlink | None = None
        while (asked := self._queue.get()) is not None:
            future, work = asked
            if future.cancelled():
                continue
            result, failure = None, None
            try:
                netlink = netlink or Netlink()
                result = work(netlink)
            except BaseException as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop has ended
                future.get_loop().call_soon_threadsafe(_settle, future, result, failure)
            del asked, future, work, result, failure  # nothing is kept alive until the next one comes
        if netlink is not None:
            netlink.close()

    def close(self) -> None:
        """Wait for what was submitted."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()


def _settle(future: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
    if future.done():  # cancelled meanwhile
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(failure)
