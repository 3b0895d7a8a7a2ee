"""Ethernet, IPv4 and UDP around a DHCP message, and the kernel filter that lets only such frames through.

A client without an address has no use for the kernel's UDP, and terwayd speaks for interfaces of other
network namespaces: so it writes and reads whole frames.  Nothing here opens a socket.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from terwayd.bpf import assemble

CLIENT_PORT: Final = 68
SERVER_PORT: Final = 67
BROADCAST_MAC: Final = b"\xff" * 6

ETH_P_ARP: Final = 0x0806

_ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
_ARP_REQUEST: Final = 1
_ETHERNET: Final = struct.Struct("!6s6sH")
_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_UDP: Final = struct.Struct("!HHHH")
_ETH_P_IP: Final = 0x0800
_IPPROTO_UDP: Final = 17
_FRAGMENT: Final = 0x3FFF  # "more fragments" and the offset
_TOS: Final = 0xC0  # CS6, network control, as other DHCP clients mark their packets

_DHCP = f"""
        jne #{_ETH_P_IP}, drop
        ldb [23]
        jne #{_IPPROTO_UDP}, drop
        ldh [20]                ; whole datagrams
        jset #{_FRAGMENT}, drop
        ldx 4*([14]&0xf)
        ldh [x+16]
        jne #{CLIENT_PORT}, drop
        ldb [x+22]              ; a server's message
        jne #2, drop
        ld [x+258]              ; the magic cookie
        jne #0x63825363, drop
keep:   ret #-1
drop:   ret #0
"""
FILTER: Final = assemble(f"ldh [12]\n{_DHCP}").code
FILTER_ARP: Final = assemble(f"ldh [12]\njeq #{ETH_P_ARP}, keep\n{_DHCP}").code
"""The same, and all of ARP."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram as it came over Ethernet."""

    source_mac: bytes
    destination_mac: bytes
    source: IPv4Address
    destination: IPv4Address
    source_port: int
    destination_port: int
    payload: bytes


def build(
    payload: bytes,
    *,
    source_mac: bytes,
    destination_mac: bytes,
    source: IPv4Address,
    destination: IPv4Address,
    source_port: int = CLIENT_PORT,
    destination_port: int = SERVER_PORT,
) -> bytes:
    """A whole Ethernet frame with both checksums; by default from a DHCP client to a server."""
    length = _UDP.size + len(payload)
    header = (0x45, _TOS, _IPV4.size + length, 0, 0, 64, _IPPROTO_UDP)
    ip = _IPV4.pack(*header, 0, source.packed, destination.packed)
    ip = _IPV4.pack(*header, checksum(ip), source.packed, destination.packed)
    udp = _UDP.pack(source_port, destination_port, length, 0) + payload
    # RFC 768: a sum of zero is sent as all ones, for zero says "no checksum".
    total = checksum(_pseudo(source.packed, destination.packed, length) + udp) or 0xFFFF
    udp = _UDP.pack(source_port, destination_port, length, total) + payload
    return _ETHERNET.pack(destination_mac, source_mac, _ETH_P_IP) + ip + udp


def parse(frame: bytes | memoryview, *, checksum_ready: bool = True) -> Datagram | None:
    """The UDP datagram in an Ethernet frame; None when there is none, or it is a fragment or damaged.

    `checksum_ready` false: the frame never left this machine and its UDP checksum is not filled in yet
    (TP_STATUS_CSUMNOTREADY); it is not looked at then.
    """
    frame = bytes(frame)
    if len(frame) < _ETHERNET.size + _IPV4.size + _UDP.size:
        return None
    destination_mac, source_mac, ethertype = _ETHERNET.unpack_from(frame)
    packet = frame[_ETHERNET.size :]
    first, _, total, _, fragment, _, protocol, _, source, destination = _IPV4.unpack_from(packet)
    header = (first & 0x0F) * 4
    if (
        ethertype != _ETH_P_IP
        or first >> 4 != 4
        or header < _IPV4.size
        or protocol != _IPPROTO_UDP
        or fragment & _FRAGMENT
        or not header + _UDP.size <= total <= len(packet)
        or checksum(packet[:header])
    ):
        return None
    segment = packet[header:total]  # what follows is Ethernet padding
    source_port, destination_port, length, sent = _UDP.unpack_from(segment)
    if not _UDP.size <= length <= len(segment):
        return None
    segment = segment[:length]
    if sent and checksum_ready and checksum(_pseudo(source, destination, length) + segment):
        return None
    return Datagram(
        source_mac,
        destination_mac,
        IPv4Address(source),
        IPv4Address(destination),
        source_port,
        destination_port,
        segment[_UDP.size :],
    )


def xid(frame: bytes | memoryview) -> int:
    """The transaction of the DHCP message in a frame that the filter let through, read before anything is checked."""
    at = _ETHERNET.size + (frame[14] & 0x0F) * 4 + _UDP.size + 4 if len(frame) > 14 else 0
    return int.from_bytes(frame[at : at + 4], "big")


@dataclass(frozen=True, slots=True)
class Arp:
    """An ARP packet: who says so (`mac`), for which address (empty for a probe), and whom it is about."""

    mac: bytes
    sender: IPv4Address
    target: IPv4Address


def arp_probe(mac: bytes, ip: IPv4Address) -> bytes:
    """The question whether anybody has `ip`, which tells nobody anything (RFC 5227 section 2.1.1)."""
    return _arp(mac, IPv4Address(0), ip)


def arp_announcement(mac: bytes, ip: IPv4Address) -> bytes:
    """The statement that `mac` has `ip` (RFC 5227 section 2.3)."""
    return _arp(mac, ip, ip)


def parse_arp(frame: bytes | memoryview) -> Arp | None:
    """What an ARP frame for IPv4 over Ethernet says, None for all others."""
    data = bytes(frame[: _ETHERNET.size + _ARP.size])
    if len(data) < _ETHERNET.size + _ARP.size or data[12:14] != ETH_P_ARP.to_bytes(2, "big"):
        return None
    hardware, protocol, hlen, plen, operation, mac, sender, _, target = _ARP.unpack_from(data, 14)
    if (hardware, protocol, hlen, plen) != (1, _ETH_P_IP, 6, 4) or operation not in (1, 2):
        return None
    return Arp(mac, IPv4Address(sender), IPv4Address(target))


def _arp(mac: bytes, sender: IPv4Address, target: IPv4Address) -> bytes:
    body = _ARP.pack(1, _ETH_P_IP, 6, 4, _ARP_REQUEST, mac, sender.packed, bytes(6), target.packed)
    return _ETHERNET.pack(BROADCAST_MAC, mac, ETH_P_ARP) + body


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of `data`: 0 when `data` carries its own, right one."""
    if len(data) % 2:
        data += b"\0"
    # The one's complement sum of 16-bit words is the whole as one number modulo 0xFFFF.
    value = int.from_bytes(data, "big")
    if not value:
        return 0xFFFF
    return 0xFFFF - (value % 0xFFFF or 0xFFFF)


def _pseudo(source: bytes, destination: bytes, length: int) -> bytes:
    return source + destination + bytes((0, _IPPROTO_UDP)) + length.to_bytes(2, "big")
