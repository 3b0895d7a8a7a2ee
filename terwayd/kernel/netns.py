"""Running code in another network namespace.

A namespace belongs to a thread.  So the code runs in a thread that does nothing else meanwhile: it
enters the namespace by its descriptor and comes back, or the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from terwayd.errors import CniError

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, fixed since Linux 3.8
_libc = ctypes.CDLL(None, use_errno=True)


def enter(descriptor: int) -> None:
    """Move the calling thread into the network namespace of `descriptor`; OSError when it is none."""
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def inside(descriptor: int) -> Iterator[None]:
    """The calling thread in the network namespace of `descriptor`, and then where it was before."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(descriptor)
        try:
            yield
        finally:
            try:
                enter(home)
            except OSError:
                os.abort()  # rather than do to the pod what is meant for the host
    finally:
        os.close(home)


async def run(descriptor: int, work: Callable[[], T]) -> T:
    """`work()` in the network namespace of `descriptor`, in another thread.

    When cancelled it still waits for the thread: the descriptor may be closed, and its number be another
    namespace's, as soon as this has ended.
    """

    def there() -> T:
        with inside(descriptor):
            return work()

    future = asyncio.get_running_loop().run_in_executor(None, there)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({future})
        future.exception()  # nobody waits for it any more
        raise


def in_a_new_one(work: Callable[[], T]) -> T:
    """`work()` in a network namespace of its own, in a thread of its own; both are gone afterwards."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(_unshared, work).result()


def _unshared(work: Callable[[], T]) -> T:
    if _libc.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return work()


def require(descriptor: int, path: str) -> None:
    """Raise CniError unless `descriptor`, opened from `path`, is a network namespace."""
    try:
        kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != _CLONE_NEWNET:
        raise CniError(
            4,
            f"CNI_NETNS={path} is not a network namespace",
            hint="the runtime must pass a path such as /run/netns/NAME or /proc/PID/ns/net",
        )


def same_as_ours(descriptor: int) -> bool:
    """Whether the namespace of `descriptor` is the one this process is in."""
    return os.fstat(descriptor).st_ino == Path("/proc/self/ns/net").stat().st_ino


def is_the_machines() -> bool:
    """Whether this process is in the network namespace that the machine booted with.

    In a PID namespace of its own, as a test host is, process 1 is not the machine's: then no.
    """
    if Path("/proc/self/ns/pid").stat().st_ino != _FIRST_PID_NAMESPACE:
        return False
    try:
        return Path("/proc/1/ns/net").stat().st_ino == Path("/proc/self/ns/net").stat().st_ino
    except PermissionError:  # process 1 may do more than we: it is the machine's
        return True
