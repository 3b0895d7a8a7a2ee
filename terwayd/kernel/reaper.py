"""Deleting interfaces: the caller waits until an interface is gone, not until the kernel has finished with it.

An interface that is deleted is out of every namespace within a millisecond: nobody can see it or send over
it any more.  But the call returns 20 to 40 ms later, when the last reader of the kernel's own lists has let
go of it.  Those that wait together are deleted together, which takes the kernel no longer than one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import socket
import threading
import time
from collections import deque

from terwayd.errors import KernelError
from terwayd.kernel.requests import Requests, delete_group, delete_link, set_link

_LOOK_S = 0.0005
_SOON_S = 0.002
_THREADS = 4  # of those, all but one wait in the kernel


class Leaving:
    """An interface that is being deleted; `alone` when nobody waited for another one at the time."""

    def __init__(self, name: str, *, alone: bool) -> None:
        self.alone = alone
        self._name = name
        self.loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[None] = self.loop.create_future()

    async def gone(self) -> None:
        """Return when no interface has the name any more.  KernelError when the kernel refuses."""
        while not self._finished.done() and is_there(self._name):  # the kernel tells it much later
            await asyncio.wait({self._finished}, timeout=_LOOK_S)
        if self._finished.done():
            self._finished.result()

    def finish(self, failure: Exception | None) -> None:
        if self._finished.done():
            return
        if failure is None:
            self._finished.set_result(None)
        else:
            self._finished.set_exception(failure)
            self._finished.exception()  # whoever waits gets it; one who saw the interface go needs it no more


class Reaper:
    """Deletes interfaces of the network namespace that the process is in.  Use it from the event loop's thread.

    Its threads wait for a semaphore of the kernel's, which wakes one of them; those of a queue wake each other.
    """

    def __init__(self) -> None:
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_SEMAPHORE)
        self._threads: list[threading.Thread] = []
        self._waiting: deque[tuple[str, Leaving]] = deque()
        self._awaited = 0
        self._closed = False

    def delete(self, name: str) -> Leaving:
        """Have an interface deleted; `forget()` when it is not waited for any more."""
        leaving = Leaving(name, alone=self._awaited == 0)
        self._waiting.append((name, leaving))
        self._awaited += 1
        os.eventfd_write(self._bell, 1)
        while len(self._threads) < _THREADS:
            self._threads.append(threading.Thread(target=self._work, name="reaper", daemon=True))
            self._threads[-1].start()
        return leaving

    def forget(self) -> None:
        """Nobody waits for one of them any more."""
        self._awaited -= 1

    def _work(self) -> None:
        while True:
            os.eventfd_read(self._bell)
            taken = []
            with contextlib.suppress(IndexError):
                while True:
                    taken.append(self._waiting.popleft())
            if taken:
                self._delete([name for name, _ in taken], [leaving for _, leaving in taken])
            elif self._closed:
                return

    def _delete(self, names: list[str], leaving: list[Leaving]) -> None:
        failure = None
        try:
            _delete(names)
        except (KernelError, OSError) as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            leaving[0].loop.call_soon_threadsafe(_settle, leaving, failure)

    def close(self) -> None:
        """Wait until the kernel has finished with all of them."""
        if self._closed:
            return
        self._closed = True
        os.eventfd_write(self._bell, len(self._threads) or 1)
        for thread in self._threads:
            thread.join()
        os.close(self._bell)


def _settle(ended: list[Leaving], failure: Exception | None) -> None:
    for leaving in ended:
        leaving.finish(failure)


def _delete(names: list[str]) -> None:
    with Requests() as requests:
        if len(names) == 1:
            requests.send(delete_link(names[0]))
            return
        group = secrets.randbits(30) | 1 << 30  # for a moment; nobody else has this one
        together = [set_link(name, group=group, fine=(errno.ENODEV,)) for name in names]
        requests.send(*together, delete_group(group))


def is_there(name: str) -> bool:
    """Whether an interface of our namespace is called `name`: costs the same however many there are."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def is_gone_soon(name: str) -> bool:
    """Wait 2 ms at most for an interface to be gone.  Blocking: an event loop would not wait for less than 1 ms."""
    until = time.monotonic() + _SOON_S
    while is_there(name):
        if time.monotonic() > until:
            return False
        time.sleep(0.00003)
    return True
