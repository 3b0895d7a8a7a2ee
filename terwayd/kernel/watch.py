"""A doorbell for files: rings when one of them is changed, appears, is replaced or goes (inotify(7)).

What is watched is the file itself and not its path: who changes it by another mount, as containers
do, is heard too.  Where it is not there yet, the lowest of the directories above it that is there is watched.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from terwayd.kernel.bell import Bell

log = logging.getLogger(__name__)

# From linux/inotify.h.
WRITTEN: Final = 0x8
"""It was open for writing, and is closed."""
CLOSED: Final = 0x8 | 0x10
"""It was open, and is closed."""
_ATTRIB, _MOVED_TO, _CREATE, _DELETE_SELF, _MOVE_SELF = 0x4, 0x80, 0x100, 0x400, 0x800
_OVERFLOW, _ONLYDIR = 0x4000, 0x1000000
# A file that is unlinked while somebody has it open has one link less.
_GONE: Final = _ATTRIB | _DELETE_SELF | _MOVE_SELF
_APPEARS: Final = _CREATE | _MOVED_TO | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
_EVENT: Final = struct.Struct("@iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """Calls `on_change` in the event loop, at most every 0.2 s, until it is closed.

    `kind` is what counts as a change of a file that stays: WRITTEN or CLOSED.  A directory that is moved away
    with a file in it changes nothing.
    OSError where the kernel has no more of it (fs.inotify.max_user_instances, max_user_watches).
    """

    def __init__(self, paths: Iterable[str], kind: int, on_change: Callable[[], None]) -> None:
        self._paths = [Path(path) for path in paths]
        self._kind = kind
        self._watched: dict[int, set[str]] = {}  # by number: the names that are waited for, none for a file
        self._on_change = on_change
        self._fd = _done(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")
        try:
            self._aim()
        except OSError:
            os.close(self._fd)
            raise
        self._bell = Bell(self._fd, self._ring)

    def _aim(self) -> None:
        """Watch what is there now, and nothing else."""
        before, self._watched = self._watched, {}
        for path in self._paths:
            number, name = self._lowest(path)
            self._watched.setdefault(number, set()).update(name)
        for number in before.keys() - self._watched.keys():
            _libc.inotify_rm_watch(self._fd, number)

    def _lowest(self, path: Path) -> tuple[int, set[str]]:
        """The watch of `path`; or the one of a directory above it, and the name that has to appear there."""
        while True:
            at = path
            missing: set[str] = set()
            while (number := self._add(at, _APPEARS if missing else self._kind | _GONE)) is None:
                missing, at = {at.name}, at.parent
            if not missing or not _there(Path(at, *missing), path):
                return number, missing

    def _add(self, path: Path, mask: int) -> int | None:
        number = _libc.inotify_add_watch(self._fd, os.fsencode(path), ctypes.c_uint32(mask))
        if number < 0 and ctypes.get_errno() in {errno.ENOENT, errno.ENOTDIR}:
            return None
        return _done(number, f"inotify_add_watch {path}")

    def _ring(self) -> None:
        told = False
        with contextlib.suppress(BlockingIOError):
            for number, mask, name in self._events():
                waited = self._watched.get(number)
                told |= bool(mask & _OVERFLOW) or (waited is not None and (not name or name in waited))
        if told:
            try:
                self._aim()
            except OSError as error:
                log.warning("%s: further changes are not heard", error)
            self._on_change()

    def _events(self) -> Iterator[tuple[int, int, str]]:
        """Number, mask and name of each, until BlockingIOError."""
        while True:
            data, at = os.read(self._fd, 65536), 0
            while at < len(data):
                number, mask, _, size = _EVENT.unpack_from(data, at)
                at += _EVENT.size + size
                yield number, mask, os.fsdecode(data[at - size : at].rstrip(b"\0"))

    def close(self) -> None:
        if self._fd >= 0:
            self._bell.close()
            os.close(self._fd)
            self._fd = -1


def _there(step: Path, path: Path) -> bool:
    """Whether what is on the way to `path`, and was not there, has come a moment ago."""
    return step.exists() if step == path else step.is_dir()


def _done(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
