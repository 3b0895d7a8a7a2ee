"""From a snapshot and the configuration to the steps of a takeover: a pure function.

The order is what keeps the host reachable.  The bridge gets the NIC's MAC, addresses and neighbours
while the NIC still carries the traffic; then the NIC goes under it and, in the same breath, the
bridge's routes are put in front of the NIC's; only then does the NIC lose its own.  The steps are a
palindrome: undone in reverse, the NIC has its addresses and routes back before it leaves the bridge.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from terwayd.errors import Refused
from terwayd.host import steps as s
from terwayd.host.uplink import uplink_alias
from terwayd.model import (
    IFA_F_NOPREFIXROUTE,
    ROUTE_UNICAST,
    TABLE_LOCAL,
    Address,
    Host,
    Link,
    Route,
)

IFA_F_TEMPORARY = 0x01  # of IPv6; the same bit is "secondary" for IPv4
_MOVABLE_TYPES = {ROUTE_UNICAST, 6, 7, 8}  # unicast, blackhole, unreachable, prohibit

# What an administrator may have set on the NIC and expects to hold for the host's address still.
_SYSCTLS_4 = [
    "accept_local",
    "accept_redirects",
    "accept_source_route",
    "arp_accept",
    "arp_announce",
    "arp_filter",
    "arp_ignore",
    "arp_notify",
    "disable_policy",
    "forwarding",
    "log_martians",
    "promote_secondaries",
    "proxy_arp",
    "route_localnet",
    "rp_filter",
    "secure_redirects",
    "send_redirects",
    "shared_media",
    "src_valid_mark",
]
_SYSCTLS_6 = [
    "accept_dad",
    "accept_ra",
    "accept_ra_defrtr",
    "accept_ra_pinfo",
    "accept_ra_rt_info_max_plen",
    "accept_redirects",
    "accept_source_route",
    "autoconf",
    "dad_transmits",
    "disable_ipv6",
    "forwarding",
    "hop_limit",
    "max_addresses",
    "proxy_ndp",
    "router_solicitations",
    "suppress_frag_ndisc",
    "use_tempaddr",
]

COPIED_SYSCTLS = tuple([f"net/ipv4/conf/{{}}/{key}" for key in _SYSCTLS_4])
COPIED_SYSCTLS += tuple([f"net/ipv6/conf/{{}}/{key}" for key in _SYSCTLS_6])
NIC_SYSCTLS = ("net/ipv6/conf/{}/addr_gen_mode", "net/ipv6/conf/{}/disable_ipv6")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a takeover of `uplink` does; `warnings` are for the administrator's eyes."""

    uplink: str
    bridge: str
    steps: tuple[s.Step, ...]
    warnings: tuple[str, ...] = ()


def plan(host: Host, nic: Link, bridge: str) -> Plan:
    """The steps that put `nic` under a new `bridge` and move what it has onto it.

    Raises Refused where something that cannot be carried over depends on the NIC.
    """
    existing = host.link(bridge)
    if existing is not None:
        raise Refused(
            f"host.bridge: there is an interface {bridge} already, and terwayd did not make it",
            hint=f"ip link del {bridge}, or name another bridge in /etc/terway.toml",
        )
    addresses, warnings = movable_addresses(host.addresses_of(nic.name))
    routes = movable_routes(host.routes_of(nic.name))
    onto = [on_bridge(address, bridge) for address in addresses]
    moved = [via_bridge(route, nic.name, bridge) for route in routes]
    neighbours = [replace(n, dev=bridge) for n in host.neighbours if n.dev == nic.name]
    ipv6 = host.sysctls.get(f"net/ipv6/conf/{nic.name}/disable_ipv6") == "0"
    mode = f"net/ipv6/conf/{nic.name}/addr_gen_mode"

    steps: list[s.Step] = [s.AddBridge(bridge, nic.mac, nic.mtu)]
    steps += _sysctls(host, nic.name, bridge, ipv6)
    if ipv6:
        steps.append(s.SetSysctl(mode, "1", host.sysctls.get(mode, "0")))
    steps.append(s.SetUp(bridge))
    steps += [s.AddAddress(address) for address in onto]
    steps += [s.AddNeighbour(neighbour) for neighbour in neighbours]
    steps.append(s.SetAlias(nic.name, uplink_alias(bridge), nic.alias))
    steps.append(s.Enslave(nic.name, bridge))
    steps += [s.AddRoute(route) for route in moved]
    steps += [s.DelRoute(route) for route in reversed(routes)]
    steps += [s.DelAddress(address) for address in reversed(addresses)]
    if ipv6:
        steps.append(s.SetSysctl(f"net/ipv6/conf/{nic.name}/disable_ipv6", "1", "0"))
    return Plan(nic.name, bridge, tuple(steps), tuple(warnings))


