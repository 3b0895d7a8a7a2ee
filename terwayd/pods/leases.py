"""The pods' leases: had from the DHCP server, or claimed without one, and given back."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface

from terwayd.clock import boottime
from terwayd.config import DhcpConfig
from terwayd.dhcp.engine import Engine
from terwayd.dhcp.lease import Lease
from terwayd.errors import CniError, DhcpError
from terwayd.kernel import netns
from terwayd.pods import veth
from terwayd.pods.identity import Attachment, Key
from terwayd.pods.static import is_static, static_lease

log = logging.getLogger(__name__)


class Leases:
    """What the engine does for pods; `known` are those that are attached."""

    def __init__(self, dhcp: DhcpConfig, engine: Engine, known: Mapping[Key, Attachment]) -> None:
        self.dhcp = dhcp
        self._engine = engine
        self._known = known

    def of(self, key: Key) -> Lease | None:
        return self._engine.lease(key)

    async def acquire(self, wanted: Attachment, requested: IPv4Address | None) -> Lease:
        """A lease, of `requested` if the server likes.  Raises DhcpError when none came in time."""
        identity = wanted.identity(self.dhcp)
        return await self._engine.acquire(
            wanted.key, identity, timeout=self.dhcp.timeout, requested=requested
        )

    def adopt(self, known: Attachment, lease: Lease) -> None:
        """Go on with a lease that is there already."""
        self._engine.adopt(known.key, known.identity(self.dhcp), lease)

    async def claim(self, wanted: Attachment, address: IPv4Interface, descriptor: int) -> Lease:
        """The address that is asked for, without DHCP: nobody on the LAN answers for it."""
        others = [lease for known in self._known.values() if (lease := self.of(known.key))]
        taken = any(lease.address.ip == address.ip for lease in others) or await netns.run(
            descriptor, lambda: veth.is_taken(wanted, address.ip)
        )
        if taken:
            raise CniError(
                11, f"{wanted} asks for {address.ip}, which another station has", hint=f"arping {address.ip}"
            )
        lease = static_lease(address, boottime())
        self.adopt(wanted, lease)
        return lease

    def forget(self, known: Attachment) -> None:
        """Its client ends, its lease stays."""
        self._engine.forget(known.key)

    def give_back(self, known: Attachment) -> None:
        lease = self.of(known.key)
        if lease is not None and is_static(lease):
            self._engine.forget(known.key)
        else:
            self._engine.release(known.key)

    def give_back_unused(self, known: Attachment, lease: Lease) -> bool:
        """The same where no client runs for it; False when there is nothing to give back any more."""
        if is_static(lease) or lease.expires_at <= boottime():
            return False
        self._engine.release_lease(known.identity(self.dhcp), lease)
        return True

    async def ask_back(self, known: Attachment) -> None:
        """What the server may have given to an ADD that was cut short is asked for again, and given back."""
        key = ("", *known.key)
        with contextlib.suppress(DhcpError):
            await self._engine.acquire(key, known.identity(self.dhcp), timeout=self.dhcp.timeout)
            log.info("the ADD of %s was cut short: its lease is given back", known)
        self._engine.release(key)
