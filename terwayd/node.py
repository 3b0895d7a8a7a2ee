"""The node: a host whose NIC is under the bridge, the DHCP engine on it, and the pods.

Brings the parts up in their order and takes them down again; what it is now, and why, is `told`.
Nothing on the host changes when the process ends: the next one finds it as it was left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from terwayd.cni import install
from terwayd.condition import Condition, Health, Told
from terwayd.config import Config, Reload, reload
from terwayd.dhcp.engine import Engine
from terwayd.dhcp.survey import Offer
from terwayd.errors import HostError, RolledBack, TerwayError
from terwayd.events import TAKEN_OVER, about
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
from terwayd.tasks import Tasks, to_its_end

log = logging.getLogger(__name__)

_PATIENCE = 30.0  # seconds that a CNI call which came during our start waits for its end


class Node:
    """One host.  Use it from the event loop's thread."""

    def __init__(self, config: Config, store: Store, *, on_change: Callable[[], None]) -> None:
        self.config = config
        self._on_change = on_change
        self.metrics = Metrics()
        self.told = Told(on_change)
        self._store = store
        self.worker = Worker()
        self._pods_worker = Worker()  # so that no ADD waits for a look at the host
        self.takeover = Takeover(store, config)
        self._guard = Guard(self.worker, self.takeover, self.metrics)
        self.probation = Probation(self.takeover.journal, on_over=lambda: self.spawn(self._roll_back()))
        self.firewall = Firewall(
            config.host.bridge, antispoof=config.pods.antispoof, on_repair=self._guard.repaired
        )
        self._ranges = ServiceRanges(config.pods.service_cidrs, on_found=lambda: self.spawn(self._serve()))
        self._running: Running | None = None
        self._changing = asyncio.Lock()
        self._tried = asyncio.Event()
        self._tasks = Tasks()

    @property
    def health(self) -> Health:
        return self.told.health

    @property
    def bridge(self) -> str:
        return self.config.host.bridge

    @property
    def add_timeout(self) -> float:
        return self.config.cni.add_timeout

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
        return self.told.down

    def pods(self) -> Attachments:
        """The pods; HostError with the reason while the node takes none."""
        if self._running is None or not self.told.ready:
            raise self.told.refusal()
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
                standing = await self.worker.call(self.takeover.setup, confirm_within)
                if self._running is None:
                    await self._run(standing)
                else:
                    await self._running.replug()
                    await self.firewall.up(services=bool(self._running.pods.served))
                install.install_plugin(self.config.cni)
                install.write_conflist(self.config.cni)
            except TerwayError as error:
                self.metrics.rollbacks += isinstance(error, RolledBack)
                self.told.become(Condition.DEGRADED, error.message, error.hint)
                install.remove_conflist(self.config.cni)
                raise
            finally:
                self._tried.set()
            self._guard.begin()
            self.told.become(Condition.READY)
            self.probation.watch()
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
            worker=self.worker,
            pods_worker=self._pods_worker,
            takeover=self.takeover,
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
            self.told.become(Condition.DOWN, "the host has been given back", "terwayctl setup")
            if pods is not None:
                for known in list(pods):
                    await pods.delete(known.key)
            install.remove_conflist(self.config.cni)
            if self._running is not None:
                self._running.stop(give_back=True)
                self._running = None
            self.firewall.down()
            self.probation.end()
            try:
                return await self.worker.call(self.takeover.teardown)
            except TerwayError as error:
                self.told.become(Condition.DEGRADED, error.message, error.hint)
                raise

    def install_cni(self) -> list[str]:
        """Put in place what runtimes look for: the plugin, and the conflist if pods can come.  The files."""
        return install.put(self.config.cni, conflist=self.told.ready)

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
        """Begin work that nobody waits for."""
        self._tasks.start(work)

    async def roll_back(self, reason: str) -> Standing:
        """Undo the takeover that waits for confirmation.  HostError when none does."""
        self.probation.require()
        standing = await self.take_down(force=True)
        self.metrics.rollbacks += 1
        self.told.become(Condition.DOWN, reason, "terwayctl setup")
        return standing

    async def look(self) -> None:
        """Mend what has become different on the host since the takeover; degraded where that cannot be."""
        if not self.told.ready:
            return
        async with self._changing:
            trouble = await self._guard.look(self._running) if self._running is not None else None
            if trouble is not None:
                self.told.become(Condition.DEGRADED, *trouble)

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
            if config.cni != before and self.told.ready:
                install.install_plugin(config.cni)
                install.write_conflist(config.cni)
                if config.cni.conf_dir != before.conf_dir:
                    install.remove_conflist(before)
            if config.pods.service_cidrs != self.config.pods.service_cidrs:
                self._ranges.configure(config.pods.service_cidrs)
            self.config = self.takeover.config = config
            if self._running is not None:
                self._running.reconfigure(config)
        self.told.reloaded(wanted.path, done)
        return done

    async def observe(self) -> tuple[Host, tuple[str, ...]]:
        """Bridge and NIC as they are now, and in what they differ from what the takeover left."""
        plan = await self.worker.call(self.takeover.standing)
        devs = (self.bridge, plan.uplink) if plan is not None else (self.bridge,)
        host = await self.worker.call(lambda netlink: netlink.glimpse(*devs))
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
        self.worker.close()
        self._pods_worker.close()
        self._store.close()

    async def _serve(self) -> None:
        """The Service ranges are known from now on."""
        if self._running is not None:
            await self._running.pods.serve()
