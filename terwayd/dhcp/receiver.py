"""Which client a frame is for: an answer by its transaction, an ARP packet by the address that a client claims.

The way in, as `sender` is the way out.  Clients are known here by their keys alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from ipaddress import IPv4Address

from terwayd.dhcp import frame
from terwayd.dhcp.frame import Arp
from terwayd.dhcp.packet import REPLY, Message, PacketError

log = logging.getLogger(__name__)

_Exchange = tuple[int, bytes]  # the transaction, and the MAC that asks

Hear = Callable[[Message, bytes], None]


class Receiver:
    """Give it every frame by `receive`; it calls `on_answer` with the MAC that a message came from, and `on_arp`."""

    def __init__(self) -> None:
        self.on_answer: Callable[[Hashable, Message, bytes], None] = lambda _key, _message, _mac: None
        self.on_arp: Callable[[Hashable, Arp], None] = lambda _key, _arp: None
        self._exchanges: dict[Hashable, _Exchange] = {}
        self._asking: dict[_Exchange, Hashable] = {}
        self._by_xid: dict[int, Hashable] = {}  # answers to the wrong MAC are told of
        self._claims: dict[Hashable, IPv4Address] = {}
        self._claimants: dict[IPv4Address, Hashable] = {}
        self._others: dict[_Exchange, Hear] = {}

    def expect(self, key: Hashable, xid: int, mac: bytes) -> None:
        """Answers to this transaction are for `key`, and none to the one before."""
        exchange = (xid, mac)
        if self._exchanges.get(key) != exchange:
            self._unlist(key)
            self._exchanges[key] = exchange
            self._asking[exchange] = self._by_xid[xid] = key

    def claim(self, key: Hashable, ip: IPv4Address | None) -> None:
        """What is said by ARP about `ip` is for `key`, and nothing about the one before; None: nothing at all."""
        if self._claims.get(key) != ip:
            self._unclaim(key)
            if ip is not None:
                self._claims[key] = ip
                self._claimants[ip] = key

    def forget(self, key: Hashable) -> None:
        """Nothing is for `key` any more."""
        self._unlist(key)
        self._unclaim(key)

    def listen(self, xid: int, mac: bytes, hear: Hear) -> None:
        """Answers to a transaction that is no client's go to `hear`, until `ignore`."""
        self._others[xid, mac] = hear

    def ignore(self, xid: int, mac: bytes) -> None:
        """The end of `listen`."""
        del self._others[xid, mac]

    def asker(self, xid: int, mac: bytes) -> Hashable | None:
        """Whose transaction this is; None when it is over."""
        return self._asking.get((xid, mac))

    def claimant(self, ip: IPv4Address) -> Hashable | None:
        """Who claims an address."""
        return self._claimants.get(ip)

    def receive(self, data: bytes | memoryview, checksum_ready: bool) -> None:
        """Hand a frame on, if it is for anybody; `checksum_ready` as for `frame.parse`."""
        if data[12:14] == b"\x08\x06":
            self._receive_arp(data)
            return
        if frame.xid(data) not in self._by_xid and not self._others:
            return  # most are for others, and a flood must cost little
        datagram = frame.parse(data, checksum_ready=checksum_ready)
        if datagram is None or datagram.destination_port != frame.CLIENT_PORT:
            return
        try:
            message = Message.parse(datagram.payload)
        except PacketError as error:
            log.debug("dropped a frame of %s: %s", datagram.source_mac.hex(":"), error)
            return
        if message.op != REPLY:
            return
        exchange = (message.xid, message.chaddr)
        if (hear := self._others.get(exchange)) is not None:
            hear(message, datagram.source_mac)
            return
        key = self._asking.get(exchange)
        if key is None:
            key = self._by_xid.get(message.xid)
        if key is not None:
            self.on_answer(key, message, datagram.source_mac)

    def _receive_arp(self, data: bytes | memoryview) -> None:
        arp = frame.parse_arp(data)
        if arp is None:
            return
        key = self._claimants.get(arp.sender if int(arp.sender) else arp.target)
        if key is not None:
            self.on_arp(key, arp)

    def _unlist(self, key: Hashable) -> None:
        exchange = self._exchanges.pop(key, None)
        if exchange is None:
            return
        if self._asking.get(exchange) == key:
            del self._asking[exchange]
        if self._by_xid.get(exchange[0]) == key:
            del self._by_xid[exchange[0]]

    def _unclaim(self, key: Hashable) -> None:
        ip = self._claims.pop(key, None)
        if ip is not None and self._claimants.get(ip) == key:
            del self._claimants[ip]
