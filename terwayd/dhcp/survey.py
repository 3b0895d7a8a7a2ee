"""Which DHCP servers answer: the OFFERs to a DISCOVER that nothing is taken of.

What is sent and what came back, as values; the engine carries them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Final

from terwayd.dhcp import messages
from terwayd.dhcp.messages import Identity, Outgoing
from terwayd.dhcp.options import Kind
from terwayd.dhcp.packet import BROADCAST, Message

AGAIN_S: Final = 1.0  # until the DISCOVER is sent again, while nobody answers
OTHERS_S: Final = 1.5  # for other servers after the first OFFER: some ping an address before they offer it


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server offered, `after` seconds; `server_mac` is where the frame came from."""

    server: IPv4Address
    server_mac: str
    address: IPv4Address
    after: float


class Survey:
    """One question to all servers."""

    def __init__(self, mac: bytes, xid: int, now: float, *, broadcast: bool) -> None:
        self.key = (xid, mac)
        self.offers: list[Offer] = []
        self._began = now
        out = messages.discover(Identity(mac), xid, 0, None, rapid_commit=False)
        flags = BROADCAST if broadcast else 0
        self.question: Outgoing = replace(out, message=replace(out.message, flags=flags))

    def heard(self, message: Message, source_mac: bytes, now: float) -> None:
        """A reply to it."""
        if message.kind is Kind.OFFER and message.server is not None:
            self.offers.append(
                Offer(message.server, source_mac.hex(":"), message.yiaddr, round(now - self._began, 4))
            )

    def over(self, now: float, *, first: bool) -> bool:
        """Whether enough has been heard: of the `first` server, or of others too that may answer."""
        return bool(self.offers) and (first or now - self._began - self.offers[0].after >= OTHERS_S)
