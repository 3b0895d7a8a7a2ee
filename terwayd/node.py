"""The node: a host whose NIC is under the bridge, the DHCP engine on it, and the pods.

Brings the parts up in their order and takes them down again; what it is now, and why, is its
Health.  Nothing on the host changes when the process ends: the next one finds it as it was left.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

from terwayd.clock import boottime
from terwayd.cni import install
from terwayd.config import Config, Reload, reload
from terwayd.dhcp.client import FAST, FULL, Conflict, Event, Lost, NoAnswer
from terwayd.dhcp.engine import Engine
from terwayd.dhcp.survey import Offer
from terwayd.errors import HostError, RolledBack, TerwayError
from terwayd.events import MENDED, NOT_READY, NOT_RELOADED, RELOADED, TAKEN_OVER, about
from terwayd.host.drift import Limit, drift
from terwayd.host.takeover import Standing, Takeover
from terwayd.host.uplink import uplink_alias
from terwayd.hostlease import HOST, HostLease
from terwayd.kernel import local
from terwayd.kernel.alarm import Alarm
from terwayd.kernel.netlink import Netlink
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
_PATIENCE = 30.0  # seconds that a CNI call which came during our start waits for its end


class Condition(enum.Enum):
    """What the node is: on its way, taking pods, unable to, or given back to itself by a teardown."""

    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Health:
    """The node's condition since a Unix time, with the reason and the next step where it is not ready."""

    condition: Condition
    reason: str = ""
    hint: str = ""
    since: float = 0.0


