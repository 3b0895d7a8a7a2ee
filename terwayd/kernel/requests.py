"""rtnetlink requests as bytes, several in one call to the kernel: for what is done to every pod.

Netlink is the general way, but encoding and decoding cost it more than the kernel takes for the work.
This knows the few attributes that a pod's interface needs; of the answers it hands on the errors, and dumps as they are.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Final, Self

from terwayd.errors import KernelError
from terwayd.kernel.attributes import attribute, message, messages, number, text

# From linux/netlink.h, rtnetlink.h, if_link.h, if_addr.h and veth.h; the socket module does not have them.
_REQUEST, _ACK, _APPEND = 0x1, 0x4, 0x800
CREATE, EXCLUSIVE, REPLACE, DUMP = 0x400, 0x200, 0x100, 0x300
_NEWLINK, _DELLINK, _NEWADDR, _NEWROUTE, _NEWNEIGH = 16, 17, 20, 24, 28
_ERROR, _DONE = 2, 3
_SOL_NETLINK, _CAP_ACK = 270, 10
_IFF_UP: Final = 0x1
_ADDRESS, _IFNAME, _MTU, _MASTER, _LINKINFO, _IFALIAS, _GROUP, _NET_NS_FD = 1, 3, 4, 10, 18, 20, 27, 28
_KIND, _DATA, _PEER, _SLAVE_KIND, _SLAVE_DATA = 1, 2, 1, 4, 5
_BRPORT_MODE, _BRPORT_GUARD, _BRPORT_LEARNING = 4, 5, 8
_NDA_LLADDR, _NUD_NOARP, _NTF_MASTER, _NTF_STICKY = 2, 0x40, 0x04, 0x40
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_TABLE_MAIN, _PROTO_BOOT, _UNICAST, _SCOPE_LINK, _ONLINK = 254, 3, 1, 253, 4
_LINK: Final = struct.Struct("=BxHiII")
_NEIGHBOUR: Final = struct.Struct("=BxxxiHBB")


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `what` is the `ip` command that does the same, the errnos `fine` are no error."""

    what: str
    kind: int
    flags: int
    body: bytes
    fine: tuple[int, ...] = ()


def new_veth(name: str, peer: str, *, netns: int, mac: str, peer_mac: str, mtu: int) -> Request:
    """A veth pair, its end `name` here, its end `peer` in the namespace of the descriptor."""
    other = _LINK.pack(0, 0, 0, 0, 0) + text(_IFNAME, peer) + _mac(peer_mac) + number(_MTU, mtu)
    info = text(_KIND, "veth") + attribute(_DATA, attribute(_PEER, other + number(_NET_NS_FD, netns)))
    body = _LINK.pack(0, 0, 0, 0, 0) + text(_IFNAME, name) + _mac(mac) + number(_MTU, mtu)
    body += attribute(_LINKINFO, info)
    return Request(f"ip link add {name} type veth peer {peer}", _NEWLINK, CREATE | EXCLUSIVE, body)


def set_link(
    name: str,
    *,
    up: bool = False,
    alias: str = "",
    mtu: int = 0,
    group: int = 0,
    master: int = 0,
    fine: tuple[int, ...] = (),
) -> Request:
    body = _LINK.pack(0, 0, 0, _IFF_UP if up else 0, _IFF_UP if up else 0) + text(_IFNAME, name)
    body += attribute(_IFALIAS, alias.encode()) if alias else b""
    body += number(_MTU, mtu) if mtu else b""
    body += number(_GROUP, group) if group else b""
    body += number(_MASTER, master) if master else b""
    return Request(f"ip link set {name}{' up' if up else ''}", _NEWLINK, 0, body, fine)


def set_port(name: str, *, hairpin: bool, learning: bool | None = None) -> Request:
    """A port of a bridge: it takes no part in a spanning tree; `hairpin`: it may hear what it sent itself;
    `learning`: what MAC addresses are behind it the bridge finds out by itself, None leaves that as it is.
    """
    values = {_BRPORT_GUARD: True, _BRPORT_MODE: hairpin}
    values |= {_BRPORT_LEARNING: learning} if learning is not None else {}
    data = b"".join(attribute(kind, bytes([on])) for kind, on in values.items())
    info = text(_SLAVE_KIND, "bridge") + attribute(_SLAVE_DATA, data)
    body = _LINK.pack(0, 0, 0, 0, 0) + text(_IFNAME, name) + attribute(_LINKINFO, info)
    return Request(
        f"bridge link set dev {name} guard on hairpin {'on' if hairpin else 'off'}", _NEWLINK, 0, body
    )


