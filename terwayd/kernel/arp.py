"""Asking who has an IPv4 address (RFC 826): the proof that the LAN is still there."""

from __future__ import annotations

import select
import socket
import struct
import time
from ipaddress import IPv4Address

_ETH_P_ARP = 0x0806
_PROBE_INTERVAL = 0.25


def answers(dev: str, mac: str, own: IPv4Address, target: IPv4Address, timeout: float) -> bool:
    """Whether `target` answers an ARP request sent out of `dev` within `timeout` seconds.

    Blocks; for a thread.  A request goes out every quarter of a second.
    """
    me = bytes.fromhex(mac.replace(":", ""))
    request = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, me, own.packed, bytes(6), target.packed)
    frame = b"\xff" * 6 + me + struct.pack("!H", _ETH_P_ARP) + request
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP)) as raw:
        raw.bind((dev, _ETH_P_ARP))
        raw.setblocking(False)
        resend = 0.0
        while (now := time.monotonic()) < deadline:
            if now >= resend:
                raw.send(frame)
                resend = now + _PROBE_INTERVAL
            if select.select([raw], [], [], max(0.0, min(resend, deadline) - now))[0]:
                reply = raw.recv(128)[14:42]
                if len(reply) == 28 and reply[6:8] == b"\x00\x02" and reply[14:18] == target.packed:
                    return True
    return False
