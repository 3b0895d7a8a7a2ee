"""The node: a host whose NIC is under the bridge, the DHCP engine on it, and the pods.

Brings the parts up in their order and takes them down again; what it is now, and why, is its
Health.  Nothing on the host changes when the process ends: the next one finds it as it was left.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terwayd.cni import install
from terwayd.config import Config, Reload, reload
from terwayd.dhcp.engine import Engine
from terwayd.dhcp.survey import Offer
from terwayd.errors import HostError, RolledBack, TerwayError
from terwayd.events import NOT_READY, NOT_RELOADED, RELOADED, TAKEN_OVER, about
from terwayd.guard import Guard
from terwayd.host.drift import drift
from terwayd.host.takeover import Standing, Takeover
from terwayd.hostlease import HostLease
from terwayd.kernel.worker import Worker
from terwayd.metrics import Metrics
from terwayd.model import Host
from terwayd.pods.attach import Attachments
from terwayd.pods.cluster import ServiceRanges
from terwayd.pods.firewall import Firewall
from terwayd.probation import Probation
from terwayd.running import Running
from terwayd.store import Store
from terwayd.tasks import to_its_end

log = logging.getLogger(__name__)

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
        self._store = store
        self._worker = Worker()
        self._pods_worker = Worker()  # so that no ADD waits for a look at the host
        self._takeover = Takeover(store, config)
        self._guard = Guard(self._worker, self._takeover, self.metrics)
        self._probation = Probation(self._takeover.journal, on_over=lambda: self.spawn(self._roll_back()))
        self.firewall = Firewall(
            config.host.bridge, antispoof=config.pods.antispoof, on_repair=self._guard.repaired
        )
        self._ranges = ServiceRanges(config.pods.service_cidrs, on_found=lambda: self.spawn(self._serve()))
        self._running: Running | None = None
        self._changing = asyncio.Lock()
        self._tried = asyncio.Event()
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
        return self._running.pods if self._running is not None else None

    @property
    def engine(self) -> Engine | None:
        return self._running.engine if self._running is not None else None

    @property
    def host_lease(self) -> HostLease | None:
        return self._running.host_lease if self._running is not None else None

    @property
    def repairs(self) -> Iterable[tuple[float, str]]:
        return self._guard.repairs

    @property
    def fighting(self) -> bool:
        return self._guard.fighting

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
        if self._running is None or self.health.condition is not Condition.READY:
            raise HostError(
                f"this node takes no pods: it is {self.health.condition.value}: {self.health.reason}",
                hint=self.health.hint or "terwayctl status",
            )
        return self._running.pods

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
                if self._running is None:
                    await self._run(standing)
                else:
                    await self._running.replug()
                    await self.firewall.up(services=self._running.pods.served)
                install.install_plugin(self.config.cni)
                install.write_conflist(self.config.cni)
            except TerwayError as error:
                self.metrics.rollbacks += isinstance(error, RolledBack)
                self._become(Condition.DEGRADED, error.message, error.hint)
                install.remove_conflist(self.config.cni)
                raise
            finally:
                self._tried.set()
            self._guard.begin()
            self._become(Condition.READY)
            self._probation.watch()
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

    async def _run(self, standing: Standing) -> None:
        """Serve pods; a start that fails half-way leaves nothing, so that the next one finds all that this one did."""
        running = self._running = Running(
            self.config,
            standing,
            worker=self._worker,
            pods_worker=self._pods_worker,
            takeover=self._takeover,
            store=self._store,
            firewall=self.firewall,
            ranges=self._ranges,
            metrics=self.metrics,
            spawn=self.spawn,
            on_change=self._on_change,
        )
        try:
            await running.start(standing)
        except BaseException:
            self._running = None
            await to_its_end(running.pods.settled())
            running.stop()
            raise

    async def take_down(self, *, force: bool) -> Standing:
        """Give the host back.  Refuses while pods are attached, unless `force`: then they are detached."""
        async with self._changing:
            pods = self.known_pods
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
            if self._running is not None:
                self._running.stop(give_back=True)
                self._running = None
            self.firewall.down()
            self._probation.end()
            try:
                return await self._worker.call(self._takeover.teardown)
            except TerwayError as error:
                self._become(Condition.DEGRADED, error.message, error.hint)
                raise

    def install_cni(self) -> list[str]:
        """Put in place what runtimes look for: the plugin, and the conflist if pods can come.  The files."""
        return install.put(self.config.cni, conflist=self.health.condition is Condition.READY)

    def uninstall_cni(self, *, force: bool) -> list[str]:
        """Take it away.  Refuses while pods are attached, unless `force`: no runtime could detach them."""
        pods = self.known_pods
        if pods is not None and len(pods) and not force:
            raise HostError(
                f"{len(pods)} pods are attached and could not be detached without the plugin",
                hint="terwayctl cni uninstall --force",
            )
        return install.take_away(self.config.cni)

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
        self._probation.confirm()

    async def roll_back(self, reason: str) -> Standing:
        """Undo the takeover that waits for confirmation.  HostError when none does."""
        self._probation.require()
        standing = await self.take_down(force=True)
        self.metrics.rollbacks += 1
        self._become(Condition.DOWN, reason, "terwayctl setup")
        return standing

    @property
    def unconfirmed(self) -> float | None:
        """Seconds until the takeover is undone for want of confirmation; None: it stands."""
        return self._probation.left

    async def look(self) -> None:
        """Mend what has become different on the host since the takeover; degraded where that cannot be."""
        if self.health.condition is not Condition.READY:
            return
        async with self._changing:
            trouble = await self._guard.look(self._running) if self._running is not None else None
            if trouble is not None:
                self._become(Condition.DEGRADED, *trouble)

    async def survey(self, mac: bytes | None, *, broadcast: bool, first: bool) -> tuple[Offer, ...]:
        """Which DHCP servers answer `mac`, None for the uplink's; HostError while the node takes no pods."""
        self.pods()
        assert self._running is not None
        return await self._running.survey(mac, broadcast=broadcast, first=first)

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
            if self._running is not None:
                self._running.reconfigure(config)
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
        if self._running is not None:
            await self._running.pods.settled()

    def close(self) -> None:
        """End without touching host, pods or leases."""
        if self._running is not None:
            self._running.stop()
            self._running = None
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

    async def _serve(self) -> None:
        """The Service ranges are known from now on."""
        if self._running is not None:
            await self._running.pods.serve()
