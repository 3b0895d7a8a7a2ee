"""The packet sockets over which all DHCP of all pods goes: one on the uplink, one for the node itself.

The uplink is a port of the bridge, so it hears what the LAN sends to the pods' MAC addresses.  A filter in
the kernel lets only IPv4 UDP to port 68 through.  It listens with ETH_P_ALL, because a socket for IPv4
alone hears nothing on a bridge port.  Servers on the node and in its pods are reached through a port of
the bridge of our own (kernel/local.py); what they send to one pod alone passes by neither, so that the
pod's own port is listened to while such an answer may come.  It knows frames, not DHCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Final

from terwayd.dhcp.frame import FILTER, FILTER_ARP
from terwayd.kernel import socket_filter

log = logging.getLogger(__name__)

# From linux/if_packet.h, if_ether.h and asm/socket.h; the socket module does not have them.
_ETH_P_ALL: Final = 0x0003
_SOL_PACKET: Final = 263
_PACKET_AUXDATA: Final = 8
_PACKET_ADD_MEMBERSHIP: Final = 1
_PACKET_MR_PROMISC: Final = 1
_PACKET_IGNORE_OUTGOING: Final = 23
_TP_STATUS_CSUMNOTREADY: Final = 1 << 3
_TP_STATUS_VLAN_VALID: Final = 1 << 4
_AUXDATA: Final = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata
_VLAN_ID: Final = 0x0FFF

_MAX_FRAME: Final = 9216
_BATCH: Final = 16  # frames a turn, so that a flood does not starve the rest of the daemon
_BUFFER: Final = 1 << 20
_LISTEN_S: Final = 10.0  # to a pod's port for an answer; the client asks again after that
_KNOWN: Final = 256  # MAC addresses of servers that are remembered
_DOWN: Final = frozenset({errno.ENETDOWN, errno.ENXIO, errno.ENODEV})


class _Socket:
    """A packet socket on one interface that hears nothing but DHCP replies."""

    def __init__(
        self,
        interface: str,
        loop: asyncio.AbstractEventLoop,
        on_frame: Callable[[memoryview, bool], None],
        on_error: Callable[[OSError], None],
        *,
        outgoing: bool = False,
        arp: bool = False,
        buffer: int = _BUFFER,
    ) -> None:
        self._loop = loop
        self._on_frame = on_frame
        self._on_error = on_error
        self._buffer = bytearray(_MAX_FRAME)
        self._view = memoryview(self._buffer)
        # Protocol 0 hears nothing: no frame can be queued before the filter is in place.
        self.socket = socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0
        )
        try:
            socket_filter.attach(self.socket, FILTER_ARP if arp else FILTER)
            self.socket.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
            if not outgoing:
                self.socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                self.socket.setsockopt(socket.SOL_SOCKET, option, buffer)
            self.bind(interface)
            loop.add_reader(self.socket, self._drain)
        except BaseException:
            self.socket.close()
            raise

    def bind(self, interface: str) -> None:
        self.socket.bind((interface, _ETH_P_ALL))

    @property
    def closed(self) -> bool:
        return self.socket.fileno() < 0

    def close(self, *, aside: bool = False) -> None:
        """Close it, `aside` in a thread: the kernel waits in close() for all processors to let go of it."""
        if self.closed:
            return
        self._loop.remove_reader(self.socket)
        if aside:
            left = socket.socket(fileno=self.socket.detach())
            self._loop.run_in_executor(None, left.close)
        else:
            self.socket.close()

    def _drain(self) -> None:
        for _ in range(_BATCH):
            try:
                size, ancillary, flags, _ = self.socket.recvmsg_into(
                    [self._buffer], socket.CMSG_SPACE(_AUXDATA.size)
                )
            except BlockingIOError:
                return
            except OSError as error:
                self._on_error(error)
                return
            checksum_ready, tagged = _status(ancillary)
            if not tagged and not flags & socket.MSG_TRUNC:
                self._on_frame(self._view[:size], checksum_ready)
            if self.closed:
                return  # the receiver closed it


class PacketTransport:
    """Sends and receives whole Ethernet frames on `interface` (name or index); a Transport of the engine.

    `on_down` is called, once each time, when the interface has gone down or away.  A socket hears again by
    itself when the interface comes up; one that was removed and made anew needs `rebind`.  `port_of` says
    which interface of this host leads to a client's MAC address, "" for none.  With `arp` all of ARP is heard too.
    """

    def __init__(
        self,
        interface: str | int,
        loop: asyncio.AbstractEventLoop,
        *,
        on_down: Callable[[OSError], None] | None = None,
        arp: bool = False,
    ) -> None:
        self.on_frame: Callable[[bytes | memoryview, bool], None] = lambda _frame, _ready: None
        self.on_down = on_down
        self.port_of: Callable[[bytes], str] = lambda _mac: ""
        self._loop = loop
        self._arp = arp
        self._uplink = _Socket(_name(interface), loop, self._from_lan, self._failed, arp=arp)
        self._local: _Socket | None = None
        self._taps: dict[str, tuple[_Socket, asyncio.TimerHandle]] = {}
        self._on_lan: set[bytes] = set()

    def rebind(self, interface: str | int) -> None:
        """Listen and send on this interface from now on; OSError when there is none."""
        self._uplink.bind(_name(interface))

    def open_local(self, interface: str) -> None:
        """Reach the node and its pods through this interface from now on; OSError when there is none."""
        if self._local is not None:
            self._local.close(aside=True)
            self._local = None
        self._local = _Socket(interface, self._loop, self._from_here, lambda _error: None, arp=self._arp)

    @property
    def has_local(self) -> bool:
        """Whether `send_local` leads anywhere."""
        return self._local is not None

    def send(self, frame: bytes) -> None:
        """Send a frame to the LAN; OSError when the link is down or its queue is full."""
        self._uplink.socket.send(frame)

    def send_local(self, frame: bytes, *, to_pod: bool) -> None:
        """Send a frame to the node and its pods; with `to_pod` the answer comes to the sender's address alone."""
        if self._local is None:
            return
        if to_pod and frame[:6] not in self._on_lan:
            self._listen(self.port_of(frame[6:12]))
        try:
            self._local.socket.send(frame)
        except OSError as error:
            log.debug("cannot send to the node's own: %s", error.strerror)

    def close(self) -> None:
        """Close the sockets; may be called twice."""
        for name in tuple(self._taps):
            self._leave(name, aside=False)
        for each in (self._uplink, self._local):
            if each is not None:
                each.close()

    def _listen(self, port: str) -> None:
        if not port:
            return
        if port in self._taps:
            self._taps[port][1].cancel()
            tap = self._taps[port][0]
        else:
            try:
                tap = _Socket(
                    port, self._loop, self._from_here, lambda _error: None, outgoing=True, buffer=1 << 15
                )
            except OSError as error:
                log.debug("cannot listen on %s: %s", port, error.strerror)
                return
        self._taps[port] = (tap, self._loop.call_later(_LISTEN_S, self._leave, port))

    def _leave(self, port: str, *, aside: bool = True) -> None:
        tap, timer = self._taps.pop(port)
        timer.cancel()
        tap.close(aside=aside)

    def _from_lan(self, frame: memoryview, checksum_ready: bool) -> None:
        source = bytes(frame[6:12])
        if bytes(frame[12:14]) == b"\x08\x00" and source not in self._on_lan:
            if len(self._on_lan) >= _KNOWN:
                self._on_lan.clear()
            self._on_lan.add(source)
        self.on_frame(frame, checksum_ready)

    def _from_here(self, frame: memoryview, checksum_ready: bool) -> None:
        self._on_lan.discard(bytes(frame[6:12]))
        self.on_frame(frame, checksum_ready)

    def _failed(self, error: OSError) -> None:
        if error.errno not in _DOWN:
            log.warning("cannot receive DHCP frames: %s", error.strerror)
        elif self.on_down is not None:
            self.on_down(error)


@contextlib.contextmanager
def promiscuous(interface: str) -> Iterator[None]:
    """Have `interface` take frames for every MAC address meanwhile, as a port of a bridge does."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as holder:
        request = struct.pack("=iHH8s", socket.if_nametoindex(interface), _PACKET_MR_PROMISC, 0, b"")
        holder.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)
        yield


def _name(interface: str | int) -> str:
    return interface if isinstance(interface, str) else socket.if_indextoname(interface)


def _status(ancillary: list[tuple[int, int, bytes]]) -> tuple[bool, bool]:
    """Whether the checksums are complete, and whether the frame belongs to a VLAN of its own."""
    for level, kind, data in ancillary:
        if level == _SOL_PACKET and kind == _PACKET_AUXDATA and len(data) >= _AUXDATA.size:
            status, _, _, _, _, tci, _ = _AUXDATA.unpack_from(data)
            tagged = bool(status & _TP_STATUS_VLAN_VALID) and bool(tci & _VLAN_ID)
            return not status & _TP_STATUS_CSUMNOTREADY, tagged
    return True, False
