"""Whether anybody else has an address: asked before it is used, and heard of afterwards (RFC 5227).

Only the addresses' side of it; what a conflict does to the client is in its table.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from terwayd.dhcp import frame
from terwayd.dhcp.frame import Arp

DEFEND_S: Final = 10.0  # section 2.4: an address is defended once in this time


@dataclass(frozen=True, slots=True)
class Probing:
    """How the LAN is asked whether an address is free (section 2.1.1); times in seconds."""

    first: float = 0.0  # up to this long before the first probe
    count: int = 3
    least: float = 0.13
    most: float = 0.13
    wait: float = 0.14


FAST: Final = Probing()
FULL: Final = Probing(first=1.0, least=1.0, most=2.0, wait=2.0)


class Detector:
    """Asks about the addresses of one client and defends them; `probing` None: it does not ask."""

    def __init__(self, mac: bytes, rng: random.Random, probing: Probing | None) -> None:
        self.probing = probing
        self._mac = mac
        self._rng = rng
        self._probes = 0  # sent for the address that is asked about
        self._defended = -math.inf
        self._frames: list[bytes] = []

    def frames(self) -> list[bytes]:
        """The ARP frames to be sent now; each is handed out once."""
        out, self._frames = self._frames, []
        return out

    def probe(self, ip: IPv4Address, now: float, *, first: bool) -> float:
        """Ask who has `ip`, the `first` time or again; the time to go on at."""
        assert self.probing is not None
        if first:
            self._probes = 0
            if self.probing.first:
                return now + self._rng.uniform(0, self.probing.first)
        self._frames.append(frame.arp_probe(self._mac, ip))
        self._probes += 1
        if self.unanswered:
            return now + self.probing.wait
        return now + self._rng.uniform(self.probing.least, self.probing.most)

    @property
    def unanswered(self) -> bool:
        """Whether all probes have been sent: once the time to go on has come, nobody has the address."""
        return self.probing is not None and self._probes >= self.probing.count

    def taken(self, ip: IPv4Address, arp: Arp) -> bool:
        """Whether the sender of an ARP packet has `ip`, which is asked about, or is about to take it."""
        return arp.sender == ip or (arp.target == ip and not int(arp.sender))

    def defend(self, ip: IPv4Address, arp: Arp, now: float) -> bool:
        """Say that `ip` is ours where an ARP packet says otherwise, once in a while; whether it was said."""
        if arp.sender != ip or now < self._defended + DEFEND_S:
            return False
        self._defended = now
        self._frames.append(frame.arp_announcement(self._mac, ip))
        return True