class Node:
    """One host.  Use it from the event loop's thread."""

    def __init__(self, config: Config, store: Store, *, on_change: Callable[[], None]) -> None:
        self.config = config
        self._on_change = on_change
        self.metrics = Metrics()
        self.health = Health(Condition.STARTING, "waiting for the network", since=time.time())
        self.engine: Engine | None = None
        self._store = store
        self._worker = Worker()
        self._pods_worker = Worker()  # so that no ADD waits for a look at the host
        self._takeover = Takeover(store, config)
        self.firewall = Firewall(
            config.host.bridge, antispoof=config.pods.antispoof, on_repair=self._repaired
        )
        self._ranges = ServiceRanges(config.pods.service_cidrs, on_found=lambda: self.spawn(self._serve()))
        self._attachments: Attachments | None = None
        self._changing = asyncio.Lock()
        self._tried = asyncio.Event()
        self._transport: PacketTransport | None = None
        self._limit = Limit()
        self.repairs: deque[tuple[float, str]] = deque(maxlen=10)
        self.fighting = False
        self.host_lease: HostLease | None = None
        self._probation: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.unapplied: tuple[str, str] | None = None

    @property
    def bridge(self) -> str:
        return self.config.host.bridge

    @property
    def add_timeout(self) -> float:
        return self.config.cni.add_timeout

    @property
    def takeover(self) -> Takeover:
        return self._takeover

    @property
    def worker(self) -> Worker:
        return self._worker

    @property
    def known_pods(self) -> Attachments | None:
        return self._attachments

    @property
    def set_aside(self) -> Path | None:
        """Where a state database is that could not be read when this process began."""
        return self._store.set_aside

    @property
    def down(self) -> bool:
        """Whether the host has been given back: then no pod is attached."""
        return self.health.condition is Condition.DOWN

    def pods(self) -> Attachments:
        """The pods; HostError with the reason while the node takes none."""
        if self._attachments is None or self.health.condition is not Condition.READY:
            raise HostError(
                f"this node takes no pods: it is {self.health.condition.value}: {self.health.reason}",
                hint=self.health.hint or "terwayctl status",
            )
        return self._attachments

    async def tried(self) -> None:
        """Return when the node has been brought up for the first time, or could not be; or after a while."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._tried.wait(), _PATIENCE)

    async def bring_up(self, *, confirm_within: float | None = None) -> Standing:
        """Take the host over, unless it is, and serve pods; with `confirm_within` seconds, on probation.

        Raises TerwayError after the health tells the same; the host is as it was then.
        """
        async with self._changing:
            try:
                standing = await self._worker.call(self._takeover.setup, confirm_within)
                if self._attachments is None:
                    await self._start_pods(standing)
                else:
                    await self._replug()
                    await self.firewall.up(services=self._attachments.served)
                install.install_plugin(self.config.cni)
                install.write_conflist(self.config.cni)
            except TerwayError as error:
                self.metrics.rollbacks += isinstance(error, RolledBack)
                self._become(Condition.DEGRADED, error.message, error.hint)
                install.remove_conflist(self.config.cni)
                raise
            finally:
                self._tried.set()
            self.fighting, self._limit = False, Limit()
            self._become(Condition.READY)
            self._await_confirmation()
            if standing.changed:
                log.info(
                    "%s is under %s: %d steps in %.1f ms",
                    standing.uplink,
                    standing.bridge,
                    standing.steps,
                    standing.milliseconds,
                    extra=about(TAKEN_OVER),
                )
            return standing

    async def _start_pods(self, standing: Standing) -> None:
        try:
            transport = PacketTransport(
                standing.uplink,
                asyncio.get_running_loop(),
                on_down=_on_down,
                arp=self.config.dhcp.conflict_detection != "off",
            )
        except OSError as error:
            raise HostError(f"no packet socket on {standing.uplink}: {error.strerror}") from None
        self._transport = transport
        dhcp = self.config.dhcp
        self.engine = Engine(
            transport,
            clock=boottime,
            alarm=Alarm(asyncio.get_running_loop()),
            rng=random.Random(),
            on_event=self._on_event,
            probing={"fast": FAST, "full": FULL}.get(dhcp.conflict_detection),
            servers=dhcp.servers,
            rapid_commit=dhcp.rapid_commit,
            why_not=self._why_not,
            discover_rate=dhcp.discover_rate,
            watcher=self.metrics,
        )
        self._attachments = Attachments(
            self.config,
            _policy(self.config, _link(standing.host, standing.uplink).mac),
            engine=self.engine,
            worker=self._pods_worker,
            store=self._store,
            lan=_lan(standing.host, standing.bridge),
            service_cidrs=lambda: self._ranges.known,
            firewall=self.firewall,
            on_change=self._on_change,
        )
        transport.port_of = self._attachments.port_of
        await self._open_local(standing.uplink)
        self._ranges.look()
        await self._attachments.restore()
        await self.firewall.up(self._attachments.ports(), services=self._attachments.served)
        self.spawn(self._ranges.search())
        self.host_lease = HostLease(
            self.engine,
            self._worker,
            self._takeover,
            spawn=self.spawn,
            on_change=self._on_change,
            on_moved=self._replug,
        )
        await self.host_lease.adopt(standing)

    async def _open_local(self, uplink: str) -> None:
        """The way to DHCP servers on the node and in its pods; without it those of the LAN serve all the same."""
        if self._transport is None:
            return
        try:
            await self._worker.call(local.ensure, self.bridge, uplink)
            self._transport.open_local(local.FREE_END)
        except (TerwayError, OSError) as error:
            log.warning("DHCP servers on this node are not heard: %s", error)

    async def take_down(self, *, force: bool) -> Standing:
        """Give the host back.  Refuses while pods are attached, unless `force`: then they are detached."""
        async with self._changing:
            pods = self._attachments
            if pods is not None and len(pods) and not force:
                names = ", ".join(sorted(str(known) for known in pods))
                raise HostError(
                    f"{len(pods)} pods would lose the LAN: {names}",
                    hint="move them away first (kubectl drain), or terwayctl teardown --force",
                )
            self._become(Condition.DOWN, "the host has been given back", "terwayctl setup")
            if pods is not None:
                for known in list(pods):
                    await pods.delete(known.key)
            install.remove_conflist(self.config.cni)
            if self.host_lease is not None:
                self.host_lease.close(give_back=True)
            self._stop_pods()
            self.firewall.down()
            if self._probation is not None:
                self._probation.cancel()
            try:
                return await self._worker.call(self._takeover.teardown)
            except TerwayError as error:
                self._become(Condition.DEGRADED, error.message, error.hint)
                raise

    def install_cni(self) -> list[str]:
        """Put in place what runtimes look for: the plugin, and the conflist if pods can come.  The files."""
        install.install_plugin(self.config.cni)
        if self.health.condition is Condition.READY:
            install.write_conflist(self.config.cni)
        return [str(file) for file in install.files(self.config.cni) if file.exists()]

    def uninstall_cni(self, *, force: bool) -> list[str]:
        """Take it away.  Refuses while pods are attached, unless `force`: no runtime could detach them."""
        if self._attachments is not None and len(self._attachments) and not force:
            raise HostError(
                f"{len(self._attachments)} pods are attached and could not be detached without the plugin",
                hint="terwayctl cni uninstall --force",
            )
        gone = [str(file) for file in install.files(self.config.cni) if file.exists()]
        install.remove_conflist(self.config.cni)
        install.remove_plugin(self.config.cni)
        return gone

    def _stop_pods(self) -> None:
        if self.host_lease is not None:
            self.host_lease.close()
        if self.engine is not None:
            self.engine.close()
        if self._attachments is not None:
            self._attachments.close()
        self.engine = self._attachments = self.host_lease = None

    def _await_confirmation(self) -> None:
        """Undo an unconfirmed takeover when its time is over, also one of an earlier run of the daemon."""
        left = self._takeover.unconfirmed()
        if self._probation is not None:
            self._probation.cancel()
            self._probation = None
        if left is not None:
            log.warning("waiting %.0f s for terwayctl confirm", max(left, 0))
            loop = asyncio.get_running_loop()
            self._probation = loop.call_later(max(left, 0), lambda: self.spawn(self._roll_back()))

    async def _roll_back(self) -> None:
        try:
            await self.roll_back("not confirmed in time, so the host was given back")
        except TerwayError as error:
            log.error("rolling back: %s", error)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def confirm(self) -> None:
        """Keep the takeover that waits for it.  HostError when none does."""
        if not self._takeover.confirm():
            raise HostError("nothing waits for confirmation", hint="terwayctl status")
        self._await_confirmation()
        log.info("confirmed")

    async def roll_back(self, reason: str) -> Standing:
        """Undo the takeover that waits for confirmation.  HostError when none does."""
        if self._takeover.unconfirmed() is None:
            raise HostError("nothing waits for confirmation", hint="terwayctl teardown gives the host back")
        standing = await self.take_down(force=True)
        self.metrics.rollbacks += 1
        self._become(Condition.DOWN, reason, "terwayctl setup")
        return standing

    @property
    def unconfirmed(self) -> float | None:
        """Seconds until the takeover is undone for want of confirmation; None: it stands."""
        return self._takeover.unconfirmed()

    async def look(self) -> None:
        """Mend what has become different on the host since the takeover, and say so.

        Where it is different again and again, somebody else wants it otherwise: then the node is
        degraded, and the host left alone.
        """
        if self.health.condition is not Condition.READY:
            return
        async with self._changing:
            try:
                found = await self._worker.call(self._takeover.mend)
                if found.steps:
                    await self._replug()
                    if self.host_lease is not None:
                        await self.host_lease.refresh()
                elif self._transport is not None and not await self._worker.call(local.stands):
                    log.warning("mended: %s is gone", local.PORT)
                    await self._replug()
            except TerwayError as error:
                if getattr(error, "errno", 0) != errno.EAGAIN:  # then the next change rings again
                    self._become(Condition.DEGRADED, error.message, error.hint)
                return
        if not found.steps:
            if found.found:
                self._become(
                    Condition.DEGRADED, "; ".join(found.found), "plug it in again; terwayd waits for it"
                )
            return
        words = "; ".join(found.found)
        log.warning("mended: %s", words, extra=about(MENDED))
        self._repaired(words)
        if self._limit.reached(boottime()):
            self.fighting = True
            self._become(
                Condition.DEGRADED,
                f"{words}, again and again: another manager of the NIC?",
                "stop the other manager, then terwayctl setup",
            )

    def _repaired(self, words: str) -> None:
        self.repairs.append((time.time(), words))
        self.metrics.repairs += 1

    async def _replug(self) -> None:
        """After a repair: the bridge may be another one, and the uplink too."""
        if self._attachments is None or self._transport is None:
            return
        host = await self._worker.call(lambda netlink: netlink.observe())
        self._attachments.lan = lan = _lan(host, self.bridge)
        uplinks = [link.name for link in host.links if link.alias == uplink_alias(self.bridge)]
        for known in self._attachments:
            link = host.link(known.host_ifname)
            if link is not None and link.master != lan.bridge.index:
                await self._worker.call(_enslave, known.host_ifname, lan.bridge.index)
        for name in uplinks[:1]:
            self._transport.rebind(name)
            await self._open_local(name)

    async def survey(self, mac: bytes | None, *, broadcast: bool, first: bool) -> tuple[Offer, ...]:
        """Which DHCP servers answer `mac`, None for the uplink's; HostError while the node takes no pods."""
        self.pods()
        assert self.engine is not None
        if mac is None:
            bridge = await self._worker.call(lambda netlink: netlink.link(self.bridge))
            mac = bytes.fromhex(bridge.mac.replace(":", "")) if bridge is not None else bytes(6)
        return await self.engine.survey(mac, within=_SURVEY, broadcast=broadcast, first=first)

    async def reconfigure(self, wanted: Config) -> Reload:
        """Go on with `wanted` as far as it can be had without a restart; pods that run follow too.

        Raises HostError, with all as it was, where the runtimes' directories cannot be written to.
        """
        async with self._changing:
            done, before = reload(self.config, wanted), self.config.cni
            config = done.config
            if config.cni != before and self.health.condition is Condition.READY:
                install.install_plugin(config.cni)
                install.write_conflist(config.cni)
                if config.cni.conf_dir != before.conf_dir:
                    install.remove_conflist(before)
            if config.pods.service_cidrs != self.config.pods.service_cidrs:
                self._ranges.configure(config.pods.service_cidrs)
            self.config = self._takeover.config = config
            if self.engine is not None and self._attachments is not None:
                self.engine.limit(config.dhcp.servers, config.dhcp.discover_rate)
                self._attachments.reconfigure(config)
                self.spawn(self._ranges.search())
        if done.applied:
            log.info("%s: in force: %s", wanted.path, ", ".join(done.applied), extra=about(RELOADED))
        self.unapplied = None
        if done.waiting:
            words = f"{', '.join(done.waiting)} changed in {wanted.path}, and in force after a restart only"
            log.warning("%s", words, extra=about(NOT_RELOADED))
            self.unapplied = (words, "systemctl restart terwayd")
        return done

    def not_reloaded(self, error: TerwayError) -> None:
        """Tell that the configuration file is not in force."""
        words = f"{error.message}; the configuration from before stays in force"
        log.error("%s", words, extra=about(NOT_RELOADED))
        self.unapplied = (words, error.hint or "systemctl reload terwayd")

    async def observe(self) -> tuple[Host, tuple[str, ...]]:
        """Bridge and NIC as they are now, and in what they differ from what the takeover left."""
        plan = await self._worker.call(self._takeover.standing)
        devs = (self.bridge, plan.uplink) if plan is not None else (self.bridge,)
        host = await self._worker.call(lambda netlink: netlink.glimpse(*devs))
        return host, drift(plan, host).found if plan is not None else ()

    async def settled(self) -> None:
        """Return when what must not be left half done is done."""
        if self._attachments is not None:
            await self._attachments.settled()

    def close(self) -> None:
        """End without touching host, pods or leases."""
        self._stop_pods()
        self.firewall.close()
        self._worker.close()
        self._pods_worker.close()
        self._store.close()

    def _become(self, condition: Condition, reason: str = "", hint: str = "") -> None:
        if (condition, reason) != (self.health.condition, self.health.reason):
            level = logging.ERROR if condition is Condition.DEGRADED else logging.INFO
            fields = about(NOT_READY) if condition is Condition.DEGRADED else None
            log.log(level, "%s%s", condition.value, f": {reason}" if reason else "", extra=fields)
            self.health = Health(condition, reason, hint, time.time())
            self._on_change()

    def _on_event(self, key: Hashable, event: Event) -> None:
        if (told := _TOLD.get(type(event))) is not None:
            self.metrics.dhcp_event(told)
        if key == HOST and self.host_lease is not None:
            self.host_lease.on_event(event)
            return
        if self._attachments is not None:
            self._attachments.on_event(_key(key), event)

    def _why_not(self, key: Hashable, ip: IPv4Address) -> str:
        """Why no pod of this node can have `ip`, whatever a server offers."""
        if key == HOST or self._attachments is None:
            return ""
        node = self._attachments.lan.node
        return {node.address: "which is this node's own", node.gateway: "which is the gateway's"}.get(ip, "")

    async def _serve(self) -> None:
        """The Service ranges are known from now on."""
        if self._attachments is not None:
            await self._attachments.serve()


def _policy(config: Config, node: str) -> Policy:
    hostname = bool(config.dhcp.hostname)
    return Policy(node, client_id=config.dhcp.client_id, mac=config.pods.mac, hostname=hostname)


def _enslave(netlink: Netlink, name: str, bridge: int) -> None:
    netlink.set_link(name, master=bridge, state="up")


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
    return Lan(_link(host, bridge), node, prefix)
