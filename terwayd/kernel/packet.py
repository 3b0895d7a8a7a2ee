"""One packet socket on the uplink, over which all DHCP of all pods goes.

The uplink is a port of the bridge, so it hears what the LAN sends to the pods' MAC addresses.  A filter in
the kernel lets only IPv4 UDP to port 68 through.  It listens with ETH_P_ALL, because a socket for IPv4
alone hears nothing on a bridge port.  It knows frames, not DHCP.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import socket
import struct
from collections.abc import Callable
from typing import Final

from terwayd.dhcp.frame import FILTER

log = logging.getLogger(__name__)

# From linux/if_packet.h, if_ether.h and asm/socket.h; the socket module does not have them.
_ETH_P_ALL: Final = 0x0003
_SOL_PACKET: Final = 263
_PACKET_AUXDATA: Final = 8
_PACKET_IGNORE_OUTGOING: Final = 23
_SO_ATTACH_FILTER: Final = 26
_TP_STATUS_CSUMNOTREADY: Final = 1 << 3
_TP_STATUS_VLAN_VALID: Final = 1 << 4
_AUXDATA: Final = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata
_VLAN_ID: Final = 0x0FFF

_MAX_FRAME: Final = 9216
_BATCH: Final = 64  # frames a turn, so that a flood does not starve the rest of the daemon
_BUFFER: Final = 1 << 20
_DOWN: Final = frozenset({errno.ENETDOWN, errno.ENXIO, errno.ENODEV})


class PacketTransport:
    """Sends and receives whole Ethernet frames on `interface` (name or index); a Transport of the engine.

    `on_down` is called, once each time, when the interface has gone down or away.  A socket hears again by
    itself when the interface comes up; one that was removed and made anew needs `rebind`.
    """

    def __init__(
        self,
        interface: str | int,
        loop: asyncio.AbstractEventLoop,
        *,
        on_down: Callable[[OSError], None] | None = None,
    ) -> None:
        self.on_frame: Callable[[bytes | memoryview, bool], None] = lambda _frame, _ready: None
        self.on_down = on_down
        self._loop = loop
        self._buffer = bytearray(_MAX_FRAME)
        self._view = memoryview(self._buffer)
        # Protocol 0 hears nothing: no frame can be queued before the filter is in place.
        self._socket = socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0
        )
        try:
            self._attach_filter()
            self._socket.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
            self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
            self.rebind(interface)
            loop.add_reader(self._socket, self._drain)
        except BaseException:
            self._socket.close()
            raise

    def rebind(self, interface: str | int) -> None:
        """Listen and send on this interface from now on; OSError when there is none."""
        name = interface if isinstance(interface, str) else socket.if_indextoname(interface)
        self._socket.bind((name, _ETH_P_ALL))

    def send(self, frame: bytes) -> None:
        """Send a frame; OSError when the link is down or its queue is full."""
        self._socket.send(frame)

    def close(self) -> None:
        """Close the socket; may be called twice."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def _attach_filter(self) -> None:
        program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in FILTER))
        # struct sock_fprog: the number of instructions and, aligned, where they are
        fprog = struct.pack("@HP", len(FILTER), ctypes.addressof(program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)

    def _drain(self) -> None:
        for _ in range(_BATCH):
            try:
                size, ancillary, flags, _ = self._socket.recvmsg_into(
                    [self._buffer], socket.CMSG_SPACE(_AUXDATA.size)
                )
            except BlockingIOError:
                return
            except OSError as error:
                self._failed(error)
                return
            checksum_ready, tagged = _status(ancillary)
            if not tagged and not flags & socket.MSG_TRUNC:
                self.on_frame(self._view[:size], checksum_ready)
            if self._socket.fileno() < 0:
                return  # the receiver closed it

    def _failed(self, error: OSError) -> None:
        if error.errno not in _DOWN:
            log.warning("cannot receive DHCP frames: %s", error.strerror)
        elif self.on_down is not None:
            self.on_down(error)


def _status(ancillary: list[tuple[int, int, bytes]]) -> tuple[bool, bool]:
    """Whether the checksums are complete, and whether the frame belongs to a VLAN of its own."""
    for level, kind, data in ancillary:
        if level == _SOL_PACKET and kind == _PACKET_AUXDATA and len(data) >= _AUXDATA.size:
            status, _, _, _, _, tci, _ = _AUXDATA.unpack_from(data)
            tagged = bool(status & _TP_STATUS_VLAN_VALID) and bool(tci & _VLAN_ID)
            return not status & _TP_STATUS_CSUMNOTREADY, tagged
    return True, False
