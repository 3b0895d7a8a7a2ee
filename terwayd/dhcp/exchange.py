"""One exchange of a DHCP client with the servers: what is said, when it is said again, and who is believed.

The client decides what is to be said; here it becomes a message with its transaction, its `secs` and its
place in the series of retransmissions (RFC 2131 sections 4.1 and 4.4).
"""

from __future__ import annotations

import math
import random
from ipaddress import IPv4Address
from typing import Final

from terwayd.dhcp import messages
from terwayd.dhcp.journal import Journal
from terwayd.dhcp.lease import Lease, LeaseError, lease_from
from terwayd.dhcp.messages import Identity, Outgoing
from terwayd.dhcp.options import Code
from terwayd.dhcp.packet import Message
from terwayd.dhcp.table import State

# RFC 2131 section 4.1 begins at 4 s.  A pod waits for its address, and the first frame on a new link is
# the one most often lost: so the series begins earlier and then is the RFC's.
RETRY_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
TRIES: Final = {  # of what is said in a state, until it is of no use; in others for ever
    State.SELECTING: len(RETRY_S),
    State.REQUESTING: 4,  # RFC 2131 section 3.1.5 leaves the number open; 15 s in all
    State.REBOOTING: 3,  # 7 s in all; then the lease is trusted as section 3.2 allows
}


class Exchange:
    """The exchange of one client; what is said in it returns the time to say it again.

    `xid` is its transaction (replies to others are not for it), `sent` when the last REQUEST or DISCOVER
    went out, `tries` how many of them in a row.
    """

    def __init__(
        self, identity: Identity, rng: random.Random, journal: Journal, *, rapid_commit: bool
    ) -> None:
        self.xid = 0
        self.sent = 0.0
        self.tries = 0
        self._identity = identity
        self._rng = rng
        self._journal = journal
        self._rapid_commit = rapid_commit
        self._began = 0.0
        self._secs = 0
        self._outbox: list[Outgoing] = []

    def open(self, now: float) -> None:
        """Begin a new one."""
        self.xid = self._rng.getrandbits(32)
        self._began, self.tries = now, 0

    def spent(self, state: State) -> bool:
        """Whether what is said in `state` has been said often enough."""
        return self.tries >= TRIES.get(state, math.inf)

    def outbox(self) -> list[Outgoing]:
        """What is to be sent now; each message is handed out once."""
        out, self._outbox = self._outbox, []
        return out

    def discover(self, now: float, requested: IPv4Address | None) -> float:
        """Ask all servers for an address, `requested` if they can."""
        self._count_seconds(now)
        return self._broadcast(
            messages.discover(
                self._identity, self.xid, self._secs, requested, rapid_commit=self._rapid_commit
            ),
            now,
        )

    def request(self, now: float, offer: Lease, *, repeated: bool) -> float:
        """Take an offer; secs stays what the DISCOVER said (section 4.4.1)."""
        self.tries = self.tries if repeated else 0
        self._journal.about = f"{offer.address.ip} of server {offer.server}"
        return self._broadcast(messages.request(self._identity, self.xid, self._secs, offer), now)

    def verify(self, now: float, ip: IPv4Address) -> float:
        """Ask whether the address of an earlier lease may still be used."""
        self._count_seconds(now)
        self._journal.about = str(ip)
        return self._broadcast(messages.verify(self._identity, self.xid, self._secs, ip), now)

    def extend(self, now: float, lease: Lease, *, unicast: bool) -> float:
        """Ask for more time: `unicast` the server that gave the lease, else all of them."""
        self._count_seconds(now)
        self._journal.about = (
            f"{lease.address.ip} of server {lease.server}" if unicast else str(lease.address.ip)
        )
        self._put(messages.extend(self._identity, self.xid, self._secs, lease, unicast=unicast))
        self.sent, self.tries = now, self.tries + 1
        # Section 4.4.5: wait half of what is left, but 60 s at least - or, for leases of less than 16
        # minutes, a sixteenth of them: those would get no second try otherwise.
        left = (lease.rebind_at if unicast else lease.expires_at) - now
        floor = min(60.0, (lease.expires_at - lease.acquired) / 16)
        return now + max(left / 2, floor)

    def decline(self, lease: Lease) -> None:
        """Refuse an address that somebody else has."""
        self._put(messages.decline(self._identity, self.xid, lease))

    def release(self, lease: Lease) -> None:
        """Give an address back, in a transaction of its own."""
        self._put(messages.release(self._identity, self._rng.getrandbits(32), lease))

    def wait(self, attempt: int) -> float:
        """RETRY_S with up to 1 s (of short ones: a quarter) more or less, the last one for ever."""
        base = RETRY_S[min(attempt, len(RETRY_S) - 1)]
        return base + self._rng.uniform(-1, 1) * min(1.0, base / 4)

    def believes(
        self, message: Message, servers: tuple[IPv4Address, ...] | None, asked: IPv4Address | None
    ) -> bool:
        """Whether a message is to this client from one of `servers` (None: any), and from the one `asked` (None: all)."""
        why = self._stray(message, servers, asked)
        if why:
            self._journal.stray(message, why)
        return not why

    def _stray(
        self, message: Message, servers: tuple[IPv4Address, ...] | None, asked: IPv4Address | None
    ) -> str:
        identity = self._identity
        if message.chaddr != identity.mac:
            return f"it is for {message.chaddr.hex(':')}"
        echo = message.options.get(Code.CLIENT_ID)  # RFC 6842 section 3
        if echo is not None and identity.client_id is not None and echo != identity.client_id:
            return "it is for another client identifier"
        if servers is not None and message.server not in servers:
            return "dhcp.servers does not name it"
        if asked is not None and message.server != asked:
            return "another server was asked"
        return ""

    def lease_in(self, message: Message, source_mac: bytes) -> Lease | None:
        """The lease that an answer gives; None, and noted why, when it is of no use."""
        try:
            return lease_from(
                message,
                server_mac=source_mac,
                sent=self.sent,
                fuzz=self._rng.random(),
                extra=self._identity.request,
            )
        except LeaseError as error:
            self._journal.refused(message, str(error))
            return None

    def _broadcast(self, out: Outgoing, now: float) -> float:
        self._put(out)
        self.sent = now
        again = now + self.wait(self.tries)
        self.tries += 1
        return again

    def _put(self, out: Outgoing) -> None:
        self._journal.sent(out.message)
        self._outbox.append(out)

    def _count_seconds(self, now: float) -> None:
        self._secs = min(int(now - self._began), 0xFFFF)
