"""Drives any number of DHCP clients: feeds them frames and time, and carries out what they want.

A client at rest costs an entry in a few dictionaries and one in a heap: no task, thread or socket.
All methods must be called on the loop's thread.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Hashable
from ipaddress import IPv4Address
from typing import Final

from terwayd.dhcp import frame
from terwayd.dhcp.client import Client
from terwayd.dhcp.conflict import Probing
from terwayd.dhcp.deadlines import Deadlines
from terwayd.dhcp.frame import Arp
from terwayd.dhcp.lease import Lease
from terwayd.dhcp.messages import Identity, Outgoing
from terwayd.dhcp.outcome import Event
from terwayd.dhcp.outside import Alarm, Watcher
from terwayd.dhcp.packet import Message
from terwayd.dhcp.receiver import Receiver
from terwayd.dhcp.sender import Sender
from terwayd.dhcp.table import State

ANNOUNCE_NUM: Final = 2  # RFC 5227 section 1.1
ANNOUNCE_INTERVAL_S: Final = 2.0


class Driver:
    """Clients, each under a key.  What happens to them is told by `on_event`; see `Engine` for the rest."""

    def __init__(
        self,
        sender: Sender,
        receiver: Receiver,
        alarm: Alarm,
        *,
        clock: Callable[[], float],
        rng: random.Random,
        on_event: Callable[[Hashable, Event], None],
        probing: Probing | None,
        servers: tuple[IPv4Address, ...] | None,
        rapid_commit: bool,
        why_not: Callable[[Hashable, IPv4Address], str],
        watcher: Watcher | None,
    ) -> None:
        self._sender = sender
        self._receiver = receiver
        self._alarm = alarm
        self._clock = clock
        self._rng = rng
        self._on_event = on_event
        self._probing = probing
        self._servers = servers
        self._rapid_commit = rapid_commit
        self._why_not = why_not
        self._watcher = watcher
        self._clients: dict[Hashable, Client] = {}
        self._deadlines = Deadlines()
        self.closed = False
        sender.waits_still = self._waits_still
        receiver.on_answer = self._heard
        receiver.on_arp = self._heard_arp
        alarm.on_ring = self.wake

    def __len__(self) -> int:
        return len(self._clients)

    def keys(self) -> tuple[Hashable, ...]:
        """The keys of all clients."""
        return tuple(self._clients)

    def get(self, key: Hashable) -> Client | None:
        """The client under `key`, to look at."""
        return self._clients.get(key)

    def any_lease(self, besides: Client) -> bool:
        """Whether one of the other clients has a lease."""
        return any(each.lease is not None for each in self._clients.values() if each is not besides)

    def start(self, key: Hashable, identity: Identity, requested: IPv4Address | None = None) -> Client:
        """Begin to ask for a lease, of the address `requested` if it is free.  There is no client under `key`."""
        client = self._add(key, identity)
        client.start(self._clock(), requested=requested)
        self._settle(key, client)
        return client

    def adopt(self, key: Hashable, identity: Identity, lease: Lease, *, spread: float) -> None:
        """Go on with a lease, asked for within `spread` seconds if it is due.  There is no client under `key`."""
        client = self._add(key, identity)
        client.start(self._clock(), lease=lease, spread=spread)
        self._settle(key, client)

    def renew(self, key: Hashable) -> None:
        """Have the client under `key` ask for more time now."""
        client = self._clients[key]
        client.renew(self._clock())
        self._settle(key, client)

    def release(self, key: Hashable) -> None:
        """Give back what the client under `key` holds, and forget it."""
        client = self._clients[key]
        client.release(self._clock())
        self._sender.send(client.outbox())
        self.forget(key)

    def forget(self, key: Hashable) -> None:
        """Stop the client under `key` and send nothing."""
        del self._clients[key]
        self._receiver.forget(key)
        self._deadlines.forget(key)

    def believe(self, servers: tuple[IPv4Address, ...] | None) -> None:
        """From now on these servers only, None for any."""
        self._servers = servers
        for client in self._clients.values():
            client.servers = servers

    def announce(self, key: Hashable) -> None:
        """Tell the LAN by ARP who has the address of `key` now, twice (RFC 5227 section 2.3)."""
        client = self._clients.get(key)
        if client is not None and client.lease is not None:
            self._announce(key, client.lease, ANNOUNCE_NUM)

    def _announce(self, key: Hashable, lease: Lease, times: int) -> None:
        client = self._clients.get(key)
        if client is None or client.claimed != lease.address.ip:
            return
        self._sender.put_everywhere(frame.arp_announcement(client.identity.mac, lease.address.ip))
        if times > 1:
            loop = asyncio.get_running_loop()
            loop.call_later(ANNOUNCE_INTERVAL_S, self._announce, key, lease, times - 1)

    def wake(self) -> None:
        """Feed time to the clients that are due."""
        now = self._clock()
        for key in self._deadlines.due(now):
            client = self._clients[key]
            client.tick(now)
            self._settle(key, client)
        self._arm()

    def close(self) -> None:
        """The alarm rings no more; clients stay as they are."""
        self.closed = True
        self._alarm.close()

    def _add(self, key: Hashable, identity: Identity) -> Client:
        client = self._clients[key] = Client(
            identity,
            self._rng,
            rapid_commit=self._rapid_commit,
            probing=self._probing,
            servers=self._servers,
            why_not=lambda ip: self._against(key, ip),
        )
        return client

    def _against(self, key: Hashable, ip: IPv4Address) -> str:
        other = self._receiver.claimant(ip)
        if other is not None and other != key:
            return "which another client of this node has"
        return self._why_not(key, ip)

    def _heard(self, key: Hashable, message: Message, source_mac: bytes) -> None:
        if self._watcher is not None and message.kind is not None:
            self._watcher.dhcp_message("received", message.kind.name)
        client = self._clients[key]
        client.receive(message, source_mac, self._clock())
        self._settle(key, client)

    def _heard_arp(self, key: Hashable, arp: Arp) -> None:
        client = self._clients[key]
        client.heard(arp, self._clock())
        self._settle(key, client)

    def _settle(self, key: Hashable, client: Client) -> None:
        """Carry out what a client wants after it was fed: frames, its next deadline, events."""
        self._receiver.expect(key, client.xid, client.identity.mac)
        self._receiver.claim(key, client.claimed)
        self._sender.send(client.outbox())
        for data in client.frames():
            self._sender.put_everywhere(data)
        if self._deadlines.set(key, client.deadline()):
            self._arm()
        for event in client.events():
            if self._clients.get(key) is client:  # an event before this one may have ended it
                self._on_event(key, event)

    def _arm(self) -> None:
        """Set the alarm to the nearest deadline."""
        at = self._deadlines.nearest()
        if at < math.inf and not self.closed:
            self._alarm.set(at)

    def _waits_still(self, out: Outgoing) -> bool:
        """Whether a DISCOVER that was held back is the one to send now."""
        client = self._clients.get(self._receiver.asker(out.message.xid, out.message.chaddr))
        return client is not None and client.state is State.SELECTING
