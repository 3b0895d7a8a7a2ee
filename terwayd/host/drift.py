"""What has become of a takeover: in what the host differs from it, and the steps that mend that.

Pure.  What is looked at is what the host needs to be on the LAN: the bridge with its MAC, MTU,
addresses and routes, the NIC under it, and nothing of the kind on the NIC itself.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from terwayd.host import interfaces, moves
from terwayd.host.lease import Leased
from terwayd.host.plan import Plan, movable_addresses, movable_routes, on_bridge, via_bridge
from terwayd.host.steps import Step
from terwayd.model import Host, Link, Route


@dataclass(frozen=True, slots=True)
class Drift:
    """Differences in words, and the steps that mend them; without steps nothing can be done from here."""

    found: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()


def drift(plan: Plan, host: Host) -> Drift:
    """In what `host` differs from how `plan` left it."""
    nic, bridge = host.link(plan.uplink), host.link(plan.bridge)
    if nic is None:
        return Drift((f"the NIC {plan.uplink} is gone",))
    found, steps = [], []
    anew = bridge is None or nic.master != bridge.index
    for step in plan.steps:
        difference = _missing(step, host, bridge, nic, plan.lease)
        if difference:
            found.append(difference)
        if difference or (anew and isinstance(step, interfaces.SetSysctl)):
            steps.append(step)
    if anew and not nic.up:  # it has been unplugged, and is another one to the kernel
        steps.append(interfaces.SetUp(nic.name))
    strays, back = _strays(plan, host)
    changed = _changed(plan, nic, bridge)
    words = [*found, *strays, *[f"{step.dev} had another {_kind(step)}" for step in changed]]
    return Drift(tuple(words), (*steps, *changed, *back))


def _missing(step: Step, host: Host, bridge: Link | None, nic: Link, lease: Leased | None) -> str:
    """What is not as `step` left it; "" when it is, or need not be."""
    match step:
        case interfaces.AddBridge(name):
            return f"the bridge {name} is gone" if bridge is None else ""
        case interfaces.SetUp(dev):
            link = nic if dev == nic.name else bridge
            return f"{dev} is down" if link is None or not link.up else ""
        case interfaces.SetAlias(dev, alias):
            return f"{dev} is not marked as ours" if nic.alias != alias else ""
        case interfaces.Enslave(dev, name):
            return f"{dev} is not a port of {name}" if bridge is None or nic.master != bridge.index else ""
        case moves.AddAddress(address):
            leased = lease is not None and address.interface.ip == lease.address  # renewed, while we run
            lasting = address.valid is None or leased or bridge is None
            there = {known.interface for known in host.addresses_of(address.dev)}
            return (
                f"{address.interface} is not on {address.dev}"
                if lasting and address.interface not in there
                else ""
            )
        case moves.AddRule(rule):
            return (
                f"the rule of priority {rule.get('FRA_PRIORITY')} is gone" if rule not in host.rules else ""
            )
        case moves.AddRoute(route):
            lasting = route.expires is None or bridge is None
            return f"the route {route.dst} is gone" if lasting and not _has(host, route) else ""
    return ""


def _strays(plan: Plan, host: Host) -> tuple[list[str], list[Step]]:
    """What somebody put on the NIC: it goes to the bridge, unless that has it already."""
    addresses, _ = movable_addresses(host.addresses_of(plan.uplink))
    routes = movable_routes(host.routes_of(plan.uplink))
    there = {known.interface for known in host.addresses_of(plan.bridge)}
    planned = {step.address.interface for step in plan.steps if isinstance(step, moves.AddAddress)}
    steps: list[Step] = [
        moves.AddAddress(on_bridge(address, plan.bridge))
        for address in addresses
        if address.interface not in there | planned
    ]
    moved = [via_bridge(route, plan.uplink, plan.bridge) for route in routes]
    steps += [moves.AddRoute(route) for route in moved if not _has(host, route)]
    steps += [moves.DelRoute(route) for route in reversed(routes)]
    steps += [moves.DelAddress(address) for address in reversed(addresses)]
    words = [f"{address.interface} is on {plan.uplink}" for address in addresses]
    return words or [f"the route {route.dst} uses {plan.uplink}" for route in routes], steps


def _changed(plan: Plan, nic: Link, bridge: Link | None) -> list[interfaces.SetMac | interfaces.SetMtu]:
    made = next((step for step in plan.steps if isinstance(step, interfaces.AddBridge)), None)
    steps: list[interfaces.SetMac | interfaces.SetMtu] = []
    for link in (nic, bridge) if made is not None else ():
        if link is not None and made is not None:
            if link.mac != made.mac:
                steps.append(interfaces.SetMac(link.name, made.mac, link.mac))
            if link.mtu != made.mtu:
                steps.append(interfaces.SetMtu(link.name, made.mtu, link.mtu))
    return steps


def _kind(step: interfaces.SetMac | interfaces.SetMtu) -> str:
    return "MAC" if isinstance(step, interfaces.SetMac) else "MTU"


def _has(host: Host, route: Route) -> bool:
    """Whether the host has such a route; what the kernel may fill in by itself is not compared."""
    return any(_way(known) == _way(route) for known in host.routes if known.dst == route.dst)


def _way(route: Route) -> tuple[object, ...]:
    hops = tuple((hop.dev, hop.gateway) for hop in route.hops)
    return (route.table, route.priority, route.tos, route.type, route.dev, route.gateway, hops)


class Pause:
    """For how long a host that was touched in vain is left alone: longer each time, up to `most` seconds."""

    def __init__(self, most: float = 60.0) -> None:
        self._most = most
        self._next = 0.25

    def failed(self) -> float:
        """Count a failure; the seconds until the next try."""
        pause, self._next = self._next, min(2 * self._next, self._most)
        return pause


class Limit:
    """Says when mending has become a fight: more than `times` repairs within `window` seconds."""

    def __init__(self, times: int = 5, window: float = 60.0) -> None:
        self._times = times
        self._window = window
        self._repairs: deque[float] = deque()

    def reached(self, now: float) -> bool:
        """Count a repair at `now`; whether it is one too many."""
        self._repairs.append(now)
        while self._repairs[0] <= now - self._window:
            self._repairs.popleft()
        return len(self._repairs) > self._times
