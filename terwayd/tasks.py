"""Work that goes on to its end, whether anybody waits for it or not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Coroutine
from typing import Any


class Tasks(set["asyncio.Task[None]"]):
    """Tasks of one owner, each kept until it ends: the event loop alone would let it go."""

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin `work`; the task may be waited for."""
        task = asyncio.get_running_loop().create_task(work)
        self.add(task)
        task.add_done_callback(self.discard)
        return task


async def ended(task: asyncio.Future[Any]) -> None:
    """Return when `task` has ended, however often the caller is cancelled meanwhile."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})


async def to_its_end(work: Awaitable[Any]) -> None:
    """Do `work` whole, also when the caller is cancelled meanwhile; it learns of that afterwards."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await ended(task)
        raise
