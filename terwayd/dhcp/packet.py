"""A DHCP message and its bytes (RFC 2131 section 2).

Only Ethernet is spoken (htype 1, hlen 6).  The fields `sname` and `file` are read where they carry
options (option 52) and are otherwise ignored: terwayd boots nothing.  What the options mean is in
`options`; whether a message may be believed is the client's business.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from terwayd.dhcp import options as opt
from terwayd.dhcp.options import Code, Kind

REQUEST: Final = 1  # op of what a client sends
REPLY: Final = 2  # op of what a server sends
BROADCAST: Final = 0x8000  # flags: the reply shall be broadcast
NO_ADDRESS: Final = IPv4Address(0)

_FIXED: Final = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE: Final = b"\x63\x82\x53\x63"
_MIN_SIZE: Final = 300  # RFC 1542 section 2.1: relays drop shorter ones
MAX_SIZE: Final = 1472  # what a reply may measure (option 57): one Ethernet frame, no fragments


class PacketError(ValueError):
    """The bytes are not a DHCP message for Ethernet."""


@dataclass(frozen=True, slots=True)
class Message:
    """A DHCP message; `options` maps codes to the bytes of each option, pieces already joined."""

    op: int
    xid: int
    chaddr: bytes
    secs: int = 0
    flags: int = 0
    ciaddr: IPv4Address = NO_ADDRESS
    yiaddr: IPv4Address = NO_ADDRESS
    siaddr: IPv4Address = NO_ADDRESS
    giaddr: IPv4Address = NO_ADDRESS
    options: Mapping[int, bytes] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes | memoryview) -> Message:
        """Read a UDP payload; raises PacketError, and nothing else, when it is not a DHCP message."""
        return parse(data)

    def encode(self) -> bytes:
        """The UDP payload, at least 300 bytes."""
        fixed = _FIXED.pack(
            self.op,
            1,
            6,
            0,
            self.xid,
            self.secs,
            self.flags,
            self.ciaddr.packed,
            self.yiaddr.packed,
            self.siaddr.packed,
            self.giaddr.packed,
            self.chaddr,
            b"",
            b"",
            _COOKIE,
        )
        return (fixed + opt.join(self.options)).ljust(_MIN_SIZE, b"\0")

    @property
    def kind(self) -> Kind | None:
        """The message type, None when it is missing or unknown."""
        raw = self.options.get(Code.MESSAGE_TYPE, b"")
        return Kind(raw[0]) if len(raw) == 1 and 1 <= raw[0] <= 9 else None

    @property
    def server(self) -> IPv4Address | None:
        """The server identifier, None when it is missing or no address."""
        raw = self.options.get(Code.SERVER_ID, b"")
        return IPv4Address(raw) if len(raw) == 4 and any(raw) else None


def parse(data: bytes | memoryview) -> Message:
    """Read a UDP payload; raises PacketError, and nothing else, when it is not a DHCP message."""
    data = bytes(data)
    if len(data) < _FIXED.size:
        raise PacketError(f"{len(data)} bytes are too few for a DHCP message")
    if len(data) > MAX_SIZE:
        raise PacketError(f"{len(data)} bytes are more than was asked for")
    (op, htype, hlen, _, xid, secs, flags, ci, yi, si, gi, chaddr, sname, file, cookie) = _FIXED.unpack_from(
        data
    )
    if op not in (REQUEST, REPLY):
        raise PacketError(f"op is {op}")
    if htype != 1 or hlen != 6:
        raise PacketError(f"hardware type {htype} with addresses of {hlen} bytes is not Ethernet")
    if cookie != _COOKIE:
        raise PacketError("BOOTP without DHCP's magic cookie")
    options: dict[int, bytes] = {}
    try:
        opt.split(data[_FIXED.size :], options)
        # RFC 2131 section 4.1: the options field first, then file, then sname.
        overload = options.pop(Code.OVERLOAD, b"\0")
        if len(overload) != 1 or overload[0] > 3:
            raise PacketError("option overload is neither 1, 2 nor 3")
        if overload[0] & 1:
            opt.split(file, options)
        if overload[0] & 2:
            opt.split(sname, options)
        options.pop(Code.OVERLOAD, None)
    except ValueError as error:
        raise PacketError(str(error)) from error
    return Message(
        op,
        xid,
        chaddr[:6],
        secs,
        flags,
        IPv4Address(ci),
        IPv4Address(yi),
        IPv4Address(si),
        IPv4Address(gi),
        options,
    )
