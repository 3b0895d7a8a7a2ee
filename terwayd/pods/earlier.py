"""What earlier runs of the daemon left, and what becomes of it.

A pod that is still there goes on with its lease; one that went while nobody watched has its lease given
back; one of an earlier boot comes back in a new sandbox, and asks for the address that it had.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import IPv4Address
from pathlib import Path

from terwayd.clock import boottime
from terwayd.dhcp.lease import Lease
from terwayd.errors import TerwayError
from terwayd.events import DETACHED, about
from terwayd.kernel.netlink import Netlink
from terwayd.kernel.reaper import is_there
from terwayd.kernel.worker import Worker
from terwayd.pods import cached
from terwayd.pods.identity import Attachment, Key, Policy, is_host_end
from terwayd.pods.leases import Leases
from terwayd.pods.rows import Rows
from terwayd.tasks import ended

_RETURN_S = 600.0  # seconds that the lease of a pod of an earlier boot is kept for it

log = logging.getLogger(__name__)


class Earlier:
    """The pods of earlier runs: `known` are those that are attached now, `take_up` makes one of them."""

    def __init__(
        self,
        rows: Rows,
        leases: Leases,
        worker: Worker,
        known: Mapping[Key, Attachment],
        *,
        take_up: Callable[[Attachment, Lease], None],
        unplug: Callable[[Attachment], Awaitable[None]],
    ) -> None:
        self._rows = rows
        self._leases = leases
        self._worker = worker
        self._known = known
        self._take_up = take_up
        self._unplug = unplug
        self._former: dict[str, IPv4Address] = {}
        self._asking: dict[Attachment, asyncio.Future[None]] = {}
        self._returning: list[asyncio.TimerHandle] = []

    async def restore(self, policy: Policy) -> None:
        """Take up again what the store has: a lease that still runs needs no packet.

        A row whose veth is gone has no pod any more (it went while nobody watched): its lease is
        given back.
        """
        for row in self._rows.read():
            known, lease = row.known, row.lease
            if is_there(known.host_ifname) and lease is not None:  # also one that is over: see upkeep
                self._take_up(known, lease)
                continue
            if lease is not None and not row.this_boot:
                self._keep_for_return(known, lease)
                continue
            try:
                await self._unplug(known)
            except (TerwayError, OSError) as error:  # the others go on all the same
                log.error("%s is gone, and its interface stays until the next start: %s", known, error)
                continue
            if lease is None:
                self.cut_short(known)
                continue
            if self._leases.give_back_unused(known, lease):
                told = about(DETACHED, known, lease.address.ip)
                log.info("%s is gone: %s given back", known, lease.address.ip, extra=told)
            self._rows.strike(known.key)
        await self._recover(policy)

    async def _recover(self, policy: Policy) -> None:
        """Know the pods again whose rows are lost: by their veths, and by what the runtime has in its cache."""
        names = await self._worker.call(lambda netlink: netlink.names())
        have = {known.host_ifname for known in self._known.values()}
        unknown = {name for name in names if is_host_end(name)} - have
        for file in sorted(Path(cached.DIRECTORY).glob("*")) if unknown else ():
            try:
                known, lease = cached.from_cache(file.read_text(), policy, boottime())
            except (OSError, ValueError) as error:
                log.debug("%s: %s", file, error)
                continue
            if known.host_ifname in unknown:
                unknown.discard(known.host_ifname)
                log.warning(
                    "%s was forgotten, and is known again by %s: %s is asked for", known, file, lease.address
                )
                self._rows.note(known, lease)
                self._take_up(known, lease)
        for name in sorted(unknown):
            link = await self._worker.call(Netlink.link, name)
            told = link.alias if link is not None else ""
            log.error("%s of %s is of a pod that nothing else is known of: delete that pod", name, told)

    def _keep_for_return(self, known: Attachment, lease: Lease) -> None:
        """A pod of an earlier boot: it comes back in a new sandbox, and asks for the address it had.

        A lease that nobody came back for is given back after a while.
        """
        self._former[known.same_pod] = lease.address.ip

        def give_back() -> None:
            former = self._former.pop(known.same_pod, None)
            if former is not None and self._leases.give_back_unused(known, lease):
                told, ip = about(DETACHED, known, lease.address.ip), lease.address.ip
                log.info("%s did not come back after the boot: %s given back", known, ip, extra=told)
            if known.key not in self._known:
                self._rows.strike(known.key)

        self._returning.append(asyncio.get_running_loop().call_later(_RETURN_S, give_back))

    def address_of(self, wanted: Attachment) -> IPv4Address | None:
        """The address that this pod had before the boot, None once it is back."""
        return self._former.get(wanted.same_pod)

    def came_back(self, wanted: Attachment) -> None:
        """The pod has a lease again: what it had is not kept for it any longer."""
        self._former.pop(wanted.same_pod, None)

    def cut_short(self, known: Attachment) -> None:
        """Its ADD did not end: what the server may have given it is asked for again, and given back."""
        self._asking[known] = asyncio.ensure_future(self._ask_back(known))

    async def _ask_back(self, known: Attachment) -> None:
        try:
            await self._leases.ask_back(known)
            self._rows.strike(known.key)
        finally:
            del self._asking[known]

    @property
    def asking(self) -> bool:
        """Whether there is anything of ADDs that were cut short that is being given back."""
        return bool(self._asking)

    async def wanted_again(self, wanted: Attachment) -> bool:
        """Stop giving back what the server may have given to a pod that is here anew; whether that was going on."""
        found = False
        for cut, asking in list(self._asking.items()):
            if cut.key == wanted.key or cut.same_pod == wanted.same_pod:
                asking.cancel()
                await ended(asking)
                found = True
                if cut.key != wanted.key:
                    self._rows.strike(cut.key)
        return found

    async def settled(self) -> None:
        """Stop what goes on in the next run of the process."""
        for asking in list(self._asking.values()):
            asking.cancel()
            await ended(asking)

    def close(self) -> None:
        """Give nothing back any more."""
        for timer in self._returning:
            timer.cancel()
