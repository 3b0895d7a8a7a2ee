"""The pods that are attached: one owner for the whole of each, its veth, lease, address, routes and rules.

Calls for one attachment follow each other; a DEL ends an ADD that is still running, and gives the lease back while
the interface goes.  What undoes or takes out goes on to its end, whoever gives up waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Awaitable, Callable, Container, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ParamSpec
from weakref import WeakValueDictionary

from terwayd.config import Config, Network
from terwayd.dhcp.engine import Engine
from terwayd.dhcp.lease import Lease
from terwayd.dhcp.outcome import Event
from terwayd.errors import CniError, KernelError, TerwayError
from terwayd.events import ATTACHED, DETACHED, about
from terwayd.kernel import netns
from terwayd.kernel.netlink import Netlink
from terwayd.kernel.reaper import is_there
from terwayd.kernel.worker import Worker
from terwayd.pods import veth
from terwayd.pods.adding import Adding
from terwayd.pods.attached import Attached, Lan
from terwayd.pods.earlier import Earlier
from terwayd.pods.firewall import Firewall
from terwayd.pods.identity import Attachment, Key, Policy, Wish, attachment, host_ifname
from terwayd.pods.leases import Leases
from terwayd.pods.ports import Ports
from terwayd.pods.routes import Node
from terwayd.pods.rows import Rows
from terwayd.pods.sending import Port
from terwayd.pods.static import is_static
from terwayd.pods.trace import Trace
from terwayd.pods.upkeep import Upkeep
from terwayd.store import Store
from terwayd.tasks import ended

log = logging.getLogger(__name__)

P = ParamSpec("P")

_ANSWERED_S = 0.001


class Attachments:
    """Every attachment of this node."""

    def __init__(
        self,
        config: Config,
        policy: Policy,
        *,
        engine: Engine,
        worker: Worker,
        store: Store,
        lan: Lan,
        service_cidrs: Callable[[], tuple[Network, ...]],
        firewall: Firewall,
        on_change: Callable[[], None],
    ) -> None:
        self._config = config
        self._policy = policy
        self._engine = engine
        self._worker = worker
        self._service_cidrs = service_cidrs
        self._on_change = on_change
        self._known: dict[Key, Attachment] = {}
        self._adding: dict[Key, asyncio.Task[Any]] = {}
        # A lock is there for as long as somebody holds it or waits for it.
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()
        self._deleting: set[asyncio.Task[None]] = set()
        self._rows = Rows(store)
        self._leases = Leases(config.dhcp, engine, self._known)
        self._ports = Ports(config, worker=worker, firewall=firewall, lan=lan, service_cidrs=service_cidrs)
        self._earlier = Earlier(
            self._rows, self._leases, worker, self._known, take_up=self._take_up, unplug=self._unplug
        )
        self.upkeep = Upkeep(
            config.pods.lost_lease,
            worker=worker,
            lease_of=engine.lease,
            inside_of=self._ports.inside_of,
            written=self._rows.note,
            announce=engine.announce,
            allow=self._ports.admit,
            on_change=on_change,
        )
        self._attaching = Adding(
            self._known,
            self._adding,
            worker=worker,
            rows=self._rows,
            leases=self._leases,
            ports=self._ports,
            earlier=self._earlier,
            upkeep=self.upkeep,
            unplug=self._unplug,
        )

    @property
    def lan(self) -> Lan:
        return self._ports.lan

    @lan.setter
    def lan(self, lan: Lan) -> None:
        """What pods have by way of the node follows; while that has no address or gateway, they keep theirs."""
        before = self._ports.lan
        node = Node(lan.node.address or before.node.address, lan.node.gateway or before.node.gateway)
        self._ports.lan = replace(lan, node=node)
        if node != before.node:
            self.upkeep.follow(self._config.pods.lost_lease)

    def reconfigure(self, config: Config) -> None:
        """Go on with `config`; the pods' interfaces follow, who they are on the LAN stays."""
        self._config = self._ports.config = config
        self._leases.dhcp = config.dhcp
        self._policy = replace(
            self._policy,
            client_id=config.dhcp.client_id,
            mac=config.pods.mac,
            hostname=bool(config.dhcp.hostname),
        )
        self.upkeep.follow(config.pods.lost_lease)

    def __iter__(self) -> Iterator[Attachment]:
        """Those that are there now; who awaits in between meets none that has come since."""
        return iter(tuple(self._known.values()))

    def __len__(self) -> int:
        return len(self._known)

    def find(self, key: Key) -> tuple[Attachment, Lease | None] | None:
        """The attachment of `key` and its lease, from memory."""
        known = self._known.get(key)
        return None if known is None else (known, self._leases.of(key))

    def port_of(self, mac: bytes) -> str:
        """The host's end of the veth of the pod with this MAC address, "" when there is none."""
        text = mac.hex(":")
        return next((known.host_ifname for known in self._known.values() if known.mac == text), "")

    async def restore(self) -> None:
        """Go on with the pods of earlier runs that are still there."""
        await self._earlier.restore(self._policy)

    def _take_up(self, known: Attachment, lease: Lease) -> None:
        self._known[known.key] = known
        self.upkeep.attached(known, lease)
        self._leases.adopt(known, lease)

    async def add(self, key: Key, descriptor: int, wish: Wish, *, netns_path: str) -> Attached:
        """Attach the namespace of `descriptor`: its address is up when this returns.

        Raises DhcpError when no lease came in time, CniError when the pod has such an interface already,
        or when the address that was asked for cannot be had; nothing is left then.  Cancelling undoes it too.
        """
        wanted = attachment(self._policy, key, wish, netns=netns_path, random=os.urandom(16))
        netns.require(descriptor, netns_path)
        if netns.same_as_ours(descriptor):
            raise CniError(
                8,
                f"CNI_NETNS={netns_path} is the node's own network namespace",
                hint="a pod with hostNetwork needs no CNI call",
            )
        async with self._locks.setdefault(key, asyncio.Lock()):
            if key in self._known:
                raise CniError(
                    4,
                    f"{wanted} has {key[2]} from this network already",
                    hint="call DEL before another ADD, or ask for another interface name",
                )
            task = asyncio.create_task(self._add(wanted, descriptor, wish))
            self._adding[key] = task
            try:
                return await task
            except asyncio.CancelledError:
                await ended(task)
                current = asyncio.current_task()
                if current is not None and current.cancelling():
                    raise  # the runtime went away
                raise CniError(11, f"the ADD of {wanted} was ended by a DEL") from None
            finally:
                del self._adding[key]

    async def _add(self, wanted: Attachment, descriptor: int, wish: Wish) -> Attached:
        attached = await self._attaching.attach(wanted, descriptor, wish)
        _behind_the_answer(self._tell_attached, wanted, attached.lease)
        return attached

    def _tell_attached(self, known: Attachment, lease: Lease) -> None:
        self._engine.announce(known.key)
        told = about(ATTACHED, known, lease.address.ip)
        server = "" if is_static(lease) else f" from {lease.server}"
        log.info("%s has %s%s", known, lease.address, server, extra=told)
        self._on_change()

    def _tell_detached(self, known: Attachment, lease: Lease | None) -> None:
        told = about(DETACHED, known, lease.address.ip if lease is not None else "")
        log.info("%s is detached", known, extra=told)
        self._on_change()

    @property
    def served(self) -> tuple[str, ...]:
        """For what the node has to forward packets, answers by the same way: what would be lost without, in words."""
        chained = {item if isinstance(item, str) else item["type"] for item in self._config.cni.chain}
        lost = []
        if self._service_cidrs() or any(known.service_cidrs for known in self):
            lost.append("pods reach no Service")
        if "portmap" in chained:
            lost.append("published ports lead to no pod")
        return tuple(lost)

    def ports(self) -> list[Port]:
        """What the pods that are attached may send."""
        attached = [(known, self.upkeep.inside(known.key)) for known in self]
        return [
            self._ports.port(known, inside.address.ip) for known, inside in attached if inside is not None
        ]

    async def delete(self, key: Key) -> None:
        """Give the lease back, then take the interface out; an attachment nobody knows has no more than that."""
        task = asyncio.create_task(self._delete(key))
        self._deleting.add(task)
        task.add_done_callback(self._deleting.discard)
        await asyncio.shield(task)

    async def settled(self) -> None:
        """Return when no DEL runs any more; what may go on in the next run of the process stops."""
        await self._earlier.settled()
        await asyncio.gather(*self._deleting, return_exceptions=True)

    async def _delete(self, key: Key) -> None:
        if (adding := self._adding.get(key)) is not None:
            adding.cancel()
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self._known.get(key)
            if known is not None:
                trace = Trace()
                lease = self._leases.of(key)
                leaving = self._unplug(known)
                try:
                    self._leases.give_back(known)  # while the kernel deletes
                    trace.mark("release")
                finally:
                    await leaving
                trace.mark("veth")
                self._rows.strike(key)
                self._known.pop(key, None)  # a new sandbox of the pod may have done the same meanwhile
                trace.mark("row")
                log.debug("%s: %s", known, trace)
                _behind_the_answer(self._tell_detached, known, lease)
            else:  # its row may be lost
                await self._worker.call(lambda netlink: netlink.delete_link(host_ifname(key)))

    async def check(self, key: Key, descriptor: int, routes: Container[tuple[str, str]] | None) -> list[str]:
        """What the pod has lost of what its lease says, and its port of what it had: nothing, when all is well.

        Of the routes only those that are in `routes` count, by destination and gateway; None: all.
        """
        inside, known = self.upkeep.inside(key), self._known.get(key)
        if inside is None or known is None:
            return [f"the ADD of {key[2]} has not ended"]
        if routes is not None:
            kept = tuple(
                route for route in inside.routes if (str(route.dst), str(route.gateway or "")) in routes
            )
            inside = replace(inside, routes=kept)
        port = await self._worker.call(lambda netlink: netlink.link(known.host_ifname))
        lost = await netns.run(descriptor, lambda: veth.missing(inside, known.mac))
        if port is None or port.master != self.lan.bridge.index or not port.up:
            lost.append(f"{known.host_ifname} is not a port of {self.lan.bridge.name} that is up")
        return lost

    async def sweep(self) -> None:
        """Detach whatever lost its interface without a DEL: its namespace is gone, and so is its pod."""
        settled = [known for known in self._known.values() if known.key not in self._adding]
        for known in settled:
            if not is_there(known.host_ifname) and self._known.get(known.key) is known:
                log.info("%s went without a DEL", known)
                await self.delete(known.key)

    async def rejoin(self, known: Attachment) -> None:
        """Make the pod's interface a port of the bridge, which was made anew; it may have gone meanwhile."""
        try:
            await self._worker.call(self._ports.rejoin, known)
        except KernelError as error:
            if error.errno != errno.ENODEV:
                raise

    def _unplug(self, known: Attachment) -> Awaitable[None]:
        self.upkeep.detached(known.key)
        return self._ports.unplug(known)

    def close(self) -> None:
        """Wait until the kernel has finished with what was detached; nothing is given back any more."""
        self._earlier.close()
        self._ports.close()

    async def serve(self) -> None:
        """From now on there are Services: what is attached already gets its way to them."""
        await self._ports.serve()
        for known in list(self):
            with contextlib.suppress(TerwayError):  # a pod that comes or goes at this moment
                await self._worker.call(Netlink.set_hairpin, known.host_ifname)
        self.upkeep.follow(self._config.pods.lost_lease)

    def on_event(self, key: Key, event: Event) -> None:
        """What the engine tells of the client of `key`."""
        if key in self._known and key not in self._adding:
            self.upkeep.on_event(key, event)


def _behind_the_answer(work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Do `work` when the caller's answer is on its way, which it is after a few turns of the event loop."""
    asyncio.get_running_loop().call_later(_ANSWERED_S, partial(work, *args, **kwargs))
