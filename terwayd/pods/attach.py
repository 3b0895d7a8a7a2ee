"""Attaching pods: veth, lease, address and routes, all of it or nothing.

One owner for the whole of an attachment: the DISCOVER is on its way while the veth is being built,
and a lease is released before the veth goes.  Calls for one attachment follow each other; a DEL
ends an ADD that is still running.  What undoes or takes out goes on to its end, whoever gives up waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Container, Coroutine, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from terwayd import codec
from terwayd.clock import boottime, epoch
from terwayd.config import Config, Network
from terwayd.dhcp.client import Event
from terwayd.dhcp.engine import Engine
from terwayd.dhcp.lease import Lease
from terwayd.errors import CniError, DhcpError, StoreError, TerwayError
from terwayd.events import ATTACHED, DETACHED, about
from terwayd.kernel import netns
from terwayd.kernel.netlink import Netlink
from terwayd.kernel.reaper import Reaper, is_there
from terwayd.kernel.worker import Worker
from terwayd.model import Link
from terwayd.pods import cached, veth
from terwayd.pods.firewall import Firewall
from terwayd.pods.identity import (
    Attachment,
    Key,
    Policy,
    Wish,
    attachment,
    host_ifname,
    host_mac,
    is_host_end,
)
from terwayd.pods.routes import Node, PodRoute, pod_routes
from terwayd.pods.ruleset import Port
from terwayd.pods.static import is_static, static_lease
from terwayd.pods.trace import Trace
from terwayd.pods.upkeep import Upkeep
from terwayd.store import AttachmentRecord, Store

_RETURN_S = 600.0  # seconds that the lease of a pod of an earlier boot is kept for it

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Attached:
    """An attachment that is complete, with what its pod has."""

    attachment: Attachment
    lease: Lease
    routes: tuple[PodRoute, ...]
    mtu: int
    bridge_mac: str

    @property
    def host_mac(self) -> str:
        return host_mac(self.attachment)


@dataclass(frozen=True, slots=True)
class Lan:
    """What attaching needs of the host: the bridge, and the node's own place on the LAN with its prefix length."""

    bridge: Link
    node: Node
    prefix: int = 24


