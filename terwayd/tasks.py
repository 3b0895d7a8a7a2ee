"""Work that goes on to its end, whoever gives up waiting for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any


async def ended(task: asyncio.Future[Any]) -> None:
    """Return when `task` has ended, however often the caller is cancelled meanwhile."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Do `work` whole, also when the caller is cancelled meanwhile; it learns of that afterwards."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await ended(task)
        raise
