"""Telling the LAN by ARP who has an address (RFC 5227 section 2.3), from the network namespace one is in."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address

from terwayd.dhcp import frame


def announce(dev: str, mac: str, ip: IPv4Address) -> None:
    """Announce on `dev` that `mac` has `ip` now, so that the LAN forgets who had it before; OSError."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind((dev, frame.ETH_P_ARP))
        raw.send(frame.arp_announcement(bytes.fromhex(mac.replace(":", "")), ip))
