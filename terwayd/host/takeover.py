"""The takeover as a transaction: observe, plan, journal, apply, verify; or all of it undone.

The journal holds the whole plan, and is on the disk before the first step.  Since each step may be
undone without having been done, that is enough to lead back from a crash anywhere.  Everything here
blocks, and runs in the netlink thread.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from ipaddress import IPv4Address

from terwayd import codec
from terwayd.clock import epoch
from terwayd.config import Config
from terwayd.errors import HostError, KernelError, RolledBack
from terwayd.host import apply as do
from terwayd.host.drift import Drift, drift
from terwayd.host.plan import COPIED_SYSCTLS, NIC_SYSCTLS, Plan, plan, way_back
from terwayd.host.steps import Step
from terwayd.host.uplink import find_uplink
from terwayd.kernel import arp
from terwayd.kernel.netlink import Netlink, read_sysctls
from terwayd.model import Host, IPAddress
from terwayd.store import Store, TakeoverRecord

log = logging.getLogger(__name__)

_BEFORE_TIMEOUT = 1.0  # seconds that the gateway gets to show that it answered before


@dataclass(frozen=True, slots=True)
class Standing:
    """The host as it stands after setup() or teardown(); `changed` is False where there was nothing to do."""

    uplink: str
    bridge: str
    host: Host
    changed: bool
    steps: int = 0
    milliseconds: float = 0.0


class Takeover:
    """The takeover of one host; keeps nothing in memory but what the store has too."""

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        self._config = config

    def standing(self, netlink: Netlink) -> Plan | None:
        """The plan in force in this boot, or None when the host is its own."""
        record = self._store.takeover()
        if record is None or record.state != "up" or record.boot_id != epoch().boot_id:
            return None
        return codec.decode(Plan, record.plan)

    def plan_setup(self, netlink: Netlink) -> Plan:
        """What setup() would do; no steps where it is done already."""
        current = self.standing(netlink)
        host = netlink.observe()
        if current is not None:
            return Plan(current.uplink, current.bridge, drift(current, host).steps)
        nic = find_uplink(host, self._config.host.uplink, self._config.host.bridge)
        sysctls = read_sysctls((*COPIED_SYSCTLS, *NIC_SYSCTLS), nic.name, "default")
        host = Host(host.links, host.addresses, host.routes, host.neighbours, sysctls)
        return plan(host, nic, self._config.host.bridge)

    def setup(self, netlink: Netlink) -> Standing:
        """Put the uplink under the bridge, unless it is there; RolledBack when it did not work out."""
        self._recover(netlink)
        if self.standing(netlink) is not None:
            return self._stands(netlink)
        wanted = self.plan_setup(netlink)
        gateways = self._answering(netlink, wanted.uplink)
        self._store.write_takeover(TakeoverRecord(epoch().boot_id, "applying", codec.encode(wanted)))
        started = time.monotonic()
        try:
            do.apply(netlink, wanted.steps)
            milliseconds = (time.monotonic() - started) * 1000
            host = self._verify(netlink, wanted, gateways)
        except Exception as error:
            self._undo(netlink, wanted)
            raise RolledBack(
                f"taking over {wanted.uplink} failed and was undone, the host is as it was: {error}",
                hint=getattr(error, "hint", "") or "terwayctl setup --dry-run",
            ) from error
        self._store.write_takeover(TakeoverRecord(epoch().boot_id, "up", codec.encode(wanted)))
        return Standing(wanted.uplink, wanted.bridge, host, True, len(wanted.steps), milliseconds)

    def plan_teardown(self, netlink: Netlink) -> Plan:
        """What teardown() would do; no steps where the host is its own."""
        record = self._store.takeover()
        if record is None or record.boot_id != epoch().boot_id:
            return Plan("", self._config.host.bridge, ())
        current = codec.decode(Plan, record.plan)
        return Plan(current.uplink, current.bridge, way_back(current, netlink.observe()))

    def teardown(self, netlink: Netlink) -> Standing:
        """Give the host back what it had.  HostError names what could not be given back."""
        record = self._store.takeover()
        if record is None or record.boot_id != epoch().boot_id:
            self._store.clear_takeover()
            return Standing("", self._config.host.bridge, netlink.observe(), changed=False)
        current = codec.decode(Plan, record.plan)
        self._store.write_takeover(TakeoverRecord(record.boot_id, "undoing", record.plan))
        started = time.monotonic()
        steps = self._undo(netlink, current)
        milliseconds = (time.monotonic() - started) * 1000
        return Standing(current.uplink, current.bridge, netlink.observe(), True, len(steps), milliseconds)

    def mend(self, netlink: Netlink) -> Drift:
        """Bring back what has become different since the takeover; what was found, and done about it.

        Raises KernelError where the kernel refuses a step.
        """
        current = self.standing(netlink)
        found = drift(current, netlink.observe()) if current is not None else Drift()
        do.apply(netlink, found.steps)
        return found

    def _stands(self, netlink: Netlink) -> Standing:
        started = time.monotonic()
        found = self.mend(netlink)
        if found.found:
            log.warning("mended: %s", "; ".join(found.found))
        milliseconds = (time.monotonic() - started) * 1000
        host, current = netlink.observe(), self.standing(netlink)
        assert current is not None
        if left := drift(current, host).found:
            raise HostError("; ".join(left), hint="terwayctl setup, when that is mended")
        return Standing(
            current.uplink, current.bridge, host, bool(found.steps), len(found.steps), milliseconds
        )

    def _recover(self, netlink: Netlink) -> None:
        """Lead back from a takeover or teardown that a crash cut short; forget those of earlier boots."""
        record = self._store.takeover()
        if record is None:
            return
        if record.boot_id != epoch().boot_id:
            self._store.clear_takeover()
        elif record.state != "up":
            log.warning("a %s of the host was cut short: undoing it", record.state)
            self._undo(netlink, codec.decode(Plan, record.plan))

    def _undo(self, netlink: Netlink, current: Plan) -> tuple[Step, ...]:
        steps = way_back(current, netlink.observe())
        refused = do.apply_all(netlink, steps)
        host = netlink.observe()
        if host.link(current.bridge) is not None:
            raise HostError(
                f"{current.bridge} could not be taken down: {refused[0] if refused else 'the kernel keeps it'}",
                hint=f"ip link set {current.uplink} nomaster; ip link del {current.bridge}; terwayctl teardown",
            )
        for error in refused:
            log.warning("undoing the takeover: %s", error)
        self._store.clear_takeover()
        return steps

    def _answering(self, netlink: Netlink, uplink: str) -> tuple[IPv4Address, ...]:
        """The IPv4 gateways that answer ARP on the uplink now: they must answer on the bridge after."""
        host = netlink.observe()
        return tuple(
            gateway
            for gateway in host.gateways_of(uplink)
            if isinstance(gateway, IPv4Address) and self._answers(host, uplink, gateway, _BEFORE_TIMEOUT)
        )

    def _verify(self, netlink: Netlink, wanted: Plan, gateways: tuple[IPv4Address, ...]) -> Host:
        host = netlink.observe()
        if found := drift(wanted, host).found:
            raise HostError("after the last step " + "; ".join(found))
        for gateway in gateways:
            if not self._answers(host, wanted.bridge, gateway, self._config.host.verify_timeout):
                raise HostError(
                    f"the gateway {gateway} answered on {wanted.uplink} but does not on {wanted.bridge}",
                    hint="the switch or hypervisor may allow one MAC a port: see its port security",
                )
        return host

    @staticmethod
    def _answers(host: Host, dev: str, gateway: IPAddress, timeout: float) -> bool:
        link = host.link(dev)
        own = [a.interface.ip for a in host.addresses_of(dev) if gateway in a.interface.network]
        if link is None or not isinstance(gateway, IPv4Address):
            return False
        source = own[0] if own and isinstance(own[0], IPv4Address) else IPv4Address(0)
        try:
            return arp.answers(dev, link.mac, source, gateway, timeout)
        except OSError as error:
            raise KernelError(f"asking for {gateway} on {dev}: {error.strerror}", error.errno or 0) from None
