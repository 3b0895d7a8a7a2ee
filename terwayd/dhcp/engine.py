"""Any number of DHCP clients on one event loop: one transport, one timer; and who waits for what becomes of them.

All methods must be called on the loop's thread.  The engine does not store leases: who made it learns of
every change through `on_event` and brings leases back with `adopt`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Hashable
from ipaddress import IPv4Address
from typing import Final

from terwayd.dhcp import messages
from terwayd.dhcp.client import REBOOT_SPREAD_S, Client
from terwayd.dhcp.conflict import Probing
from terwayd.dhcp.driver import Driver
from terwayd.dhcp.lease import Lease
from terwayd.dhcp.messages import Identity
from terwayd.dhcp.outcome import Bound, Event, Lost, Renewed
from terwayd.dhcp.outside import Alarm, LoopAlarm, Transport, Watcher
from terwayd.dhcp.receiver import Receiver
from terwayd.dhcp.sender import Sender
from terwayd.dhcp.survey import AGAIN_S, Offer, Survey
from terwayd.dhcp.table import State
from terwayd.errors import DhcpError

log = logging.getLogger(__name__)

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
        self._watcher = watcher
        self._receiver = Receiver()
        self._sender = Sender(transport, clock=clock, rate=discover_rate, watcher=watcher)
        self._clients = Driver(
            self._sender,
            self._receiver,
            alarm if alarm is not None else LoopAlarm(clock),
            clock=clock,
            rng=rng,
            on_event=self._heard,
            probing=probing,
            servers=servers,
            rapid_commit=rapid_commit,
            why_not=why_not,
            watcher=watcher,
        )
        self._acquiring: dict[Hashable, asyncio.Future[Lease]] = {}
        self._changing: dict[Hashable, asyncio.Future[Lease]] = {}  # by `renew` or `replace`
        transport.on_frame = self._receiver.receive

    def limit(self, servers: tuple[IPv4Address, ...] | None, discover_rate: int) -> None:
        """From now on believe these servers only (None: any), and send so many DISCOVERs a second at most."""
        self._sender.limit(discover_rate)
        self._clients.believe(servers)

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
        if self._clients.closed:
            raise DhcpError("no DHCP lease can be had: terwayd is about to end")
        known = self._clients.get(key)
        if known is not None and key in self._acquiring:
            raise DhcpError(f"a DHCP lease for {_mac(known.identity)} is being asked for already")
        if known is not None and known.lease is not None:
            return known.lease
        self.forget(key)
        waiter: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._acquiring[key] = waiter
        began = self._clock()
        client = self._clients.start(key, identity, requested)
        lease: Lease | None = None
        try:
            async with asyncio.timeout(timeout):
                lease = await waiter
        except TimeoutError:
            raise DhcpError(
                f"no DHCP lease for {_mac(identity)}: {client.journal.summary(self._clock())}",
                hint=self._hint(client),
            ) from None
        finally:
            ours = self._acquiring.get(key) is waiter  # not when the client was forgotten meanwhile
            if ours:
                del self._acquiring[key]
            if self._watcher is not None:
                self._watcher.dhcp_acquired(self._clock() - began if lease is not None else None)
            if lease is None and ours:
                self.release(key)
        return lease

    def _hint(self, client: Client) -> str:
        if not client.journal.silent:
            return _HINT_REFUSED
        return _HINT_FULL if self._clients.any_lease(besides=client) else _HINT_SILENT

    async def survey(
        self, mac: bytes, *, within: float, broadcast: bool = False, first: bool = False
    ) -> tuple[Offer, ...]:
        """The OFFERs to a DISCOVER from `mac` `within` seconds, or the `first` one; none of them is taken."""
        began = self._clock()
        survey = Survey(mac, self._rng.getrandbits(32), began, broadcast=broadcast)
        self._receiver.listen(
            *survey.key, lambda message, source: survey.heard(message, source, self._clock())
        )
        sent = -math.inf
        try:
            while (now := self._clock()) < began + within and not survey.over(now, first=first):
                if not survey.offers and now >= sent + AGAIN_S:
                    self._sender.send_now(survey.question)
                    sent = now
                await asyncio.sleep(0.02)
        finally:
            self._receiver.ignore(*survey.key)
        return tuple(survey.offers)

    def adopt(self, key: Hashable, identity: Identity, lease: Lease) -> None:
        """Go on with a lease that an earlier run had; a client that runs under `key` is replaced."""
        self.forget(key)
        spread = max(REBOOT_SPREAD_S, (len(self._clients) + 1) * self._sender.step)
        self._clients.adopt(key, identity, lease, spread=spread)

    async def renew(self, key: Hashable, *, timeout: float) -> Lease:  # noqa: ASYNC109
        """The lease of `key`, extended now; DhcpError when no server did within `timeout` seconds.

        The lease goes on as it was then, and the client as if its T1 had come.
        """
        client = self._holder(key)
        asked = self._changing[key] = asyncio.get_running_loop().create_future()
        self._clients.renew(key)
        return await self._outcome(key, client, asked, timeout)

    async def replace(self, key: Hashable, *, timeout: float) -> Lease:  # noqa: ASYNC109
        """A new lease for `key`, whose old one is given back; DhcpError when none came within `timeout` seconds.

        To whoever hears the events it is a Lost and then a Bound; the client goes on to ask for the latter.
        """
        holder = self._holder(key)
        identity, lease = holder.identity, holder.lease
        assert lease is not None
        self.release(key)
        self._tell(key, Lost(f"{lease.address.ip} was given back by hand", lease))
        asked = self._changing[key] = asyncio.get_running_loop().create_future()
        client = self._clients.start(key, identity)
        return await self._outcome(key, client, asked, timeout)

    def _holder(self, key: Hashable) -> Client:
        client = self._clients.get(key)
        if client is None or client.lease is None:
            raise DhcpError("there is no lease: one is being asked for", hint="terwayctl leases")
        if key in self._changing:
            raise DhcpError(f"{_mac(client.identity)} is being renewed already")
        return client

    async def _outcome(
        self, key: Hashable, client: Client, asked: asyncio.Future[Lease], within: float
    ) -> Lease:
        try:
            async with asyncio.timeout(within):
                return await asked
        except TimeoutError:
            kept = client.lease is not None
            what, state = (
                ("not extended", "it goes on as it was") if kept else ("no lease", "it is asked for still")
            )
            raise DhcpError(
                f"{what}: {client.journal.summary(self._clock())}; {state}",
                hint=_HINT_KEPT if kept else self._hint(client),
            ) from None
        finally:
            if self._changing.get(key) is asked:
                del self._changing[key]

    def release(self, key: Hashable) -> None:
        """Give back what the client under `key` holds, and forget it; an unknown key is no error."""
        client = self._clients.get(key)
        if client is not None:
            self._clients.release(key)
            self._stopped(key, client)

    def release_lease(self, identity: Identity, lease: Lease) -> None:
        """Give back a lease that no client runs for."""
        self._sender.send([messages.release(identity, self._rng.getrandbits(32), lease)])

    def forget(self, key: Hashable) -> None:
        """Stop the client under `key` and send nothing: the address stays leased until its time is over."""
        client = self._clients.get(key)
        if client is not None:
            self._clients.forget(key)
            self._stopped(key, client)

    def announce(self, key: Hashable) -> None:
        """Tell the LAN by ARP who has the address of `key` now.

        The kernel's own announcement, sent as the pod's interface comes up, is lost: the bridge does not
        forward for a port whose carrier it has not noticed yet.
        """
        self._clients.announce(key)

    def state(self, key: Hashable) -> State | None:
        """The state of the client under `key`, None when there is none."""
        client = self._clients.get(key)
        return None if client is None else client.state

    def lease(self, key: Hashable) -> Lease | None:
        """The lease that the client under `key` holds now."""
        client = self._clients.get(key)
        return None if client is None else client.lease

    def keys(self) -> tuple[Hashable, ...]:
        """The keys of all clients."""
        return self._clients.keys()

    def wake(self) -> None:
        """Do what is due; needed only when the clock was moved or the link has come back."""
        self._clients.wake()

    def close(self) -> None:
        """Stop all clients and the transport; leases stay as they are."""
        for key in self.keys():
            self.forget(key)
        self._clients.close()
        self._transport.close()

    # What becomes of those who wait.

    def _heard(self, key: Hashable, event: Event) -> None:
        if (waiter := self._acquiring.get(key)) is not None:
            if isinstance(event, Bound) and not waiter.done():
                waiter.set_result(event.lease)
            return
        self._tell(key, event)
        if (asked := self._changing.get(key)) is not None and not asked.done():
            match event:
                case Bound(lease) | Renewed(lease, _):
                    asked.set_result(lease)
                case Lost(reason, _):
                    asked.set_exception(DhcpError(reason, hint="terwayctl status"))

    def _tell(self, key: Hashable, event: Event) -> None:
        try:
            self._on_event(key, event)
        except Exception:  # one client's trouble must not stop the timers of the others
            log.exception("could not act on %s of %s", type(event).__name__, key)

    def _stopped(self, key: Hashable, client: Client) -> None:
        for waiting in (self._acquiring.pop(key, None), self._changing.pop(key, None)):
            if waiting is not None and not waiting.done():
                waiting.set_exception(DhcpError(f"the DHCP client of {_mac(client.identity)} was stopped"))


def _mac(identity: Identity) -> str:
    return identity.mac.hex(":")
