"""The takeover as a transaction: observe, plan, journal, apply, verify; or all of it undone.

The journal is written before the first step.  Since each step may be undone without having been done, that
is enough to lead back from a crash anywhere.  Everything here blocks, and runs in the netlink thread.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface

from terwayd.config import Config
from terwayd.errors import HostError, RolledBack
from terwayd.host import addressing, adopt, dead_man, verify
from terwayd.host import apply as do
from terwayd.host.commands import Run, StopClient
from terwayd.host.drift import Drift, drift
from terwayd.host.interfaces import DIVERT_TABLES, EndDivert, Release
from terwayd.host.journal import Journal
from terwayd.host.lease import Leased
from terwayd.host.moves import AddAddress, AddRoute
from terwayd.host.plan import COPIED_SYSCTLS, Plan, plan, readdressed, way_back
from terwayd.host.prepare import prepare
from terwayd.host.steps import Step, undo
from terwayd.kernel import firewall, local
from terwayd.kernel.netlink import Netlink
from terwayd.kernel.sysctl import read_sysctls
from terwayd.model import Host
from terwayd.store import Store

log = logging.getLogger(__name__)

_INSIST = 3  # times that a way back, or the last touch of a takeover, is tried
_GRACE = 5.0  # seconds that the steps themselves may take before the dead man looks


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
        self.journal = Journal(store)
        self.config = config
        self.busy_until = 0.0  # monotonic time by which the dead man looks
        self.touched = 0  # times that steps were done
        self._told = ""

    def standing(self, netlink: Netlink) -> Plan | None:
        """The plan in force in this boot, or None when the host is its own."""
        return self.journal.standing()

    def plan_setup(self, netlink: Netlink) -> Plan:
        """What setup() would do; no steps where it is done already."""
        current = self.standing(netlink)
        host = netlink.observe()
        if current is not None:
            return Plan(current.uplink, current.bridge, drift(current, host).steps)
        return prepare(host, self.config.host)

    def setup(self, netlink: Netlink, confirm_within: float | None = None) -> Standing:
        """Put the uplink under the bridge, unless it is there; RolledBack when it did not work out.

        With `confirm_within` (seconds) it is undone after that time unless confirm() is called.
        """
        self._recover(netlink)
        self._adopt(netlink)
        if self.standing(netlink) is not None:
            return self._stands(netlink)
        wanted = self.plan_setup(netlink)
        for warning in wanted.warnings:
            log.warning("%s", warning)
        host, settings = netlink.observe(), self.config.host
        candidates = verify.targets(settings.verify, host, wanted.uplink)
        expected = verify.answering(candidates, host, wanted.uplink)
        watcher = dead_man.name()
        self.journal.begin(wanted, "applying", watcher)
        needs = _grace(wanted) + settings.verify_timeout * len(expected)
        dead_man.arm(watcher, needs + (confirm_within or 0.0))
        self.busy_until = time.monotonic() + needs
        started = time.monotonic()
        try:
            do.apply(netlink, wanted.steps)
            milliseconds = (time.monotonic() - started) * 1000
            host = self._verify(netlink, wanted, expected)
        except Exception as error:
            self._undo(netlink, wanted)
            raise RolledBack(
                f"taking over {wanted.uplink} failed and was undone, the host is as it was: {error}",
                hint=getattr(error, "hint", "") or "terwayctl setup --dry-run",
            ) from error
        self.journal.stands(wanted, confirm_within)
        if confirm_within is None:
            dead_man.disarm(watcher)
        return Standing(wanted.uplink, wanted.bridge, host, True, len(wanted.steps), milliseconds)

    def rescue(self, netlink: Netlink, watcher: str) -> bool:
        """What the dead man `watcher` does: undo a takeover that nobody finished or confirmed.

        False: all is well, or it is another's to watch over.
        """
        current = self.journal.abandoned(watcher)
        if current is None:
            return False
        self._undo(netlink, current)
        return True

    def plan_teardown(self, netlink: Netlink) -> Plan:
        """What teardown() would do; no steps where the host is its own."""
        current = self.journal.planned()
        if current is None:
            return Plan("", self.config.host.bridge, ())
        return Plan(current.uplink, current.bridge, way_back(current, netlink.observe()))

    def teardown(self, netlink: Netlink) -> Standing:
        """Give the host back what it had.  HostError names what could not be given back."""
        self._adopt(netlink)
        current = self.journal.planned()
        if current is None:
            self.journal.clear()
            return Standing("", self.config.host.bridge, netlink.observe(), changed=False)
        watcher = dead_man.name()
        self.journal.begin(current, "undoing", watcher)
        dead_man.arm(watcher, _grace(current))
        self.busy_until = time.monotonic() + _grace(current)
        started = time.monotonic()
        steps = self._undo(netlink, current)
        dead_man.disarm(watcher)
        milliseconds = (time.monotonic() - started) * 1000
        return Standing(current.uplink, current.bridge, netlink.observe(), True, len(steps), milliseconds)

    def mend(self, netlink: Netlink) -> tuple[Drift, Host | None]:
        """Bring back what has become different since the takeover; what was found, and done about it, and where.

        Raises KernelError where the kernel refuses a step.
        """
        current = self.standing(netlink)
        if current is None:
            return Drift(), None
        host = netlink.glimpse(current.uplink, current.bridge)
        found = drift(current, host)
        self.touched += bool(found.steps)
        do.apply(netlink, found.steps)
        return found, host

    @staticmethod
    def leased_interface(current: Plan) -> IPv4Interface | None:
        """The host's leased address with its prefix length."""
        planned = [step.address.interface for step in current.steps if isinstance(step, AddAddress)]
        ips = [known for known in planned if isinstance(known, IPv4Interface)]
        return next((i for i in ips if current.lease is not None and i.ip == current.lease.address), None)

    def set_leased(
        self, netlink: Netlink, address: IPv4Interface, seconds: int | None, router: IPv4Address | None
    ) -> IPv4Interface | None:
        """Have the leased `address` on the bridge for `seconds` (None: for good), by way of `router`.

        What it replaces is returned where that is another address; routes and journal follow it then.
        """
        current = self.standing(netlink)
        if current is None:
            return None
        wanted, before = current, self.leased_interface(current)
        if before is None and self.config.host.address == "dhcp":
            lease = Leased(address.ip, addressing.client_id(current), router=router)
            wanted = addressing.leased(current, address, lease)
            self.journal.revise(wanted)
        elif before is None:
            return None
        elif address != before:
            wanted = readdressed(current, before, address, router)
            self.journal.revise(wanted)
        for step in wanted.steps:
            if isinstance(step, AddAddress) and step.address.interface == address:
                netlink.add_address(replace(step.address, valid=seconds, preferred=seconds))
        if address == before:
            return None
        do.apply(netlink, [s for s in wanted.steps if isinstance(s, AddRoute) and s not in current.steps])
        gone = [s for s in current.steps if isinstance(s, AddRoute | AddAddress) and s not in wanted.steps]
        do.apply_all(netlink, undo(tuple(gone)))
        return before

    def _stands(self, netlink: Netlink) -> Standing:
        started = time.monotonic()
        found, _ = self.mend(netlink)
        if found.found:
            self._warn_once(f"mended: {'; '.join(found.found)}")
        milliseconds = (time.monotonic() - started) * 1000
        current = self.standing(netlink)
        assert current is not None
        host = netlink.glimpse(current.uplink, current.bridge)
        if left := drift(current, host).found:
            raise HostError("; ".join(left), hint="terwayctl setup, when that is mended")
        return Standing(
            current.uplink, current.bridge, host, bool(found.steps), len(found.steps), milliseconds
        )

    def _adopt(self, netlink: Netlink) -> None:
        """Know a takeover again whose journal is lost, by the mark on the NIC."""
        host, bridge = netlink.observe(), self.config.host.bridge
        nic = adopt.uplink_of(host, bridge) if self.journal.empty() else None
        if nic is None:
            return
        sysctls = read_sysctls(COPIED_SYSCTLS, bridge, "default")
        earlier = adopt.before(host, nic, bridge, sysctls)
        link = earlier.link(nic.name)
        assert link is not None
        log.warning("%s is under %s already, and the journal does not know it: adopted", nic.name, bridge)
        known = plan(earlier, link, bridge)
        do.apply(netlink, [step for step in known.steps if isinstance(step, EndDivert)])
        self.journal.stands(known)

    def _recover(self, netlink: Netlink) -> None:
        """Lead back from a takeover or teardown that a crash cut short; forget those of earlier boots."""
        if (current := self.journal.cut_short()) is not None:
            self._warn_once("a takeover or teardown of the host was cut short: undoing it")
            self._undo(netlink, current)

    def _undo(self, netlink: Netlink, current: Plan) -> tuple[Step, ...]:
        """Lead back.  HostError, with the takeover as it was, when the NIC cannot get back what it had."""
        firewall.remove(current.bridge)
        steps = way_back(current, netlink.observe())
        leaves = next((n for n, step in enumerate(steps) if isinstance(step, Release)), len(steps))
        if refused := self._insist(netlink, steps[:leaves]):
            do.apply_all(netlink, current.steps)
            raise HostError(
                f"{current.uplink} cannot get back what it had: {refused[0]}; it stays under {current.bridge}",
                hint="terwayctl teardown, when that is mended",
            )
        refused = self._insist(netlink, steps[leaves:])
        if refused and do.diverts():
            raise HostError(
                f"what comes in on {current.uplink} still goes on to {current.bridge}: {refused[0]}",
                hint=f"nft delete table {' '.join(DIVERT_TABLES[0])}; terwayctl teardown",
            )
        local.remove(netlink)
        if netlink.link(current.bridge) is not None:
            raise HostError(
                f"{current.bridge} could not be taken down: {refused[0] if refused else 'the kernel keeps it'}",
                hint=f"ip link set {current.uplink} nomaster; ip link del {current.bridge}; terwayctl teardown",
            )
        for error in refused:
            log.warning("undoing the takeover: %s", error)
        self.journal.clear()
        return steps

    def _warn_once(self, words: str) -> None:
        """What is tried again and again is told once, until something else is."""
        log.log(logging.DEBUG if words == self._told else logging.WARNING, "%s", words)
        self._told = words

    def _insist(self, netlink: Netlink, steps: tuple[Step, ...]) -> list[Exception]:
        """Do the steps, and all of them again when one was refused: what is refused to the end is returned."""
        self.touched += bool(steps)
        for _ in range(_INSIST):
            refused = do.apply_all(netlink, steps)
            if not refused:
                break
        return refused

    def _verify(self, netlink: Netlink, wanted: Plan, expected: tuple[verify.Target, ...]) -> Host:
        host = netlink.observe()
        for _ in range(_INSIST):  # a manager that was not told yet may have put back what it saw go
            if not (steps := drift(wanted, host).steps):
                break
            do.apply(netlink, steps)
            host = netlink.observe()
        if found := drift(wanted, host).found:
            raise HostError("after the last step " + "; ".join(found))
        verify.verify(expected, host, wanted.bridge, self.config.host.verify_timeout)
        return host


def _grace(current: Plan) -> float:
    """The seconds that doing or undoing all steps may take, with managers that take their time."""
    return _GRACE + do.TIMEOUT * sum(isinstance(step, Run | StopClient) for step in current.steps)