def add_station(name: str, index: int, mac: str) -> Request:
    """Have a bridge know that this MAC address is behind this port, and at no other, whatever is sent there."""
    body = _NEIGHBOUR.pack(socket.AF_BRIDGE, index, _NUD_NOARP, _NTF_MASTER | _NTF_STICKY, 0)
    body += attribute(_NDA_LLADDR, bytes.fromhex(mac.replace(":", "")))
    what = f"bridge fdb replace {mac} dev {name} master static sticky"
    return Request(what, _NEWNEIGH, CREATE | REPLACE, body)


def delete_link(name: str) -> Request:
    """It may be gone already."""
    body = _LINK.pack(0, 0, 0, 0, 0) + text(_IFNAME, name)
    return Request(f"ip link del {name}", _DELLINK, 0, body, (errno.ENODEV,))


def delete_group(group: int) -> Request:
    body = _LINK.pack(0, 0, 0, 0, 0) + number(_GROUP, group)
    return Request(f"ip link del group {group}", _DELLINK, 0, body, (errno.ENODEV,))


def add_address(index: int, address: IPv4Interface) -> Request:
    body = struct.pack("=BBBBI", socket.AF_INET, address.network.prefixlen, 0, 0, index)
    body += attribute(_IFA_LOCAL, address.ip.packed) + attribute(_IFA_ADDRESS, address.ip.packed)
    body += attribute(_IFA_BROADCAST, address.network.broadcast_address.packed)
    return Request(f"ip addr add {address}", _NEWADDR, CREATE | REPLACE, body)


def add_route(index: int, dst: IPv4Network, gateway: IPv4Address | None, *, onlink: bool) -> Request:
    """Behind those with the same destination, which are of an interface that came first; it may be there already."""
    scope, flags = 0 if gateway is not None else _SCOPE_LINK, _ONLINK if onlink else 0
    body = struct.pack(
        "=BBBBBBBBI", socket.AF_INET, dst.prefixlen, 0, 0, _TABLE_MAIN, _PROTO_BOOT, scope, _UNICAST, flags
    )
    body += attribute(_RTA_DST, dst.network_address.packed) if dst.prefixlen else b""
    body += number(_RTA_OIF, index)
    body += attribute(_RTA_GATEWAY, gateway.packed) if gateway is not None else b""
    return Request(f"ip route append {dst}", _NEWROUTE, CREATE | _APPEND, body, (errno.EEXIST,))


class Requests:
    """A netlink socket of the namespace that it was made in, whichever thread uses it; one at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.bind((0, 0))  # not left to the first request, which another thread may send meanwhile
        self._number = 0

    @property
    def port_id(self) -> int:
        """What notes about this socket's requests carry: nlmsg_pid of netlink(7)."""
        return int(self._socket.getsockname()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, *requests: Request) -> None:
        """Have all of them done, in their order; KernelError for the first that was refused.

        The kernel goes on after one that it refuses.  It answers the last one, and those.
        """
        first = self._number + 1
        self._number += len(requests)
        data = bytearray()
        for sequence, request in enumerate(requests, first):
            flags = _REQUEST | request.flags | (_ACK if sequence == self._number else 0)
            data += message(request.kind, flags, sequence, request.body)
        self._socket.send(data)
        refused: KernelError | None = None
        for sequence, error in self._answers():
            request = requests[sequence - first]
            if error and error not in request.fine and refused is None:
                refused = KernelError(f"{request.what}: {os.strerror(error)}", error)
        if refused is not None:
            raise refused

    def dump(self, request: Request) -> list[bytes]:
        """What the kernel tells of all that is asked for, each behind its header; none for an errno that is fine."""
        self._number += 1
        self._socket.send(message(request.kind, _REQUEST | request.flags, self._number, request.body))
        found: list[bytes] = []
        while True:
            for kind, sequence, body in messages(self._socket.recv(65536)):
                if sequence != self._number:
                    continue
                if kind in {_ERROR, _DONE}:
                    error = _errno(body)
                    if error and error not in request.fine:
                        raise KernelError(f"{request.what}: {os.strerror(error)}", error)
                    return found
                found.append(body)

    def _answers(self) -> Iterable[tuple[int, int]]:
        """Number and errno of each answer, up to the last request's."""
        while True:
            for kind, sequence, body in messages(self._socket.recv(65536)):
                if kind == _ERROR:
                    yield sequence, _errno(body)
                    if sequence == self._number:
                        return


def _errno(body: bytes) -> int:
    return -int.from_bytes(body[:4], sys.byteorder, signed=True)


def _mac(value: str) -> bytes:
    return attribute(_ADDRESS, bytes.fromhex(value.replace(":", "")))
