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

from terwayd.dhcp import frame, messages
from terwayd.dhcp import options as opt
from terwayd.dhcp.frame import Arp
from terwayd.dhcp.journal import Journal
from terwayd.dhcp.lease import Lease, LeaseError, lease_from
from terwayd.dhcp.messages import Identity, Outgoing
from terwayd.dhcp.options import Code, Kind
from terwayd.dhcp.outcome import Bound, Conflict, Event, Lost, NoAnswer, Renewed
from terwayd.dhcp.packet import REPLY, Message
from terwayd.dhcp.probing import FAST, FULL, Probing
from terwayd.dhcp.table import TABLE, Do, Input, State

__all__ = [
    "FAST",
    "FULL",
    "Bound",
    "Client",
    "Conflict",
    "Event",
    "Identity",
    "Lost",
    "NoAnswer",
    "Outgoing",
    "Probing",
    "Renewed",
    "State",
]

# RFC 2131 section 4.1 begins at 4 s.  A pod waits for its address, and the first frame on a new link is
# the one most often lost: so the series begins earlier and then is the RFC's.
RETRY_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
REQUEST_TRIES: Final = 4  # RFC 2131 section 3.1.5 leaves the number open; 15 s in all
REBOOT_TRIES: Final = 3  # 7 s in all; then the lease is trusted as section 3.2 allows
DECLINE_WAIT_S: Final = 10.0  # RFC 2131 section 3.1.5
DEFEND_S: Final = 10.0  # RFC 5227 section 2.4: an address is defended once in this time
OFFER_WAIT_S: Final = (
    0.25  # for the server that has the address which is asked for, when another one was faster
)
REBOOT_SPREAD_S: Final = 1.0  # restored clients do not all ask in the same instant


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
        self.xid = 0  # of the running transaction; replies to others are dropped
        self._rng = rng
        self._rapid_commit = rapid_commit
        self._probing = probing
        self.servers = servers  # None: any
        self._why_not = why_not  # this host's own reason against an address, "" for none
        self._frames: list[bytes] = []
        self._defended = -math.inf
        self._journal = Journal()
        self._outbox: list[Outgoing] = []
        self._events: list[Event] = []
        self._offer: Lease | None = None  # what REQUESTING asks for
        self._fresh: Lease | None = None  # what an ACK just gave
        self._requested: IPv4Address | None = None
        self._began = 0.0  # of the transaction
        self._secs = 0
        self._sent = 0.0
        self._tries = 0
        self._naks = 0
        self._nak_reason = ""
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
        self._journal.start(now)
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
        self._journal.now = now
        while (due := self._due(now)) is not None:
            self._handle(due, now)

    def deadline(self) -> float:
        """When `tick` is needed next; `math.inf` for never."""
        return min((at for _, at in self._timers()), default=math.inf)

    def outbox(self) -> list[Outgoing]:
        """What is to be sent now; each message is handed out once."""
        out, self._outbox = self._outbox, []
        return out

    def frames(self) -> list[bytes]:
        """The ARP frames to be sent now; each is handed out once."""
        out, self._frames = self._frames, []
        return out

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
            if arp.sender == ip or (arp.target == ip and not int(arp.sender)):
                self._journal.in_use(ip, arp.mac)
                self._handle(Input.CONFLICT, now)
                self.tick(now)
        elif arp.sender == ip and self.lease is not None and now >= self._defended + DEFEND_S:
            self._defended = now
            self._frames.append(frame.arp_announcement(self.identity.mac, ip))
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
        self._journal.now = now
        self._handle(Input.RELEASE, now)

    @property
    def silent(self) -> bool:
        """True when nothing came back since the last success."""
        return self._journal.silent

    def summary(self, now: float | None = None) -> str:
        """What was sent since the last success, how often, and what came back."""
        return self._journal.summary(now)

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
                last = REQUEST_TRIES if self.state is State.REQUESTING else REBOOT_TRIES
                if self.state is State.SELECTING:
                    last = len(RETRY_S)
                if self.state is State.PROBING and self._probing is not None:
                    last = self._probing.count
                if what is Input.RESEND and self.state is State.SELECTING and self._offer is not None:
                    return Input.OFFER
                spent = what is Input.RESEND and self._tries >= last
                return Input.EXHAUSTED if spent and Input.EXHAUSTED in TABLE[self.state] else what
        return None

    def _perform(self, do: Do, now: float, before: State) -> None:
        match do:
            case Do.OPEN:
                self.xid = self._rng.getrandbits(32)
                self._began, self._tries, self._offer = now, 0, None
                if self.lease is not None:
                    self._journal.start(now)
            case Do.DISCOVER:
                self._send_discover(now)
            case Do.AWAIT:
                self._wake_at = now + OFFER_WAIT_S
            case Do.REQUEST:
                self._send_request(now, repeated=before is State.REQUESTING)
            case Do.VERIFY:
                self._send_verify(now)
            case Do.RENEW | Do.REBIND:
                self._send_extend(now, unicast=do is Do.RENEW)
            case Do.RELEASE:
                self._send_release()
            case Do.SPREAD:
                self._wake_at = now + self._rng.uniform(0, self._spread)
            case Do.PAUSE:
                # The first NAK is mostly about an old address: ask for a new one at once.
                self._wake_at = now + (self._wait(self._naks - 2) if self._naks > 1 else 0.0)
            case Do.PROBE:
                self._probe(now, first=before is not State.PROBING)
            case Do.DECLINE:
                assert self._fresh is not None
                self._put(messages.decline(self.identity, self.xid, self._fresh))
                self._fresh = self._offer = self._requested = None
            case Do.BACK_OFF:
                self._wake_at = now + DECLINE_WAIT_S
            case Do.BIND:
                self._bind(now)
            case Do.LOSE:
                self._lose("the lease ended and no server extended it", now, ask_again=True)
            case Do.REFUSED:
                self._naks += 1
                self._lose(f"the server refused it ({self._nak_reason or 'NAK'})", now, ask_again=False)
            case Do.COMPLAIN:
                self._events.append(NoAnswer(before, self.summary(now)))

    def _bind(self, now: float) -> None:
        fresh, previous = self._fresh, self.lease
        assert fresh is not None
        self.lease, self._fresh, self._offer = fresh, None, None
        self._requested, self._naks = fresh.address.ip, 0
        self._events.append(Bound(fresh) if previous is None else Renewed(fresh, previous))
        self._journal.start(now)

    def _probe(self, now: float, *, first: bool) -> None:
        fresh, probing = self._fresh, self._probing
        assert fresh is not None
        assert probing is not None
        if first:
            self._offer, self._tries = fresh, 0
            if probing.first:
                self._wake_at = now + self._rng.uniform(0, probing.first)
                return
        self._frames.append(frame.arp_probe(self.identity.mac, fresh.address.ip))
        self._tries += 1
        last = self._tries >= probing.count
        self._wake_at = now + (probing.wait if last else self._rng.uniform(probing.least, probing.most))

    def _lose(self, reason: str, now: float, *, ask_again: bool) -> None:
        lease, self.lease, self._offer = self.lease, None, None
        self._requested = lease.address.ip if lease is not None and ask_again else None
        if lease is not None:
            self._events.append(Lost(f"{lease.address.ip} is lost: {reason}", lease))
            self._journal.start(now)

    def _wait(self, attempt: int) -> float:
        """RETRY_S with up to 1 s (of short ones: a quarter) more or less, the last one for ever."""
        base = RETRY_S[min(attempt, len(RETRY_S) - 1)]
        return base + self._rng.uniform(-1, 1) * min(1.0, base / 4)

    # What is sent.

    def _send_discover(self, now: float) -> None:
        self._count_seconds(now)
        self._broadcast(
            messages.discover(
                self.identity, self.xid, self._secs, self._requested, rapid_commit=self._rapid_commit
            ),
            now,
        )

    def _send_request(self, now: float, *, repeated: bool) -> None:
        """secs stays what the DISCOVER said (section 4.4.1)."""
        offer = self._offer
        assert offer is not None
        self._tries = self._tries if repeated else 0
        self._journal.about = f"{offer.address.ip} of server {offer.server}"
        self._broadcast(messages.request(self.identity, self.xid, self._secs, offer), now)

    def _send_verify(self, now: float) -> None:
        assert self.lease is not None
        self._count_seconds(now)
        self._journal.about = str(self.lease.address.ip)
        self._broadcast(messages.verify(self.identity, self.xid, self._secs, self.lease.address.ip), now)

    def _send_extend(self, now: float, *, unicast: bool) -> None:
        lease = self.lease
        assert lease is not None
        self._count_seconds(now)
        self._journal.about = (
            f"{lease.address.ip} of server {lease.server}" if unicast else str(lease.address.ip)
        )
        self._put(messages.extend(self.identity, self.xid, self._secs, lease, unicast=unicast))
        self._sent, self._tries = now, self._tries + 1
        # Section 4.4.5: wait half of what is left, but 60 s at least - or, for leases of less than 16
        # minutes, a sixteenth of them: those would get no second try otherwise.
        left = (lease.rebind_at if unicast else lease.expires_at) - now
        floor = min(60.0, (lease.expires_at - lease.acquired) / 16)
        self._wake_at = now + max(left / 2, floor)

    def _send_release(self) -> None:
        lease = self.lease or self._offer
        if lease is not None:
            self.lease = None
            self._put(messages.release(self.identity, self._rng.getrandbits(32), lease))

    def _broadcast(self, out: Outgoing, now: float) -> None:
        self._put(out)
        self._sent = now
        self._wake_at = now + self._wait(self._tries)
        self._tries += 1

    def _put(self, out: Outgoing) -> None:
        self._journal.sent(out.message)
        self._outbox.append(out)

    def _count_seconds(self, now: float) -> None:
        self._secs = min(int(now - self._began), 0xFFFF)

    # What is believed.

    def _kind_of(self, message: Message, source_mac: bytes) -> Input | None:
        """What a message is to this client now; None when it is to be dropped."""
        if message.op != REPLY or message.xid != self.xid:
            return None
        what = {Kind.OFFER: Input.OFFER, Kind.ACK: Input.ACK, Kind.NAK: Input.NAK}.get(
            message.kind or Kind.DISCOVER
        )
        if what is None or what not in TABLE[self.state]:
            return None
        if stray := self._not_for_us(message):
            self._journal.stray(message, stray)
            return None
        rapid = self._rapid_commit and Code.RAPID_COMMIT in message.options
        if self.state is State.SELECTING and what is Input.ACK and not rapid:
            return None
        self._journal.received(message)
        if what is Input.NAK:
            self._nak_reason = opt.text(message.options.get(Code.MESSAGE, b""))[:200]
            return what
        try:
            lease = lease_from(
                message,
                server_mac=source_mac,
                sent=self._sent,
                fuzz=self._rng.random(),
                extra=self.identity.request,
            )
        except LeaseError as error:
            self._journal.refused(message, str(error))
            return None
        ip = lease.address.ip
        held = self.lease is not None and self.lease.address.ip == ip
        if why := "" if held else self._why_not(ip):
            self._journal.refused(message, f"it is for {ip}, {why}")
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
        if self._probing is not None and Input.CANDIDATE in TABLE[self.state]:
            return Input.CANDIDATE
        return what

    def _not_for_us(self, message: Message) -> str:
        """Why a message is not one to this client from a server to be believed, "" when it is.

        REQUESTING and RENEWING talk to one server; elsewhere any may answer that is to be believed.
        """
        identity = self.identity
        if message.chaddr != identity.mac:
            return f"it is for {message.chaddr.hex(':')}"
        echo = message.options.get(Code.CLIENT_ID)  # RFC 6842 section 3
        if echo is not None and identity.client_id is not None and echo != identity.client_id:
            return "it is for another client identifier"
        if self.servers is not None and message.server not in self.servers:
            return "dhcp.servers does not name it"
        if self.state is State.REQUESTING and (self._offer is None or message.server != self._offer.server):
            return "another server was asked"
        if self.state is State.RENEWING and (self.lease is None or message.server != self.lease.server):
            return "another server was asked"
        return ""
