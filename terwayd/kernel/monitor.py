"""A doorbell for the host's network: rings when a link, an address or a route has changed, or whatever is asked for.

Its messages are never read as data, so that none that is lost is missed: who hears it looks for
himself.  A burst rings once, and is read once.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable

from terwayd.bpf import assemble
from terwayd.kernel import socket_filter
from terwayd.kernel.bell import Bell

_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # link, ipv4 address and route, ipv6 address and route
_RTM_DELLINK = 17
_FROM_OTHERS = assemble("""
        ld [12]  ; nlmsg_pid
        jne #sender, other
        ret #0
other:  ret #-1
""")


class Monitor:
    """Calls `on_change` in the event loop, at most every 0.2 s, until it is closed."""

    def __init__(
        self,
        on_change: Callable[[], None],
        protocol: int = socket.NETLINK_ROUTE,
        groups: int = _GROUPS,
        *,
        deaf_to: int = 0,
    ) -> None:
        """`deaf_to`: the socket whose requests' notes do not ring, by its port id."""
        self._on_change = on_change
        self.vanished = False
        """Whether an interface has gone, or messages were lost, since this was last set to False."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self._socket.setblocking(False)
        if deaf_to:
            sender = int.from_bytes(deaf_to.to_bytes(4, sys.byteorder), "big")
            socket_filter.attach(self._socket, _FROM_OTHERS.filled({"sender": sender}))
        self._socket.bind((0, groups))
        self._bell = Bell(self._socket.fileno(), self._ring)

    def _ring(self) -> None:
        self._drain()
        self._on_change()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    message = self._socket.recv(65536)
                except BlockingIOError:
                    raise
                except OSError:  # ENOBUFS: lost messages ring as well
                    self.vanished = True
                else:
                    self.vanished |= int.from_bytes(message[4:6], sys.byteorder) == _RTM_DELLINK

    def close(self) -> None:
        self._bell.close()
        self._socket.close()
