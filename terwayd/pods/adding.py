"""One ADD: veth, lease, address and routes, all of it or nothing.

The DISCOVER is on its way while the veth is being built, and the veth is no port of the bridge, nor up, before
there are rules that hold the pod to its address: the one that is leased, or the static one that it is to ask about.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import Any

from terwayd.dhcp.lease import Lease
from terwayd.errors import CniError, TerwayError
from terwayd.kernel.worker import Worker
from terwayd.pods import veth
from terwayd.pods.attached import Attached
from terwayd.pods.earlier import Earlier
from terwayd.pods.identity import Attachment, Key, Wish
from terwayd.pods.leases import Leases
from terwayd.pods.ports import Ports
from terwayd.pods.rows import Rows
from terwayd.pods.trace import Trace
from terwayd.pods.upkeep import Upkeep
from terwayd.tasks import ended, to_its_end

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Heir:
    """What a new sandbox takes over, and gives back when its ADD fails: its pod's lease.

    `unknown` is whether there may be one of which nothing is known: an earlier ADD was cut short.
    """

    lease: Lease | None = None
    unknown: bool = False


class Adding:
    """What an ADD does to `known`, the pods that are attached, and undoes when it fails; `tasks` are those that run."""

    def __init__(
        self,
        known: dict[Key, Attachment],
        tasks: Mapping[Key, asyncio.Task[Any]],
        *,
        worker: Worker,
        rows: Rows,
        leases: Leases,
        ports: Ports,
        earlier: Earlier,
        upkeep: Upkeep,
        unplug: Callable[[Attachment], Awaitable[None]],
    ) -> None:
        self._known = known
        self._tasks = tasks
        self._worker = worker
        self._rows = rows
        self._leases = leases
        self._ports = ports
        self._earlier = earlier
        self._upkeep = upkeep
        self._unplug = unplug

    async def attach(self, wanted: Attachment, descriptor: int, wish: Wish) -> Attached:
        """The namespace of `descriptor` has its address when this returns, and nothing is left when it raises."""
        trace = Trace()
        key = wanted.key
        leasing: asyncio.Future[Lease] | None = None
        opened: veth.Opened | None = None
        heir = _Heir()
        try:
            self._rows.write(wanted, None)
            trace.mark("row")
            if self._earlier.asking or self._older(wanted):
                await to_its_end(self._replace_older(wanted, wish, heir))
            self._known[key] = wanted
            plugging = self._worker.submit(self._ports.plug, wanted, descriptor)
            if not wish.static:  # the DISCOVER leaves before the veth is built
                leasing = asyncio.ensure_future(self._lease(wanted, wish))
            try:
                opened = await asyncio.shield(plugging)
            except asyncio.CancelledError:
                await ended(plugging)
                opened = plugging.result() if plugging.exception() is None else None
                raise
            trace.mark("veth")
            lease = await (leasing or self._claim(wanted, wish, descriptor))
            trace.mark("lease")
            inside = self._ports.inside_of(wanted, lease)
            configuring = self._worker.submit(self._ports.configure, wanted, opened, inside)
            try:
                self._rows.write(wanted, lease)  # while the kernel works
            finally:
                await to_its_end(configuring)
            trace.mark("address")
            self._upkeep.attached(wanted, lease)
        except BaseException:
            await to_its_end(self._undo(wanted, leasing, heir, plugged=opened is not None))
            raise
        finally:
            if opened is not None:
                opened.close()
        log.debug("%s: %s", wanted, trace)
        return Attached(wanted, lease, inside.routes, self._ports.mtu(lease), self._ports.lan.bridge.mac)

    async def _lease(self, wanted: Attachment, wish: Wish) -> Lease:
        """A lease of the address that is asked for, or of the one that the pod had, or of any."""
        asked = wish.address[0].ip if wish.address is not None else None
        lease = await self._leases.acquire(wanted, asked or self._earlier.address_of(wanted))
        self._earlier.came_back(wanted)
        if asked is not None and lease.address.ip != asked:
            raise CniError(
                11,
                f"{wanted} asks for {asked}, the DHCP server {lease.server} gives {lease.address.ip}",
                hint=f"see whether {asked} is free and in the server's range, or reserve it for {wanted.mac}",
            )
        return lease

    async def _claim(self, wanted: Attachment, wish: Wish, descriptor: int) -> Lease:
        assert wish.address is not None
        address, with_prefix = wish.address
        if not with_prefix:
            address = IPv4Interface((address.ip, self._ports.lan.prefix))
        await self._worker.call(self._ports.join, wanted, address.ip)  # so that it may ask
        return await self._leases.claim(wanted, address, descriptor)

    async def _undo(
        self, wanted: Attachment, leasing: asyncio.Future[Lease] | None, heir: _Heir, *, plugged: bool
    ) -> None:
        if leasing is not None:
            leasing.cancel()
            with contextlib.suppress(asyncio.CancelledError, TerwayError):
                await leasing
        if self._leases.of(wanted.key) is None and heir.lease is not None:
            self._leases.give_back_unused(wanted, heir.lease)
        self._leases.give_back(wanted)
        if plugged:
            await self._unplug(wanted)
        self._known.pop(wanted.key, None)
        if heir.unknown:
            self._earlier.cut_short(wanted)
        else:
            self._rows.strike(wanted.key)

    def _older(self, wanted: Attachment) -> list[Attachment]:
        return [known for known in self._known.values() if known.same_pod == wanted.same_pod]

    async def _replace_older(self, wanted: Attachment, wish: Wish, heir: _Heir) -> None:
        """A new sandbox of a pod whose old one has not been deleted yet: the old one goes first.

        Both are one client to the DHCP server, so the lease stays, and is not released with the old,
        unless the new one asks for another address.  It is `wanted` that has to give it back then.
        """
        heir.unknown = await self._earlier.wanted_again(wanted)
        for older in self._older(wanted):
            log.info("%s has a new sandbox: its old interface %s goes", wanted, older.host_ifname)
            if (adding := self._tasks.get(older.key)) is not None:
                adding.cancel()
                await asyncio.wait({adding})
                continue
            lease = self._leases.of(older.key)
            if lease is not None and wish.address is not None and wish.address[0].ip != lease.address.ip:
                self._leases.give_back(older)
            else:
                heir.lease = lease
            self._leases.forget(older)
            await self._unplug(older)
            self._rows.strike(older.key)
            self._known.pop(older.key, None)
