"""The netlink thread: one thread, one Netlink, for as long as the daemon lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

from terwayd.kernel.netlink import Netlink

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """Runs functions of a Netlink one after the other in its own thread, off the event loop."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netlink")
        self._netlink: Netlink | None = None

    def submit(
        self, work: Callable[Concatenate[Netlink, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Have the netlink thread do `work(netlink, ...)`, begun at once when it is idle."""
        return asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: work(self._own(), *args, **kwargs)
        )

    async def call(self, work: Callable[Concatenate[Netlink, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`work(netlink, ...)` in the netlink thread; what it raises is raised here."""
        return await self.submit(work, *args, **kwargs)

    def _own(self) -> Netlink:
        if self._netlink is None:
            self._netlink = Netlink()
        return self._netlink

    def close(self) -> None:
        self._executor.shutdown(wait=True)
        if self._netlink is not None:
            self._netlink.close()
