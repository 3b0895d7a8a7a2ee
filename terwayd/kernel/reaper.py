"""Deleting interfaces: the caller waits until an interface is gone, not until the kernel has finished with it.

An interface that is deleted is out of every namespace within a millisecond: nobody can see it or send over
it any more.  But the call returns 20 to 40 ms later, when the last reader of the kernel's own lists has let
go of it.  Those that wait together are deleted together, which takes the kernel no longer than one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import socket
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from terwayd.errors import KernelError
from terwayd.kernel.requests import Requests, delete_group, delete_link, set_link

_LOOK_S = 0.0005
_SPIN_S = 0.002  # for so long it is looked without a pause when nothing else is being deleted
_THREADS = 4  # of those, all but one wait in the kernel


class Reaper:
    """Deletes interfaces of the network namespace that the process is in.  Use it from the event loop's thread."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="reaper")
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()
        self._under_way = 0

    async def delete(self, name: str) -> None:
        """Return when no interface is called `name` any more.  KernelError when the kernel refuses."""
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[None] = loop.create_future()
        self._waiting.append((name, finished))
        self._executor.submit(self._work, loop)
        self._under_way += 1
        spin_until = loop.time() + _SPIN_S
        try:
            while not finished.done() and is_there(name):  # the kernel tells it much later
                alone = self._under_way == 1 and loop.time() < spin_until
                await asyncio.sleep(0 if alone else _LOOK_S)
        finally:
            self._under_way -= 1
        if finished.done():
            finished.result()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._waiting.popleft())
        if not taken:
            return
        failure = None
        try:
            _delete([name for name, _ in taken])
        except (KernelError, OSError) as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(_settle, [finished for _, finished in taken], failure)

    def close(self) -> None:
        """Wait until the kernel has finished with all of them."""
        self._executor.shutdown(wait=True)


def _delete(names: list[str]) -> None:
    with Requests() as requests:
        if len(names) == 1:
            requests.send(delete_link(names[0]))
            return
        group = secrets.randbits(30) | 1 << 30  # for a moment; nobody else has this one
        together = [set_link(name, group=group, fine=(errno.ENODEV,)) for name in names]
        requests.send(*together, delete_group(group))


def _settle(futures: list[asyncio.Future[None]], failure: Exception | None) -> None:
    for future in futures:
        if future.done():
            continue
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(failure)
            future.exception()  # whoever waits gets it; one who saw the interface go needs it no more


def is_there(name: str) -> bool:
    """Whether an interface of our namespace is called `name`: costs the same however many there are."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True