def movable_addresses(found: tuple[Address, ...]) -> tuple[list[Address], list[str]]:
    kept, warnings = [], []
    for address in found:
        if address.interface.version == 6 and address.flags & IFA_F_TEMPORARY:
            warnings.append(
                f"{address.interface} is a temporary address: the kernel makes a new one on the bridge"
            )
        else:
            kept.append(address)
    return kept, warnings


def movable_routes(found: tuple[Route, ...]) -> list[Route]:
    """The routes to move, those without a gateway first: the others' gateways are found by them."""
    kept = [r for r in found if r.table != TABLE_LOCAL and r.type in _MOVABLE_TYPES]
    for route in kept:
        if route.nexthop:
            raise Refused(
                f"the route {route.dst} uses nexthop object {route.nexthop}, which terwayd does not move",
                hint="write the route with its own `via`, or name another NIC: host.uplink in /etc/terway.toml",
            )
    gated = {id(r): bool(r.gateway or any(hop.gateway for hop in r.hops)) for r in kept}
    return sorted(kept, key=lambda r: (gated[id(r)], -r.dst.prefixlen))


def on_bridge(address: Address, bridge: str) -> Address:
    label = address.label.replace(address.dev, bridge, 1) if address.label.startswith(address.dev) else ""
    return replace(
        address,
        dev=bridge,
        label=label if len(label) < 16 else "",
        flags=address.flags | IFA_F_NOPREFIXROUTE,
        metric=0,
    )


def via_bridge(route: Route, nic: str, bridge: str) -> Route:
    hops = tuple(replace(hop, dev=bridge) if hop.dev == nic else hop for hop in route.hops)
    return replace(route, dev=bridge if route.dev == nic else route.dev, hops=hops)


def _sysctls(host: Host, nic: str, bridge: str, ipv6: bool) -> list[s.Step]:
    """What the NIC has different from the default that a new interface gets."""
    steps: list[s.Step] = []
    for key in COPIED_SYSCTLS:
        value = host.sysctls.get(key.format(nic))
        if value is not None and value != host.sysctls.get(key.format("default")):
            steps.append(s.SetSysctl(key.format(bridge), value))
    if ipv6:  # its link-local address is moved onto it: it makes none of its own
        steps.append(s.SetSysctl(f"net/ipv6/conf/{bridge}/addr_gen_mode", "1"))
    return steps


def way_back(current: Plan, host: Host) -> tuple[s.Step, ...]:
    """The steps that undo `current` on `host`: the inverses, last first.

    What the bridge has learned of its neighbours goes to the NIC as soon as that has its addresses:
    a question asked on the NIC before it leaves the bridge would be answered on the bridge.
    """
    steps = s.undo(current.steps)
    first = next((n for n, step in enumerate(steps) if isinstance(step, s.AddRoute | s.DelRoute)), len(steps))
    learned = [
        s.AddNeighbour(replace(n, dev=current.uplink)) for n in host.neighbours if n.dev == current.bridge
    ]
    return (*steps[:first], *learned, *steps[first:])
