"""What runs on a host that is taken over: the way to DHCP servers, the clients, the pods, the host's own lease."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Hashable
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from terwayd.clock import boottime
from terwayd.config import Config
from terwayd.dhcp.conflict import FAST, FULL
from terwayd.dhcp.engine import Engine
from terwayd.dhcp.outcome import Conflict, Event, Lost, NoAnswer
from terwayd.dhcp.survey import Offer
from terwayd.errors import HostError, TerwayError
from terwayd.host.takeover import Standing, Takeover
from terwayd.host.uplink import uplink_alias
from terwayd.hostlease import HOST, HostLease
from terwayd.kernel import local
from terwayd.kernel.alarm import Alarm
from terwayd.kernel.packet import PacketTransport
from terwayd.kernel.worker import Worker
from terwayd.metrics import Metrics
from terwayd.model import Host, Link
from terwayd.pods.attach import Attachments
from terwayd.pods.attached import Lan
from terwayd.pods.cluster import ServiceRanges
from terwayd.pods.firewall import Firewall
from terwayd.pods.identity import Key, Policy
from terwayd.pods.routes import Node as PodsNode
from terwayd.store import Store

log = logging.getLogger(__name__)

_TOLD: dict[type, str] = {Lost: "lost", Conflict: "conflict", NoAnswer: "no_answer"}
_SURVEY = 5.0  # seconds that DHCP servers have for an OFFER


class Running:
    """From a takeover to its teardown, or to the end of the process."""

    def __init__(
        self,
        config: Config,
        standing: Standing,
        *,
        worker: Worker,
        pods_worker: Worker,
        takeover: Takeover,
        store: Store,
        firewall: Firewall,
        ranges: ServiceRanges,
        metrics: Metrics,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        on_change: Callable[[], None],
    ) -> None:
        """Open the uplink, and serve nobody yet.  HostError when it cannot be opened."""
        self._bridge = standing.bridge
        self._worker = worker
        self._takeover = takeover
        self._firewall = firewall
        self._ranges = ranges
        self._metrics = metrics
        self._spawn = spawn
        self._on_change = on_change
        self._stopped = False
        self.host_lease: HostLease | None = None
        dhcp, lan = config.dhcp, _lan(standing.host, standing.bridge)
        policy = _policy(config, _link(standing.host, standing.uplink).mac)
        try:
            self._transport = PacketTransport(
                standing.uplink,
                asyncio.get_running_loop(),
                on_down=_on_down,
                arp=dhcp.conflict_detection != "off",
            )
        except OSError as error:
            raise HostError(f"no packet socket on {standing.uplink}: {error.strerror}") from None
        self.engine = Engine(
            self._transport,
            clock=boottime,
            alarm=Alarm(asyncio.get_running_loop()),
            rng=random.Random(),
            on_event=self._on_event,
            probing={"fast": FAST, "full": FULL}.get(dhcp.conflict_detection),
            servers=dhcp.servers,
            rapid_commit=dhcp.rapid_commit,
            why_not=self._why_not,
            discover_rate=dhcp.discover_rate,
            watcher=metrics,
        )
        self.pods = Attachments(
            config,
            policy,
            engine=self.engine,
            worker=pods_worker,
            store=store,
            lan=lan,
            service_cidrs=lambda: ranges.known,
            firewall=firewall,
            on_change=on_change,
        )
        self._transport.port_of = self.pods.port_of

    async def start(self, standing: Standing) -> None:
        """Go on with what earlier runs left, the pods first."""
        await self._open_local(standing.uplink)
        self._ranges.look()
        await self.pods.restore()
        await self._firewall.up(self.pods.ports(), services=bool(self.pods.served))
        self._spawn(self._ranges.search())
        self.host_lease = HostLease(
            self.engine,
            self._worker,
            self._takeover,
            spawn=self._spawn,
            on_change=self._on_change,
            on_moved=self.replug,
        )
        await self.host_lease.adopt(standing)

    async def _open_local(self, uplink: str) -> None:
        """The way to DHCP servers on the node and in its pods; without it those of the LAN serve all the same."""
        try:
            await self._worker.call(local.ensure, self._bridge, uplink)
            self._transport.open_local(local.FREE_END)
        except (TerwayError, OSError) as error:
            log.warning("DHCP servers on this node are not heard: %s", error)

    async def replug(self) -> None:
        """After a repair: the bridge may be another one, and the uplink too."""
        if self._stopped:
            return
        host = await self._worker.call(lambda netlink: netlink.observe())
        self.pods.lan = lan = _lan(host, self._bridge)
        uplinks = [link.name for link in host.links if link.alias == uplink_alias(self._bridge)]
        for known in self.pods:
            link = host.link(known.host_ifname)
            if link is not None and link.master != lan.bridge.index:
                await self.pods.rejoin(known)
        for name in uplinks[:1]:
            self._transport.rebind(name)
            await self._open_local(name)

    def see(self, host: Host) -> None:
        """The bridge's addresses and gateways are these now: what pods may have, and their routes, follow."""
        if not self._stopped and host.link(self._bridge) is not None:
            self.pods.lan = _lan(host, self._bridge)

    async def survey(self, mac: bytes | None, *, broadcast: bool, first: bool) -> tuple[Offer, ...]:
        """Which DHCP servers answer `mac`, None for the uplink's."""
        if mac is None:
            bridge = await self._worker.call(lambda netlink: netlink.link(self._bridge))
            mac = bytes.fromhex(bridge.mac.replace(":", "")) if bridge is not None else bytes(6)
        return await self.engine.survey(mac, within=_SURVEY, broadcast=broadcast, first=first)

    def reconfigure(self, config: Config) -> None:
        """Go on with `config`; pods that run follow too."""
        self.engine.limit(config.dhcp.servers, config.dhcp.discover_rate)
        self.pods.reconfigure(config)
        self._spawn(self._ranges.search())

    def stop(self, *, give_back: bool = False) -> None:
        """End without touching host, pods or leases; `give_back`: but for what was leased for the host alone."""
        self._stopped = True
        if self.host_lease is not None:
            self.host_lease.close(give_back=give_back)
        self.engine.close()
        self.pods.close()

    def _on_event(self, key: Hashable, event: Event) -> None:
        if (told := _TOLD.get(type(event))) is not None:
            self._metrics.dhcp_event(told)
        self._firewall.glance()
        if key == HOST and self.host_lease is not None:
            self.host_lease.on_event(event)
            return
        self.pods.on_event(_key(key), event)

    def _why_not(self, key: Hashable, ip: IPv4Address) -> str:
        """Why no pod of this node can have `ip`, whatever a server offers."""
        if key == HOST:
            return ""
        return self.pods.lan.against(ip)


def _policy(config: Config, node: str) -> Policy:
    hostname = bool(config.dhcp.hostname)
    return Policy(node, client_id=config.dhcp.client_id, mac=config.pods.mac, hostname=hostname)


def _key(key: Hashable) -> Key:
    assert isinstance(key, tuple)
    return key


def _on_down(error: OSError) -> None:
    log.warning("the uplink is down: %s; leases are kept, and renewed when it is back", error.strerror)


def _link(host: Host, name: str) -> Link:
    link = host.link(name)
    if link is None:
        raise HostError(f"the interface {name} is gone", hint="terwayctl status")
    return link


def _lan(host: Host, bridge: str) -> Lan:
    addresses = [a.interface for a in host.addresses_of(bridge) if isinstance(a.interface, IPv4Interface)]
    gateways = [gateway for gateway in host.gateways_of(bridge) if isinstance(gateway, IPv4Address)]
    node = PodsNode(addresses[0].ip if addresses else None, gateways[0] if gateways else None)
    prefix = addresses[0].network.prefixlen if addresses else 24
    return Lan(_link(host, bridge), node, prefix, frozenset(a.ip for a in addresses), frozenset(gateways))
