"""Any number of DHCP clients on one event loop: one transport, one timer, one table of replies.

A client at rest costs an entry in a dictionary and one in a heap: no task, thread or socket.  All methods
must be called on the loop's thread.  The engine does not store leases: who made it learns of every change
through `on_event` and brings leases back with `adopt`.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from terwayd.dhcp import frame, messages
from terwayd.dhcp.client import (
    REBOOT_SPREAD_S,
    Bound,
    Client,
    Event,
    Identity,
    Lost,
    Probing,
    Renewed,
    State,
)
from terwayd.dhcp.lease import Lease
from terwayd.dhcp.messages import Outgoing
from terwayd.dhcp.outside import Alarm, LoopAlarm, Transport, Watcher
from terwayd.dhcp.packet import REPLY, Message, PacketError
from terwayd.dhcp.sender import Sender
from terwayd.dhcp.survey import AGAIN_S, Offer, Survey
from terwayd.errors import DhcpError

log = logging.getLogger(__name__)

ANNOUNCE_NUM: Final = 2  # RFC 5227 section 1.1
ANNOUNCE_INTERVAL_S: Final = 2.0

_HINT_SILENT: Final = (
    "terwayctl doctor dhcp tells whether frames of other MAC addresses may pass (port security; ESXi: promiscuous "
    "mode and forged transmits); watch them: tcpdump -nei any 'port 67 or port 68'"
)
_HINT_FULL: Final = (
    "others on this node have leases: the DHCP server's range is full, most likely, or it is down by now; "
    "terwayctl doctor dhcp, or watch it: tcpdump -nei any 'port 67 or port 68'"
)
_HINT_KEPT: Final = "see whether the DHCP server answers: tcpdump -nei any 'port 67 or port 68'"
_HINT_REFUSED: Final = "look into the log of the DHCP server: is its range full, is this client shut out?"


@dataclass(slots=True, eq=False)
class _Entry:
    key: Hashable
    client: Client
    waiter: asyncio.Future[Lease] | None = None
    asked: asyncio.Future[Lease] | None = None
    reply_to: tuple[int, bytes] | None = None
    claimed: IPv4Address | None = None
    wake_at: float = math.inf


class Engine:
    """Runs DHCP clients, each under a key of the caller's choice.

    `clock` gives the seconds that leases are counted in.  `on_event` gets the events of clients that no
    `acquire` waits for: the first Bound of an acquired client is what `acquire` returns instead.
    `why_not` says for a key why it shall not have an address, "" when it may.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        clock: Callable[[], float],
        alarm: Alarm | None = None,
        rng: random.Random,
        on_event: Callable[[Hashable, Event], None],
        probing: Probing | None = None,
        servers: tuple[IPv4Address, ...] | None = None,
        rapid_commit: bool = False,
        why_not: Callable[[Hashable, IPv4Address], str] = lambda _key, _ip: "",
        discover_rate: int = 50,
        watcher: Watcher | None = None,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._rng = rng
        self._on_event = on_event
        self._probing = probing
        self._servers = servers
        self._rapid_commit = rapid_commit
        self._why_not = why_not
        self._watcher = watcher
        self._sender = Sender(
            transport,
            clock=lambda: self._clock(),
            rate=discover_rate,
            watcher=watcher,
            waits_still=self._waits_still,
        )
        self._entries: dict[Hashable, _Entry] = {}
        self._claims: dict[IPv4Address, _Entry] = {}
        self._replies: dict[tuple[int, bytes], _Entry] = {}
        self._asking: dict[int, _Entry] = {}  # by xid alone: answers to the wrong client are told of
        self._surveys: dict[tuple[int, bytes], Survey] = {}
        self._heap: list[tuple[float, int, _Entry]] = []
        self._pushes = 0
        self._alarm = alarm if alarm is not None else LoopAlarm(lambda: self._clock())
        self._alarm.on_ring = self._tick
        self._closed = False
        transport.on_frame = self._receive

    def limit(self, servers: tuple[IPv4Address, ...] | None, discover_rate: int) -> None:
        """From now on believe these servers only (None: any), and send so many DISCOVERs a second at most."""
        self._servers = servers
        self._sender.limit(discover_rate)
        for entry in self._entries.values():
            entry.client.servers = servers

    async def acquire(
        self,
        key: Hashable,
        identity: Identity,
        *,
        timeout: float,  # noqa: ASYNC109  the error text belongs to the deadline
        requested: IPv4Address | None = None,
    ) -> Lease:
        """A lease for `key` within `timeout` seconds, `requested` if the server agrees; DhcpError otherwise.

        A key that holds a lease already gets that one.  When the call fails or is cancelled the client is
        forgotten, and an address that it may have got in the last moment is given back.
        """
        if self._closed:
            raise DhcpError("no DHCP lease can be had: terwayd is about to end")
        entry = self._entries.get(key)
        if entry is not None and entry.waiter is not None:
            raise DhcpError(f"a DHCP lease for {_mac(entry.client.identity)} is being asked for already")
        if entry is not None and entry.client.lease is not None:
            return entry.client.lease
        if entry is not None:
            self.forget(key)
        entry = self._add(key, identity)
        waiter = entry.waiter = asyncio.get_running_loop().create_future()
        began = self._clock()
        entry.client.start(began, requested=requested)
        self._settle(entry)
        lease: Lease | None = None
        try:
            async with asyncio.timeout(timeout):
                lease = await waiter
        except TimeoutError:
            raise DhcpError(
                f"no DHCP lease for {_mac(identity)}: {entry.client.summary(self._clock())}",
                hint=self._hint(entry),
            ) from None
        finally:
            entry.waiter = None
            if self._watcher is not None:
                self._watcher.dhcp_acquired(self._clock() - began if lease is not None else None)
            if lease is None:
                self._abandon(entry)
        return lease

    def _hint(self, entry: _Entry) -> str:
        if not entry.client.silent:
            return _HINT_REFUSED
        others = any(each.client.lease is not None for each in self._entries.values() if each is not entry)
        return _HINT_FULL if others else _HINT_SILENT

    async def survey(
        self, mac: bytes, *, within: float, broadcast: bool = False, first: bool = False
    ) -> tuple[Offer, ...]:
        """The OFFERs to a DISCOVER from `mac` `within` seconds, or the `first` one; none of them is taken."""
        began = self._clock()
        survey = Survey(mac, self._rng.getrandbits(32), began, broadcast=broadcast)
        self._surveys[survey.key] = survey
        sent = -math.inf
        try:
            while (now := self._clock()) < began + within and not survey.over(now, first=first):
                if not survey.offers and now >= sent + AGAIN_S:
                    self._sender.send_now(survey.question)
                    sent = now
                await asyncio.sleep(0.02)
        finally:
            del self._surveys[survey.key]
        return tuple(survey.offers)

    def adopt(self, key: Hashable, identity: Identity, lease: Lease) -> None:
        """Go on with a lease that an earlier run had; a client that runs under `key` is replaced."""
        self.forget(key)
        entry = self._add(key, identity)
        spread = max(REBOOT_SPREAD_S, len(self._entries) * self._sender.step)
        entry.client.start(self._clock(), lease=lease, spread=spread)
        self._settle(entry)

    async def renew(self, key: Hashable, *, timeout: float) -> Lease:  # noqa: ASYNC109
        """The lease of `key`, extended now; DhcpError when no server did within `timeout` seconds.

        The lease goes on as it was then, and the client as if its T1 had come.
        """
        entry = self._holder(key)
        asked = entry.asked = asyncio.get_running_loop().create_future()
        entry.client.renew(self._clock())
        self._settle(entry)
        return await self._outcome(entry, asked, timeout)

    async def replace(self, key: Hashable, *, timeout: float) -> Lease:  # noqa: ASYNC109
        """A new lease for `key`, whose old one is given back; DhcpError when none came within `timeout` seconds.

        To whoever hears the events it is a Lost and then a Bound; the client goes on to ask for the latter.
        """
        entry = self._holder(key)
        identity, lease = entry.client.identity, entry.client.lease
        assert lease is not None
        self._abandon(entry)
        self._tell(key, Lost(f"{lease.address.ip} was given back by hand", lease))
        entry = self._add(key, identity)
        asked = entry.asked = asyncio.get_running_loop().create_future()
        entry.client.start(self._clock())
        self._settle(entry)
        return await self._outcome(entry, asked, timeout)

    def _holder(self, key: Hashable) -> _Entry:
        entry = self._entries.get(key)
        if entry is None or entry.client.lease is None:
            raise DhcpError("there is no lease: one is being asked for", hint="terwayctl leases")
        if entry.asked is not None:
            raise DhcpError(f"{_mac(entry.client.identity)} is being renewed already")
        return entry

    async def _outcome(self, entry: _Entry, asked: asyncio.Future[Lease], within: float) -> Lease:
        client = entry.client
        try:
            async with asyncio.timeout(within):
                return await asked
        except TimeoutError:
            kept = client.lease is not None
            what, state = (
                ("not extended", "it goes on as it was") if kept else ("no lease", "it is asked for still")
            )
            raise DhcpError(
                f"{what}: {client.summary(self._clock())}; {state}",
                hint=_HINT_KEPT if kept else self._hint(entry),
            ) from None
        finally:
            entry.asked = None

    def release(self, key: Hashable) -> None:
        """Give back what the client under `key` holds, and forget it; an unknown key is no error."""
        entry = self._entries.get(key)
        if entry is not None:
            self._abandon(entry)

    def release_lease(self, identity: Identity, lease: Lease) -> None:
        """Give back a lease that no client runs for."""
        self._sender.send([messages.release(identity, self._rng.getrandbits(32), lease)])

    def forget(self, key: Hashable) -> None:
        """Stop the client under `key` and send nothing: the address stays leased until its time is over."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._unlist(entry)
        self._unclaim(entry)
        entry.wake_at = math.inf
        if len(self._heap) > 2 * len(self._entries) + 64:
            self._heap = [item for item in self._heap if item[2].wake_at == item[0]]
            heapq.heapify(self._heap)
        for waiting in (entry.waiter, entry.asked):
            if waiting is not None and not waiting.done():
                waiting.set_exception(
                    DhcpError(f"the DHCP client of {_mac(entry.client.identity)} was stopped")
                )

    def announce(self, key: Hashable) -> None:
        """Tell the LAN by ARP who has the address of `key` now, twice (RFC 5227 section 2.3).

        The kernel's own announcement, sent as the pod's interface comes up, is lost: the bridge does not
        forward for a port whose carrier it has not noticed yet.
        """
        self._announce(key, self.lease(key), ANNOUNCE_NUM)

    def _announce(self, key: Hashable, lease: Lease | None, times: int) -> None:
        entry = self._entries.get(key)
        if entry is None or lease is None or entry.client.claimed != lease.address.ip:
            return
        self._sender.put_everywhere(frame.arp_announcement(entry.client.identity.mac, lease.address.ip))
        if times > 1:
            loop = asyncio.get_running_loop()
            loop.call_later(ANNOUNCE_INTERVAL_S, self._announce, key, lease, times - 1)

    def state(self, key: Hashable) -> State | None:
        """The state of the client under `key`, None when there is none."""
        entry = self._entries.get(key)
        return None if entry is None else entry.client.state

    def lease(self, key: Hashable) -> Lease | None:
        """The lease that the client under `key` holds now."""
        entry = self._entries.get(key)
        return None if entry is None else entry.client.lease

    def keys(self) -> tuple[Hashable, ...]:
        """The keys of all clients."""
        return tuple(self._entries)

    def wake(self) -> None:
        """Do what is due; needed only when the clock was moved or the link has come back."""
        self._tick()

    def close(self) -> None:
        """Stop all clients and the transport; leases stay as they are."""
        self._closed = True
        for key in tuple(self._entries):
            self.forget(key)
        self._alarm.close()
        self._transport.close()

    def _add(self, key: Hashable, identity: Identity) -> _Entry:
        client = Client(
            identity,
            self._rng,
            rapid_commit=self._rapid_commit,
            probing=self._probing,
            servers=self._servers,
            why_not=lambda ip: self._against(key, ip),
        )
        entry = self._entries[key] = _Entry(key, client)
        return entry

    def _against(self, key: Hashable, ip: IPv4Address) -> str:
        other = self._claims.get(ip)
        if other is not None and other.key != key:
            return "which another client of this node has"
        return self._why_not(key, ip)

    def _abandon(self, entry: _Entry) -> None:
        if self._entries.get(entry.key) is not entry:
            return
        entry.client.release(self._clock())
        self._sender.send(entry.client.outbox())
        self.forget(entry.key)

    def _receive(self, data: bytes | memoryview, checksum_ready: bool) -> None:
        if data[12:14] == b"\x08\x06":
            self._receive_arp(data)
            return
        if frame.xid(data) not in self._asking and not self._surveys:
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
        if (survey := self._surveys.get((message.xid, message.chaddr))) is not None:
            survey.heard(message, datagram.source_mac, self._clock())
            return
        entry = self._replies.get((message.xid, message.chaddr)) or self._asking.get(message.xid)
        if entry is not None:
            if self._watcher is not None and message.kind is not None:
                self._watcher.dhcp_message("received", message.kind.name)
            entry.client.receive(message, datagram.source_mac, self._clock())
            self._settle(entry)

    def _receive_arp(self, data: bytes | memoryview) -> None:
        arp = frame.parse_arp(data)
        if arp is None:
            return
        entry = self._claims.get(arp.sender if int(arp.sender) else arp.target)
        if entry is not None:
            entry.client.heard(arp, self._clock())
            self._settle(entry)

    def _settle(self, entry: _Entry) -> None:
        """Carry out what a client wants after it was fed: frames, events, its next deadline."""
        client = entry.client
        reply_to = (client.xid, client.identity.mac)
        if entry.reply_to != reply_to:
            self._unlist(entry)
            entry.reply_to = reply_to
            self._replies[reply_to] = self._asking[client.xid] = entry
        if entry.claimed != client.claimed:
            self._unclaim(entry)
            if client.claimed is not None:
                entry.claimed = client.claimed
                self._claims[client.claimed] = entry
        self._sender.send(client.outbox())
        for data in client.frames():
            self._sender.put_everywhere(data)
        at = client.deadline()
        if at != entry.wake_at:
            entry.wake_at = at
            if at < math.inf:
                self._pushes += 1
                heapq.heappush(self._heap, (at, self._pushes, entry))
                self._arm()
        for event in client.events():
            if entry.waiter is not None:
                if isinstance(event, Bound) and not entry.waiter.done():
                    entry.waiter.set_result(event.lease)
            elif self._entries.get(entry.key) is entry:  # an event before this one may have ended the client
                self._tell(entry.key, event)
                _answer(entry.asked, event)

    def _tell(self, key: Hashable, event: Event) -> None:
        try:
            self._on_event(key, event)
        except Exception:  # one client's trouble must not stop the timers of the others
            log.exception("could not act on %s of %s", type(event).__name__, key)

    def _unclaim(self, entry: _Entry) -> None:
        if entry.claimed is not None and self._claims.get(entry.claimed) is entry:
            del self._claims[entry.claimed]
        entry.claimed = None

    def _unlist(self, entry: _Entry) -> None:
        if entry.reply_to is not None and self._replies.get(entry.reply_to) is entry:
            del self._replies[entry.reply_to]
        if entry.reply_to is not None and self._asking.get(entry.reply_to[0]) is entry:
            del self._asking[entry.reply_to[0]]
        entry.reply_to = None

    def _tick(self) -> None:
        """Feed time to the clients that are due; heap items of forgotten or moved deadlines fall away here."""
        now = self._clock()
        while self._heap and self._heap[0][0] <= now:
            at, _, entry = heapq.heappop(self._heap)
            if entry.wake_at == at and self._entries.get(entry.key) is entry:
                entry.wake_at = math.inf
                entry.client.tick(now)
                self._settle(entry)
        self._arm()

    def _arm(self) -> None:
        """Set the alarm to the nearest deadline."""
        while self._heap and self._heap[0][2].wake_at != self._heap[0][0]:
            heapq.heappop(self._heap)
        if self._heap and not self._closed:
            self._alarm.set(self._heap[0][0])

    def _waits_still(self, out: Outgoing) -> bool:
        """Whether a DISCOVER that was held back is the one to send now."""
        entry = self._replies.get((out.message.xid, out.message.chaddr))
        return entry is not None and entry.client.state is State.SELECTING


def _answer(asked: asyncio.Future[Lease] | None, event: Event) -> None:
    if asked is not None and not asked.done():
        match event:
            case Bound(lease) | Renewed(lease, _):
                asked.set_result(lease)
            case Lost(reason, _):
                asked.set_exception(DhcpError(reason, hint="terwayctl status"))


def _mac(identity: Identity) -> str:
    return identity.mac.hex(":")
