"""A DHCP client as a state machine (RFC 2131 section 4.4): messages and time in, messages and events out.

It knows no socket, no clock and no thread.  Feed it with `start`, `receive` and `tick`; after each, drain
`outbox()` and `events()` and call `tick` again when `deadline()` has come.  It does not configure
interfaces, and obeys no FORCERENEW (RFC 3203 wants it signed).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Final

from terwayd.dhcp.conflict import Detector, Probing
from terwayd.dhcp.exchange import Exchange
from terwayd.dhcp.frame import Arp
from terwayd.dhcp.journal import Journal
from terwayd.dhcp.lease import Lease
from terwayd.dhcp.messages import Identity, Outgoing
from terwayd.dhcp.options import Code, Kind
from terwayd.dhcp.outcome import Bound, Conflict, Event, Lost, NoAnswer, Renewed
from terwayd.dhcp.packet import REPLY, Message
from terwayd.dhcp.table import TABLE, Do, Input, State

DECLINE_WAIT_S: Final = 10.0  # RFC 2131 section 3.1.5
OFFER_WAIT_S: Final = 0.25  # for the server that has the address which is asked for, when another was faster
REBOOT_SPREAD_S: Final = 1.0  # restored clients do not all ask in the same instant

_ANSWERS: Final = {Kind.OFFER: Input.OFFER, Kind.ACK: Input.ACK, Kind.NAK: Input.NAK}


class Client:
    """One DHCP client; see the module for how to drive it.  `now` never goes backwards."""

    def __init__(
        self,
        identity: Identity,
        rng: random.Random,
        *,
        rapid_commit: bool = False,
        probing: Probing | None = None,
        servers: tuple[IPv4Address, ...] | None = None,
        why_not: Callable[[IPv4Address], str] = lambda _ip: "",
    ) -> None:
        self.identity = identity
        self.state = State.INIT
        self.lease: Lease | None = None
        self.servers = servers  # None: any
        self._rng = rng
        self._rapid_commit = rapid_commit
        self._why_not = why_not  # this host's own reason against an address, "" for none
        self.journal = Journal()  # since the last success
        self._exchange = Exchange(identity, rng, self.journal, rapid_commit=rapid_commit)
        self._detector = Detector(identity.mac, rng, probing)
        self._events: list[Event] = []
        self._offer: Lease | None = None  # what REQUESTING asks for
        self._fresh: Lease | None = None  # what an ACK just gave
        self._requested: IPv4Address | None = None
        self._naks = 0
        self._spread = 0.0
        self._wake_at = math.inf  # RESEND or WAITED

    def start(
        self,
        now: float,
        lease: Lease | None = None,
        requested: IPv4Address | None = None,
        *,
        spread: float = REBOOT_SPREAD_S,
    ) -> None:
        """Begin: with a `lease` that was had before, or by asking for an address, `requested` if it is free.

        A lease that is due is asked for within `spread` seconds.
        """
        if self.state is not State.INIT or math.isfinite(self._wake_at):
            raise RuntimeError(f"a client is started once; this one is {self.state.value}")
        self.journal.start(now)
        self._requested, self._spread = requested, spread
        self.lease = lease
        if lease is None:
            self._handle(Input.START, now)
        elif now < lease.renew_at:
            self._handle(Input.RESTORE, now)
        elif now < lease.expires_at:
            self._handle(Input.VERIFY, now)
        else:
            self._handle(Input.EXPIRED, now)
        self.tick(now)

    def receive(self, message: Message, source_mac: bytes, now: float) -> None:
        """Take in a message that came from `source_mac`; anything that is not for this client is dropped."""
        if self.lease is not None and self.lease.expires_at <= now:
            self.tick(now)  # what the message extends is over already
        kind = self._kind_of(message, source_mac)
        if kind is not None:
            self._handle(kind, now)
            self.tick(now)

    def tick(self, now: float) -> None:
        """Do what is due at `now`; calling it too early or too often does no harm."""
        self.journal.now = now
        while (due := self._due(now)) is not None:
            self._handle(due, now)

    def deadline(self) -> float:
        """When `tick` is needed next; `math.inf` for never."""
        return min((at for _, at in self._timers()), default=math.inf)

    def outbox(self) -> list[Outgoing]:
        """What is to be sent now; each message is handed out once."""
        return self._exchange.outbox()

    def frames(self) -> list[bytes]:
        """The ARP frames to be sent now; each is handed out once."""
        return self._detector.frames()

    @property
    def xid(self) -> int:
        """The running transaction; replies to others are dropped."""
        return self._exchange.xid

    @property
    def claimed(self) -> IPv4Address | None:
        """The address to hear ARP about: the leased one, or the one that is probed."""
        if self.state is State.PROBING and self._fresh is not None:
            return self._fresh.address.ip
        return self.lease.address.ip if self.lease is not None else None

    def heard(self, arp: Arp, now: float) -> None:
        """Take in an ARP packet; whoever else has the claimed address, or is about to take it, is a conflict."""
        ip = self.claimed
        if ip is None or arp.mac == self.identity.mac:
            return
        if self.state is State.PROBING:
            if self._detector.taken(ip, arp):
                self.journal.in_use(ip, arp.mac)
                self._handle(Input.CONFLICT, now)
                self.tick(now)
        elif self.lease is not None and self._detector.defend(ip, arp, now):
            self._events.append(Conflict(self.lease, arp.mac))

    def events(self) -> list[Event]:
        """What happened since the last call."""
        out, self._events = self._events, []
        return out

    def renew(self, now: float) -> None:
        """Ask for more time before T1 comes; where that is being asked already, once more."""
        row = TABLE[self.state]
        self._handle(Input.T1 if Input.T1 in row else Input.RESEND, now)
        self.tick(now)

    def release(self, now: float) -> None:
        """End the client and give its address back, if it has one; the RELEASE is in the outbox."""
        self.journal.now = now
        self._handle(Input.RELEASE, now)

    # The machine.

    def _handle(self, what: Input, now: float) -> None:
        go = TABLE[self.state].get(what)
        if go is None:
            return
        before, self.state = self.state, go.to
        self._wake_at = math.inf
        if go.to is State.INIT:
            self._wake_at = now
        for do in go.do:
            self._perform(do, now, before)

    def _timers(self) -> list[tuple[Input, float]]:
        """The armed timers, the gravest first."""
        row = TABLE[self.state]
        timers: list[tuple[Input, float]] = []
        if self.lease is not None:
            timers += [
                (Input.EXPIRED, self.lease.expires_at),
                (Input.T2, self.lease.rebind_at),
                (Input.T1, self.lease.renew_at),
            ]
        timers += [(Input.WAITED, self._wake_at), (Input.RESEND, self._wake_at)]
        return [(what, at) for what, at in timers if what in row]

    def _due(self, now: float) -> Input | None:
        for what, at in self._timers():
            if at <= now:
                if what is Input.RESEND and self.state is State.SELECTING and self._offer is not None:
                    return Input.OFFER
                probing = self.state is State.PROBING
                spent = self._detector.unanswered if probing else self._exchange.spent(self.state)
                return Input.EXHAUSTED if what is Input.RESEND and spent else what
        return None

    def _perform(self, do: Do, now: float, before: State) -> None:
        exchange = self._exchange
        match do:
            case Do.OPEN:
                exchange.open(now)
                self._offer = None
                if self.lease is not None:
                    self.journal.start(now)
            case Do.DISCOVER:
                self._wake_at = exchange.discover(now, self._requested)
            case Do.AWAIT:
                self._wake_at = now + OFFER_WAIT_S
            case Do.REQUEST:
                assert self._offer is not None
                self._wake_at = exchange.request(now, self._offer, repeated=before is State.REQUESTING)
            case Do.VERIFY:
                assert self.lease is not None
                self._wake_at = exchange.verify(now, self.lease.address.ip)
            case Do.RENEW | Do.REBIND:
                assert self.lease is not None
                self._wake_at = exchange.extend(now, self.lease, unicast=do is Do.RENEW)
            case Do.RELEASE:
                lease, self.lease = self.lease or self._offer, None
                if lease is not None:
                    exchange.release(lease)
            case Do.SPREAD:
                self._wake_at = now + self._rng.uniform(0, self._spread)
            case Do.PAUSE:
                # The first NAK is mostly about an old address: ask for a new one at once.
                self._wake_at = now + (exchange.wait(self._naks - 2) if self._naks > 1 else 0.0)
            case Do.PROBE:
                assert self._fresh is not None
                self._offer, first = self._fresh, before is not State.PROBING
                self._wake_at = self._detector.probe(self._fresh.address.ip, now, first=first)
            case Do.DECLINE:
                assert self._fresh is not None
                exchange.decline(self._fresh)
                self._fresh = self._offer = self._requested = None
            case Do.BACK_OFF:
                self._wake_at = now + DECLINE_WAIT_S
            case Do.BIND:
                self._bind(now)
            case Do.LOSE:
                self._lose("the lease ended and no server extended it", now, ask_again=True)
            case Do.REFUSED:
                self._naks += 1
                self._lose(f"the server refused it ({self.journal.nak or 'NAK'})", now, ask_again=False)
            case Do.COMPLAIN:
                self._events.append(NoAnswer(before, self.journal.summary(now)))

    def _bind(self, now: float) -> None:
        fresh, previous = self._fresh, self.lease
        assert fresh is not None
        self.lease, self._fresh, self._offer = fresh, None, None
        self._requested, self._naks = fresh.address.ip, 0
        self._events.append(Bound(fresh) if previous is None else Renewed(fresh, previous))
        self.journal.start(now)

    def _lose(self, reason: str, now: float, *, ask_again: bool) -> None:
        lease, self.lease, self._offer = self.lease, None, None
        self._requested = lease.address.ip if lease is not None and ask_again else None
        if lease is not None:
            self._events.append(Lost(f"{lease.address.ip} is lost: {reason}", lease))
            self.journal.start(now)

    # What is believed.

    def _kind_of(self, message: Message, source_mac: bytes) -> Input | None:
        """What a message is to this client now; None when it is to be dropped."""
        if message.op != REPLY or message.xid != self.xid:
            return None
        what = _ANSWERS.get(message.kind) if message.kind is not None else None
        if what is None or what not in TABLE[self.state]:
            return None
        asked = {State.REQUESTING: self._offer, State.RENEWING: self.lease}.get(self.state)
        if not self._exchange.believes(message, self.servers, asked.server if asked is not None else None):
            return None
        rapid = self._rapid_commit and Code.RAPID_COMMIT in message.options
        if self.state is State.SELECTING and what is Input.ACK and not rapid:
            return None
        self.journal.received(message)
        if what is Input.NAK:
            return what
        lease = self._exchange.lease_in(message, source_mac)
        if lease is None:
            return None
        ip = lease.address.ip
        held = self.lease is not None and self.lease.address.ip == ip
        if why := "" if held else self._why_not(ip):
            self.journal.refused(message, f"it is for {ip}, {why}")
        if what is Input.OFFER:
            # Of another address than the one wanted, or of one to be declined once it is had: who has a better one?
            if why or self._requested not in (None, ip):
                if self._offer is not None:
                    return None  # the first one stands, and its time runs
                what = Input.ASIDE
            self._offer = lease
            return what
        self._fresh = lease
        if why:
            return Input.CONFLICT if Input.CONFLICT in TABLE[self.state] else None
        if self._detector.probing is not None and Input.CANDIDATE in TABLE[self.state]:
            return Input.CANDIDATE
        return what