@dataclass(slots=True)
class _Heir:
    """What a new sandbox takes over, and gives back when its ADD fails: its pod's lease.

    `unknown` is whether there may be one of which nothing is known: an earlier ADD was cut short.
    """

    lease: Lease | None = None
    unknown: bool = False


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
        self._store = store
        self.lan = lan
        self._service_cidrs = service_cidrs
        self._firewall = firewall
        self._on_change = on_change
        self._known: dict[Key, Attachment] = {}
        self._adding: dict[Key, asyncio.Task[Any]] = {}
        # A lock is there for as long as somebody holds it or waits for it.
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()
        self._former: dict[str, IPv4Address] = {}
        self._reaper = Reaper()
        self._deleting: set[asyncio.Task[None]] = set()
        self._cut_short: dict[Attachment, asyncio.Future[None]] = {}
        self.upkeep = Upkeep(
            config.pods.lost_lease,
            worker=worker,
            lease_of=engine.lease,
            inside_of=self._inside_of,
            written=self._note,
            announce=engine.announce,
            allow=lambda known, *addresses: firewall.admit(self._port(known, *addresses)),
            on_change=on_change,
        )

    def reconfigure(self, config: Config) -> None:
        """Go on with `config`; the pods' interfaces follow, who they are on the LAN stays."""
        self._config = config
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
        return None if known is None else (known, self._engine.lease(key))

    def port_of(self, mac: bytes) -> str:
        """The host's end of the veth of the pod with this MAC address, "" when there is none."""
        text = mac.hex(":")
        return next((known.host_ifname for known in self._known.values() if known.mac == text), "")

    async def restore(self) -> None:
        """Take up again what the store has: a lease that still runs needs no packet.

        A row whose veth is gone has no pod any more (it went while nobody watched): its lease is
        given back.
        """
        now = epoch()
        for record in self._store.attachments():
            try:
                known = codec.decode(Attachment, record.pod)
                lease = (
                    Lease.from_dict(record.lease).shifted(now.since(record.epoch)) if record.lease else None
                )
            except (ValueError, TypeError) as error:
                log.error("%s: the row of a pod cannot be read and is left out: %s", self._store.path, error)
                continue
            identity = known.identity(self._config.dhcp)
            if is_there(known.host_ifname) and lease is not None:  # also one that is over: see upkeep
                self._known[known.key] = known
                self.upkeep.attached(known, lease)
                self._engine.adopt(known.key, identity, lease)
                continue
            if lease is not None and record.epoch.boot_id != now.boot_id:
                self._keep_for_return(known, lease)
                continue
            await self._unplug(known)
            if lease is None:
                self._cut_short[known] = asyncio.ensure_future(self._ask_back(known))
                continue
            if self._give_back_unused(known, lease):
                told = about(DETACHED, known, lease.address.ip)
                log.info("%s is gone: %s given back", known, lease.address.ip, extra=told)
            self._store.delete_attachment(known.key)
        await self._recover()

    async def _recover(self) -> None:
        """Know the pods again whose rows are lost: by their veths, and by what the runtime has in its cache."""
        links = await self._worker.call(lambda netlink: netlink.links())
        have = {known.host_ifname for known in self._known.values()}
        unknown = {link.name: link for link in links if is_host_end(link.name) and link.name not in have}
        for file in sorted(Path(cached.DIRECTORY).glob("*")) if unknown else ():
            try:
                known, lease = cached.from_cache(file.read_text(), self._policy, boottime())
            except (OSError, ValueError) as error:
                log.debug("%s: %s", file, error)
                continue
            if unknown.pop(known.host_ifname, None) is not None:
                log.warning(
                    "%s was forgotten, and is known again by %s: %s is asked for", known, file, lease.address
                )
                self._known[known.key] = known
                self._write(known, lease)
                self.upkeep.attached(known, lease)
                self._engine.adopt(known.key, known.identity(self._config.dhcp), lease)
        for link in unknown.values():
            log.error(
                "%s of %s is of a pod that nothing else is known of: delete that pod", link.name, link.alias
            )

    async def _ask_back(self, known: Attachment) -> None:
        """The process ended during this ADD: what the server may have given it is asked for again, and given back."""
        key = ("", *known.key)
        try:
            with contextlib.suppress(DhcpError):
                await self._engine.acquire(
                    key, known.identity(self._config.dhcp), timeout=self._config.dhcp.timeout
                )
                log.info("the ADD of %s was cut short: its lease is given back", known)
            self._engine.release(key)
            self._strike(known.key)
        finally:
            del self._cut_short[known]

    def _keep_for_return(self, known: Attachment, lease: Lease) -> None:
        """A pod of an earlier boot: it comes back in a new sandbox, and asks for the address it had.

        A lease that nobody came back for is given back after a while.
        """
        self._former[known.same_pod] = lease.address.ip

        def give_back() -> None:
            former = self._former.pop(known.same_pod, None)
            if former is not None and self._give_back_unused(known, lease):
                told, ip = about(DETACHED, known, lease.address.ip), lease.address.ip
                log.info("%s did not come back after the boot: %s given back", known, ip, extra=told)
            if known.key not in self._known:
                self._store.delete_attachment(known.key)

        asyncio.get_running_loop().call_later(_RETURN_S, give_back)

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
            task = asyncio.create_task(self._attach(wanted, descriptor, wish))
            self._adding[key] = task
            try:
                return await task
            except asyncio.CancelledError:
                await _ended(task)
                current = asyncio.current_task()
                if current is not None and current.cancelling():
                    raise  # the runtime went away
                raise CniError(11, f"the ADD of {wanted} was ended by a DEL") from None
            finally:
                del self._adding[key]

    async def _attach(self, wanted: Attachment, descriptor: int, wish: Wish) -> Attached:
        trace = Trace()
        config, key = self._config, wanted.key
        leasing: asyncio.Future[Lease] | None = None
        mtu = config.pods.mtu or self.lan.bridge.mtu
        opened: veth.Opened | None = None
        heir = _Heir()
        try:
            self._write(wanted, None)
            trace.mark("row")
            await _to_its_end(self._replace_older(wanted, wish, heir))
            self._known[key] = wanted
            plugging = self._worker.submit(self._plug, wanted, descriptor, self.lan.bridge)
            if not wish.static:  # the DISCOVER leaves before the veth is built
                leasing = asyncio.ensure_future(self._lease(wanted, wish))
            try:
                opened = await asyncio.shield(plugging)
            except asyncio.CancelledError:
                await _ended(plugging)
                opened = plugging.result() if plugging.exception() is None else None
                raise
            trace.mark("veth")
            lease = await (leasing or self._claim(wanted, wish, descriptor))
            trace.mark("lease")
            mtu = min(mtu, lease.mtu or mtu)
            inside = self._inside_of(wanted, lease)
            await _to_its_end(self._worker.call(self._configure, wanted, opened, inside))
            trace.mark("address")
            self._write(wanted, lease)
            self.upkeep.attached(wanted, lease)
        except BaseException:
            await _to_its_end(self._undo(wanted, leasing, heir, plugged=opened is not None))
            raise
        finally:
            if opened is not None:
                opened.close()
        self._engine.announce(key)
        told = about(ATTACHED, wanted, lease.address.ip)
        server = "" if is_static(lease) else f" from {lease.server}"
        log.info("%s has %s%s", wanted, lease.address, server, extra=told)
        trace.mark("written")
        log.debug("%s: %s", wanted, trace)
        self._on_change()
        return Attached(wanted, lease, inside.routes, mtu, self.lan.bridge.mac)

    @property
    def served(self) -> bool:
        """Whether any of the pods has a way to Services, or published ports: their answers come back the same way."""
        chained = {item if isinstance(item, str) else item["type"] for item in self._config.cni.chain}
        services = bool(self._service_cidrs()) or any(known.service_cidrs for known in self)
        return services or "portmap" in chained

    def ports(self) -> list[Port]:
        """What the pods that are attached may send."""
        attached = [(known, self.upkeep.inside(known.key)) for known in self]
        return [self._port(known, inside.address.ip) for known, inside in attached if inside is not None]

    def _port(self, known: Attachment, *addresses: IPv4Address) -> Port:
        ipv6 = self._config.pods.ipv6 == "slaac"
        return Port(
            known.host_ifname, known.mac, known.container_id, addresses, ipv6=ipv6, guarded=known.antispoof
        )

    def _plug(self, netlink: Netlink, known: Attachment, descriptor: int, bridge: Link) -> veth.Opened:
        if known.service_cidrs:
            self._firewall.serve()
        self._firewall.admit(self._port(known))  # first: the pod may send as soon as it has its end
        return veth.plug(
            netlink,
            known,
            descriptor,
            bridge=bridge.index,
            mtu=bridge.mtu,
            ipv6=self._config.pods.ipv6 == "slaac",
            hairpin=self._firewall.services,
        )

    def _configure(
        self, netlink: Netlink, known: Attachment, opened: veth.Opened, inside: veth.Inside
    ) -> None:
        self._firewall.admit(self._port(known, inside.address.ip))
        veth.configure(netlink, opened, inside)

    async def _lease(self, wanted: Attachment, wish: Wish) -> Lease:
        """A lease of the address that is asked for, or of the one that the pod had, or of any."""
        former = self._former.get(wanted.same_pod)
        asked = wish.address[0].ip if wish.address is not None else None
        identity = wanted.identity(self._config.dhcp)
        lease = await self._engine.acquire(
            wanted.key, identity, timeout=self._config.dhcp.timeout, requested=asked or former
        )
        self._former.pop(wanted.same_pod, None)
        if asked is not None and lease.address.ip != asked:
            raise CniError(
                11,
                f"{wanted} asks for {asked}, the DHCP server {lease.server} gives {lease.address.ip}",
                hint=f"see whether {asked} is free and in the server's range, or reserve it for {wanted.mac}",
            )
        return lease

    async def _claim(self, wanted: Attachment, wish: Wish, descriptor: int) -> Lease:
        """The address that is asked for, without DHCP: nobody on the LAN answers for it."""
        assert wish.address is not None
        address, with_prefix = wish.address
        if not with_prefix:
            address = IPv4Interface((address.ip, self.lan.prefix))
        others = [lease for known in self._known.values() if (lease := self._engine.lease(known.key))]
        await self._worker.call(
            lambda _: self._firewall.admit(self._port(wanted, address.ip))
        )  # so that it may ask
        taken = any(lease.address.ip == address.ip for lease in others) or await netns.run(
            descriptor, lambda: veth.is_taken(wanted.ifname, wanted.mac, address.ip)
        )
        if taken:
            raise CniError(
                11, f"{wanted} asks for {address.ip}, which another station has", hint=f"arping {address.ip}"
            )
        lease = static_lease(address, boottime())
        self._engine.adopt(wanted.key, wanted.identity(self._config.dhcp), lease)
        return lease

    def _give_back(self, known: Attachment) -> None:
        lease = self._engine.lease(known.key)
        if lease is not None and is_static(lease):
            self._engine.forget(known.key)
        else:
            self._engine.release(known.key)

    def _give_back_unused(self, known: Attachment, lease: Lease) -> bool:
        """The same where no client runs for it; False when there is nothing to give back any more."""
        if is_static(lease) or lease.expires_at <= boottime():
            return False
        self._engine.release_lease(known.identity(self._config.dhcp), lease)
        return True

    def _inside_of(self, known: Attachment, lease: Lease) -> veth.Inside:
        """What the pod's interface shall have with `lease`."""
        mtu = self._config.pods.mtu or self.lan.bridge.mtu
        mtu = min(mtu, lease.mtu or mtu)
        routes = pod_routes(
            lease,
            self.lan.node,
            service_cidrs=known.service_cidrs or self._service_cidrs(),
            default_route=self._config.pods.default_route,
        )
        return veth.Inside(known.ifname, lease.address, routes, mtu if mtu != self.lan.bridge.mtu else 0)

    async def _undo(
        self, wanted: Attachment, leasing: asyncio.Future[Lease] | None, heir: _Heir, *, plugged: bool
    ) -> None:
        if leasing is not None:
            leasing.cancel()
            with contextlib.suppress(asyncio.CancelledError, TerwayError):
                await leasing
        if self._engine.lease(wanted.key) is None and heir.lease is not None:
            self._give_back_unused(wanted, heir.lease)
        self._give_back(wanted)
        if plugged:
            await self._unplug(wanted)
        else:
            await self._dismiss(wanted)
        self._known.pop(wanted.key, None)
        if heir.unknown:
            self._cut_short[wanted] = asyncio.ensure_future(self._ask_back(wanted))
        else:
            self._strike(wanted.key)

    async def _replace_older(self, wanted: Attachment, wish: Wish, heir: _Heir) -> None:
        """A new sandbox of a pod whose old one has not been deleted yet: the old one goes first.

        Both are one client to the DHCP server, so the lease stays, and is not released with the old,
        unless the new one asks for another address.  It is `wanted` that has to give it back then.
        """
        for cut, asking in list(self._cut_short.items()):
            if cut.key == wanted.key or cut.same_pod == wanted.same_pod:  # the lease is wanted again
                asking.cancel()
                await _ended(asking)
                heir.unknown = True
                if cut.key != wanted.key:
                    self._strike(cut.key)
        for older in [known for known in self._known.values() if known.same_pod == wanted.same_pod]:
            log.info("%s has a new sandbox: its old interface %s goes", wanted, older.host_ifname)
            if (adding := self._adding.get(older.key)) is not None:
                adding.cancel()
                await asyncio.wait({adding})
                continue
            lease = self._engine.lease(older.key)
            if lease is not None and wish.address is not None and wish.address[0].ip != lease.address.ip:
                self._give_back(older)
            else:
                heir.lease = lease
            self._engine.forget(older.key)
            await self._unplug(older)
            self._strike(older.key)
            self._known.pop(older.key, None)

    async def delete(self, key: Key) -> None:
        """Give the lease back, then take the interface out; an attachment nobody knows has no more than that."""
        task = asyncio.create_task(self._delete(key))
        self._deleting.add(task)
        task.add_done_callback(self._deleting.discard)
        await asyncio.shield(task)

    async def settled(self) -> None:
        """Return when no DEL runs any more; what may go on in the next run of the process stops."""
        for asking in list(self._cut_short.values()):
            asking.cancel()
            await _ended(asking)
        await asyncio.gather(*self._deleting, return_exceptions=True)

    async def _delete(self, key: Key) -> None:
        if (adding := self._adding.get(key)) is not None:
            adding.cancel()
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self._known.get(key)
            if known is not None:
                trace = Trace()
                lease = self._engine.lease(key)
                self._give_back(known)
                trace.mark("release")
                await self._unplug(known)
                trace.mark("veth")
                self._strike(key)
                self._known.pop(key, None)  # a new sandbox of the pod may have done the same meanwhile
                trace.mark("row")
                log.debug("%s: %s", known, trace)
                told = about(DETACHED, known, lease.address.ip if lease is not None else "")
                log.info("%s is detached", known, extra=told)
                self._on_change()
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

    async def _unplug(self, known: Attachment) -> None:
        self.upkeep.detached(known.key)
        await self._reaper.delete(known.host_ifname)
        await self._dismiss(known)

    async def _dismiss(self, known: Attachment) -> None:
        await self._worker.call(lambda _: self._firewall.dismiss(known.host_ifname))

    def close(self) -> None:
        """Wait until the kernel has finished with what was detached."""
        self._reaper.close()

    async def serve(self) -> None:
        """From now on there are Services: what is attached already gets its way to them."""
        await self._worker.call(lambda _: self._firewall.serve())
        for known in list(self):
            with contextlib.suppress(TerwayError):  # a pod that comes or goes at this moment
                await self._worker.call(Netlink.set_hairpin, known.host_ifname)
        self.upkeep.follow(self._config.pods.lost_lease)

    def on_event(self, key: Key, event: Event) -> None:
        """What the engine tells of the client of `key`."""
        if key in self._known and key not in self._adding:
            self.upkeep.on_event(key, event)

    def _note(self, known: Attachment, lease: Lease) -> None:
        """Write what has become of the lease; the pod goes on with it also where that fails."""
        try:
            self._write(known, lease)
        except StoreError as error:
            log.error("%s; %s would go on with older times after a restart", error, known)

    def _strike(self, key: Key) -> None:
        """Take the row out; one that must stay, on a full disk, has no pod, as the next start finds."""
        try:
            self._store.delete_attachment(key)
        except StoreError as error:
            log.error("%s; the row of a pod that is gone stays until the next start", error)

    def _write(self, known: Attachment, lease: Lease | None) -> None:
        record = AttachmentRecord(codec.encode(known), lease.to_dict() if lease else None, epoch())
        self._store.write_attachment(known.key, record)


async def _ended(task: asyncio.Future[Any]) -> None:
    """Return when `task` has ended, however often the caller is cancelled meanwhile."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Do `work` whole, also when the caller is cancelled meanwhile; it learns of that afterwards."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await _ended(task)
        raise
