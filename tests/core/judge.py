"""Programs of classic BPF as the kernel runs them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from terwayd.kernel import socket_filter


@contextmanager
def judge(code: bytes) -> Iterator[Callable[[bytes], bool]]:
    """Whether the program accepts a frame: what it does not, a socket with it as its filter does not hear."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        socket_filter.attach(other, code)
        other.setblocking(False)

        def passes(frame: bytes) -> bool:
            one.send(frame)
            try:
                return other.recv(65536) == frame
            except BlockingIOError:
                return False

        yield passes
