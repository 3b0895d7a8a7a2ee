"""Asking the LAN whether somebody is there: by ARP (RFC 826), by neighbour solicitation (RFC 4861), by TCP.

All of it blocks, and is for a thread.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address

_ETH_P_ARP = 0x0806
_ETH_P_IPV6 = 0x86DD
_ETH_P_ALL = 0x0003
_PROBE_INTERVAL = 0.1  # seconds between two questions
_ICMPV6 = 58
_IP_MTU_DISCOVER = 10  # from linux/in.h
_IP_PMTUDISC_PROBE = 3
_NOBODY = IPv4Address(0)
_LEAST = 576  # bytes that every host takes (RFC 791)


def arp(dev: str, mac: str, own: IPv4Address, target: IPv4Address, timeout: float) -> bool:
    """Whether `target` answers an ARP request sent out of `dev` within `timeout` seconds; OSError from the socket."""
    me = _mac(mac)
    frame = _probe(me, target, own)

    def answers(reply: bytes) -> bool:
        to_me = reply[20:22] == b"\x00\x02" and reply[32:38] == me
        return reply[12:14] == b"\x08\x06" and to_me and reply[28:32] == target.packed

    return _ask(dev, frame, answers, timeout)


def contested(dev: str, mac: str, address: IPv4Address, timeout: float) -> bool:
    """Whether another station says within `timeout` seconds that it has `address`, or asks whether it may take it.

    RFC 5227 section 2.1.1: of two that ask at the same time neither may have it.
    """
    me, ours = _mac(mac), address.packed

    def speaks_of_it(frame: bytes) -> bool:
        sender, target = frame[28:32], frame[38:42]
        other = frame[12:14] == b"\x08\x06" and frame[22:28] != me
        return other and (sender == ours or (sender == bytes(4) and target == ours))

    return _ask(dev, _probe(me, address), speaks_of_it, timeout)


def claimants(dev: str, mac: str, addresses: Iterable[IPv4Address], timeout: float) -> dict[IPv4Address, str]:
    """Who says on the LAN beyond `dev` that it has one of `addresses`: asked by ARP probes (RFC 5227)."""
    me, asked, found = _mac(mac), set(addresses), dict[IPv4Address, str]()
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind((dev, _ETH_P_ALL))
        for address in asked:
            raw.send(_probe(me, address))
        while asked and (left := deadline - time.monotonic()) > 0:
            if not select.select([raw], [], [], left)[0]:
                break
            reply = raw.recv(256).ljust(128, b"\0")
            if reply[12:14] == b"\x08\x06" and reply[20:22] == b"\x00\x02" and reply[32:38] == me:
                sender = IPv4Address(reply[28:32])
                if sender in asked and reply[22:28] != me:
                    found[sender] = reply[22:28].hex(":")
    return found


def path_mtu(target: IPv4Address, most: int, timeout: float) -> int | None:
    """The size of the largest packet up to `most` that `target` answers, unfragmented; None: it answers none."""
    least = _LEAST
    if _echo(target, most, timeout):
        return most
    asked = time.monotonic()
    if not _echo(target, least, timeout):
        return None
    patience = min(timeout, max(0.2, 10 * (time.monotonic() - asked)))
    if _echo(target, most, timeout):  # the first one was lost
        return most
    too_big = most
    while too_big - least > 1:
        middle = (least + too_big) // 2
        if _echo(target, middle, patience):
            least = middle
        else:
            too_big = middle
    return most if _echo(target, too_big, timeout) else least  # what gets through now was late, not too big


def _echo(target: IPv4Address, size: int, timeout: float) -> bool:
    """Whether a ping of `size` bytes, headers included, is answered; asked twice."""
    token = struct.pack("!I", size) + time.monotonic_ns().to_bytes(8, "big")
    body = struct.pack("!BBHHH", 8, 0, 0, 1, 1) + token
    body = body.ljust(size - 20, b"\0")
    body = body[:2] + struct.pack("!H", _checksum(body + b"\0" * (len(body) % 2))) + body[4:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        for _ in range(2):
            try:
                raw.sendto(body, (str(target), 0))
            except OSError:
                return False  # larger than what the interface sends
            deadline = time.monotonic() + timeout / 2
            while (left := deadline - time.monotonic()) > 0 and select.select([raw], [], [], left)[0]:
                reply = raw.recv(size + 128)
                if reply[20:21] == b"\0" and token in reply[20:64]:
                    return True
    return False


def neighbour(dev: str, mac: str, own: IPv6Address, target: IPv6Address, timeout: float) -> bool:
    """Whether `target` answers a neighbour solicitation sent out of `dev` within `timeout` seconds."""
    me, group = _mac(mac), b"\xff\x02" + bytes(9) + b"\x01\xff" + target.packed[13:]
    body = struct.pack("!BBHI", 135, 0, 0, 0) + target.packed + b"\x01\x01" + me
    pseudo = own.packed + group + struct.pack("!II", len(body), _ICMPV6)
    body = body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:]
    header = struct.pack("!IHBB", 0x60000000, len(body), _ICMPV6, 255) + own.packed + group
    frame = b"\x33\x33\xff" + target.packed[13:] + me + struct.pack("!H", _ETH_P_IPV6) + header + body

    def answers(reply: bytes) -> bool:
        advertised = reply[12:14] == b"\x86\xdd" and reply[20] == _ICMPV6 and reply[54] == 136
        return advertised and reply[62:78] == target.packed

    return _ask(dev, frame, answers, timeout)


def tcp(address: IPv4Address | IPv6Address, port: int, timeout: float) -> bool:
    """Whether something accepts a TCP connection there within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        try:
            socket.create_connection((str(address), port), timeout=min(left, 1.0)).close()
        except OSError:
            time.sleep(min(_PROBE_INTERVAL, max(0.0, deadline - time.monotonic())))
        else:
            return True
    return False


def _ask(dev: str, frame: bytes, answers: Callable[[bytes], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind((dev, _ETH_P_ALL))  # a port of a bridge hears nothing by its own protocol
        raw.setblocking(False)
        resend = 0.0
        while (now := time.monotonic()) < deadline:
            if now >= resend:
                raw.send(frame)
                resend = now + _PROBE_INTERVAL
            if select.select([raw], [], [], max(0.0, min(resend, deadline) - now))[0] and answers(
                raw.recv(256).ljust(128, b"\0")
            ):
                return True
    return False


def _probe(me: bytes, target: IPv4Address, own: IPv4Address = _NOBODY) -> bytes:
    """An ARP request; without an address of one's own it is a probe, which tells nobody anything."""
    request = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, me, own.packed, bytes(6), target.packed)
    return b"\xff" * 6 + me + struct.pack("!H", _ETH_P_ARP) + request


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
