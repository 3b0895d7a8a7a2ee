"""The host's own lease, while its NIC is under the bridge: renewed here, as the same client to the server.

The NIC's manager had it before and gets it again at a teardown; nobody releases it.  The address on the
bridge has the lifetime of the lease, so that it ends with the lease if this process does not run.  While
it runs, an address that no server extends is kept until one gives another: the host stays in reach.
Nothing is stored but the client's identity, in the journal: after a restart the server is asked whether
the address may still be used (RFC 2131 section 3.2).
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from terwayd.clock import boottime
from terwayd.dhcp.engine import Engine
from terwayd.dhcp.lease import T2_OF_LEASE, UNKNOWN_SERVER, Lease
from terwayd.dhcp.messages import Identity
from terwayd.dhcp.outcome import Bound, Event, Lost, NoAnswer, Renewed
from terwayd.errors import DhcpError, TerwayError
from terwayd.host import addressing
from terwayd.host.takeover import Standing, Takeover
from terwayd.kernel.worker import Worker

log = logging.getLogger(__name__)

HOST = ("host",)  # the engine's key; a pod's has three parts
_LINGER = 2  # seconds that the kernel keeps the address longer than the lease
_PATIENCE = 15.0  # seconds that a start waits for the host's first lease
_ROUND = 60.0  # seconds after which it is told that nobody answers


class HostLease:
    """One host's lease; `trouble` is what to tell the administrator, "" while all is well."""

    def __init__(
        self,
        engine: Engine,
        worker: Worker,
        takeover: Takeover,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        on_change: Callable[[], None],
        on_moved: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._engine = engine
        self._worker = worker
        self._takeover = takeover
        self._spawn = spawn
        self._on_change = on_change
        self._on_moved = on_moved
        self._asking: asyncio.Task[None] | None = None
        self.trouble = ""

    async def adopt(self, standing: Standing) -> None:
        """Go on with the lease that the NIC's manager had, if the host has its address from one."""
        plan = await self._worker.call(self._takeover.standing)
        link = standing.host.link(standing.bridge)
        if plan is None or link is None:
            return
        if plan.lease is None:
            if self._takeover.config.host.address == "dhcp":
                await self._lease_own(bytes.fromhex(addressing.client_id(plan)))
            return
        planned = self._takeover.leased_interface(plan)
        if planned is None:
            return
        known = [a for a in standing.host.addresses_of(plan.bridge) if a.interface == planned]
        left = float(known[0].valid or 0) if known else 0.0
        client_id = bytes.fromhex(plan.lease.client_id) or None
        identity = _identity(bytes.fromhex(link.mac.replace(":", "")), client_id)
        self._engine.adopt(HOST, identity, _lease(planned, plan.lease.server, left))
        log.info("the host's lease of %s is renewed here from now on", planned.ip)

    async def _lease_own(self, client_id: bytes) -> None:
        """Lease an address for a host that has none; whoever waits for the host to be up waits a while."""
        self._asking = asyncio.ensure_future(self._ask(_identity(client_id[1:], client_id)))
        await asyncio.wait({self._asking}, timeout=_PATIENCE)

    async def _ask(self, identity: Identity) -> None:
        while True:
            try:
                lease = await self._engine.acquire(HOST, identity, timeout=_ROUND)
            except DhcpError as error:
                self._tell(error.message)
                continue
            self._tell("")
            await self._set(lease.address, lease)
            log.info("this host has leased %s", lease.address)
            await self._on_moved()
            return

    def close(self, *, give_back: bool = False) -> None:
        """Ask no more; `give_back`: and release what was leased for a host that had nothing of its own."""
        if self._asking is not None:
            self._asking.cancel()
        if give_back and self._takeover.config.host.address == "dhcp":
            self._engine.release(HOST)

    def on_event(self, event: Event) -> None:
        """What the engine tells of the host's client."""
        match event:
            case Bound(lease) | Renewed(lease, _):
                self._tell("")
                self._spawn(self._set(lease.address, lease))
            case Lost(reason, lease):
                self._tell(f"{reason}; the host keeps it until a server gives it another")
                self._spawn(self._set(lease.address, None))
            case NoAnswer(_, reason):
                log.warning("the host's lease: %s", reason)

    async def refresh(self) -> None:
        """Give the address its lifetime again, after it was put back."""
        lease = self._engine.lease(HOST)
        if lease is not None:
            await self._set(lease.address, lease)

    async def _set(self, address: IPv4Interface, lease: Lease | None) -> None:
        """Have `address` on the bridge until `lease` ends, or for good."""
        left = lease.expires_at - boottime() if lease is not None else math.inf
        router = lease.routers[0] if lease is not None and lease.routers else None
        # A moment more than the lease: while this process runs, it is this process that ends it.
        seconds = max(0, int(left)) + _LINGER if math.isfinite(left) else None
        try:
            moved = await self._worker.call(self._takeover.set_leased, address, seconds, router)
        except TerwayError as error:
            self._tell(f"{address} could not be set: {error}")
            return
        if moved is not None:
            log.warning("the DHCP server gave this host %s in place of %s", address, moved)
            self._on_change()
            await self._on_moved()

    def _tell(self, trouble: str) -> None:
        if trouble != self.trouble:
            log.log(logging.ERROR if trouble else logging.INFO, "the host's lease: %s", trouble or "well")
            self.trouble = trouble
            self._on_change()


def _identity(mac: bytes, client_id: bytes | None) -> Identity:
    return Identity(mac, client_id, hostname=socket.gethostname().partition(".")[0] or None)


def _lease(address: IPv4Interface, server: IPv4Address | None, left: float) -> Lease:
    """A lease with `left` seconds to go that is due for renewal now: the server is asked at once."""
    now = boottime()
    return Lease(
        address,
        server or UNKNOWN_SERVER,
        acquired=now,
        renew_at=now,
        rebind_at=now + left * T2_OF_LEASE,
        expires_at=now + left,
    )
