"""From a snapshot and the configuration to the steps of a takeover: a pure function.

The order is what keeps the host reachable.  The bridge gets the NIC's MAC, addresses and neighbours
while the NIC still carries the traffic; then the NIC goes under it, its traffic taken past the moment
in which the kernel hears neither a NIC nor a port; the bridge's routes are put in front of the NIC's;
only then does the NIC lose its own.  The steps are a
palindrome: undone in reverse, the NIC has its addresses and routes back before it leaves the bridge.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface

from terwayd.errors import Refused
from terwayd.host import interfaces, moves
from terwayd.host.lease import Leased
from terwayd.host.managers import Held
from terwayd.host.steps import Step, undo
from terwayd.host.uplink import uplink_alias
from terwayd.model import (
    IFA_F_NOPREFIXROUTE,
    LOCAL_FREE_END,
    LOCAL_PORT,
    ROUTE_UNICAST,
    TABLE_LOCAL,
    Address,
    Host,
    Link,
    Route,
    Rule,
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

_RP_FILTER, _LOOSE = "net/ipv4/conf/{}/rp_filter", "2"

COPIED_SYSCTLS = tuple([f"net/ipv4/conf/{{}}/{key}" for key in _SYSCTLS_4])
COPIED_SYSCTLS += tuple([f"net/ipv6/conf/{{}}/{key}" for key in _SYSCTLS_6])
NIC_SYSCTLS = ("net/ipv6/conf/{}/addr_gen_mode", "net/ipv6/conf/{}/disable_ipv6")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a takeover of `uplink` does; `warnings` are for the administrator's eyes.

    `lease` is the host's own, which terwayd renews while the takeover stands.
    """

    uplink: str
    bridge: str
    steps: tuple[Step, ...]
    warnings: tuple[str, ...] = ()
    lease: Leased | None = None


def plan(
    host: Host,
    nic: Link,
    bridge: str,
    held: Held = Held(),  # noqa: B008 - frozen
    *,
    mtu: int = 0,
    given: tuple[Step, ...] = (),
) -> Plan:
    """The steps that put `nic` under a new `bridge` and move what it has onto it, its managers `held`.

    `mtu` is another than the NIC's, or 0; `given` are addresses and routes that the bridge gets besides.

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
    warnings += [
        f"the route {route.dst} via {route.gateway} is advertised: the kernel makes a new one on the bridge"
        for route in advertised_beside(host.routes_of(nic.name))
    ]
    onto = [on_bridge(address, bridge) for address in addresses]
    moved = [via_bridge(route, nic.name, bridge) for route in routes]
    neighbours = [replace(n, dev=bridge) for n in host.neighbours if n.dev == nic.name]
    rules = [rule for rule in host.rules if rule.names(nic.name)]
    warnings += [
        f"a rule of priority {rule.get('FRA_PRIORITY')} names {nic.name} and says more than terwayd carries over"
        for rule in rules
        if rule.foreign
    ]
    ipv6 = host.sysctls.get(f"net/ipv6/conf/{nic.name}/disable_ipv6") == "0"
    mode = f"net/ipv6/conf/{nic.name}/addr_gen_mode"

    mtu = mtu or nic.mtu
    steps: list[Step] = [*held.early]
    if mtu != nic.mtu:
        steps.append(interfaces.SetMtu(nic.name, mtu, nic.mtu))
    steps.append(interfaces.AddBridge(bridge, nic.mac, mtu))
    steps += _sysctls(host, nic.name, bridge, ipv6, userspace_ra=held.userspace_ra)
    if ipv6 and nic.up:
        steps.append(interfaces.SetSysctl(mode, "1", host.sysctls.get(mode, "0")))
    steps += [interfaces.SetUp(bridge), interfaces.AddPort(bridge, LOCAL_PORT, LOCAL_FREE_END, mtu)]
    steps += [moves.AddAddress(address) for address in onto]
    steps += [step for step in given if isinstance(step, moves.AddAddress)]
    steps += [moves.AddNeighbour(neighbour) for neighbour in neighbours]
    steps.append(interfaces.SetAlias(nic.name, uplink_alias(bridge), nic.alias))
    steps += [moves.AddRule(_for_bridge(rule, nic.name, bridge)) for rule in rules if not rule.foreign]
    steps += [interfaces.Divert(nic.name, bridge, LOCAL_FREE_END), interfaces.Enslave(nic.name, bridge)]
    steps.append(interfaces.EndDivert(nic.name, bridge, LOCAL_FREE_END))
    deaf = [interfaces.SetSysctl(f"net/ipv6/conf/{nic.name}/disable_ipv6", "1", "0")] if ipv6 else []
    if not nic.up:  # without IPv6 from the start, and down again before it has that back: it makes no address
        steps += [*deaf, interfaces.SetUp(nic.name, back=True)]
    steps += [moves.AddRoute(route) for route in moved]
    steps += [step for step in given if isinstance(step, moves.AddRoute)]
    steps += [moves.DelRoute(route) for route in reversed(routes)]
    steps += [moves.DelAddress(address) for address in reversed(addresses)]
    if nic.up:
        steps += deaf
    if _strict(host, nic.name):
        steps.append(interfaces.SetSysctl(_RP_FILTER.format(bridge), "1", _LOOSE))
    steps += held.late
    finite = {address.interface.ip for address in addresses if address.valid is not None}
    lease = held.lease if held.lease is not None and held.lease.address in finite else None
    return Plan(nic.name, bridge, tuple(steps), tuple(warnings), lease)


def movable_addresses(found: tuple[Address, ...]) -> tuple[list[Address], list[str]]:
    """Those that can be moved, in the order in which they are added: the kernel lists the last of IPv6 first."""
    kept, warnings = [], []
    four = [address for address in found if address.interface.version == 4]
    for address in (*four, *[a for a in reversed(found) if a.interface.version == 6]):
        if address.interface.version == 6 and address.flags & IFA_F_TEMPORARY:
            warnings.append(
                f"{address.interface} is a temporary address: the kernel makes a new one on the bridge"
            )
        else:
            kept.append(address)
    return kept, warnings


def movable_routes(found: tuple[Route, ...]) -> list[Route]:
    """The routes to move, those without a gateway first: the others' gateways are found by them."""
    advertised = advertised_beside(found)
    kept = [r for r in found if r.table != TABLE_LOCAL and r.type in _MOVABLE_TYPES and r not in advertised]
    for route in kept:
        if route.foreign:
            raise Refused(
                f"the route {route.dst} has {' and '.join(route.foreign)}, which terwayd does not move",
                hint="write the route without it, or name another NIC: host.uplink in /etc/terway.toml",
            )
    gated = {id(r): bool(r.gateway or any(hop.gateway for hop in r.hops)) for r in kept}
    # Of equal routes the first wins, and a route is put in front of those that are there: the last one first.
    kept.reverse()
    return sorted(kept, key=lambda r: (gated[id(r)], -r.dst.prefixlen))


def advertised_beside(found: tuple[Route, ...]) -> list[Route]:
    """Routes of router advertisements that have a lasting one of their metric beside them: they are not moved.

    The kernel tells the two apart only where it has made the one itself; moved, both would be one multipath
    route, and the lasting one end with the other.  The next advertisement makes it anew.
    """
    lasting = {(r.dst, r.table, r.priority) for r in found if r.expires is None}
    return [r for r in found if r.expires is not None and (r.dst, r.table, r.priority) in lasting]


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


def _for_bridge(rule: Rule, nic: str, bridge: str) -> Rule:
    """`rule` with `bridge` in the place of `nic`."""
    named = {"FRA_IIFNAME", "FRA_OIFNAME"}
    attrs = tuple((name, bridge if name in named and value == nic else value) for name, value in rule.attrs)
    return replace(rule, attrs=attrs)


def _strict(host: Host, nic: str) -> bool:
    """Whether the NIC takes packets only of those whom it would answer itself."""
    values = {host.sysctls.get(_RP_FILTER.format(name), "0") for name in (nic, "all")}
    return max(values) == "1"


def _sysctls(host: Host, nic: str, bridge: str, ipv6: bool, *, userspace_ra: bool) -> list[Step]:
    """What the NIC has different from the default that a new interface gets.

    `userspace_ra`: the NIC's manager listens to IPv6 routers itself; on the bridge the kernel does.
    """
    steps: list[Step] = []
    for key in COPIED_SYSCTLS:
        value = host.sysctls.get(key.format(nic))
        if userspace_ra and key == "net/ipv6/conf/{}/accept_ra":
            value = "2" if host.sysctls.get(f"net/ipv6/conf/{nic}/forwarding") == "1" else "1"
        if key == _RP_FILTER and _strict(host, nic):
            value = _LOOSE  # while packets come in by the bridge and the routes are the NIC's still
        if value is not None and value != host.sysctls.get(key.format("default")):
            steps.append(interfaces.SetSysctl(key.format(bridge), value))
    moves = any(address.link_local for address in host.addresses_of(nic) if address.interface.version == 6)
    if ipv6 and (moves or host.sysctls.get(f"net/ipv6/conf/{nic}/addr_gen_mode", "0") == "1"):
        # Its link-local address is moved onto it, or it has none: it makes none of its own.
        steps.append(interfaces.SetSysctl(f"net/ipv6/conf/{bridge}/addr_gen_mode", "1"))
    return steps


def way_back(current: Plan, host: Host) -> tuple[Step, ...]:
    """The steps that undo `current` on `host`: the inverses, last first.

    What the bridge has learned of its neighbours goes to the NIC as soon as that has its addresses:
    a question asked on the NIC before it leaves the bridge would be answered on the bridge.  A leased
    address goes back with the time that it has left.
    """
    steps = tuple(_with_time_left(step, host, current) for step in undo(current.steps))
    first = next(
        (n for n, step in enumerate(steps) if isinstance(step, moves.AddRoute | moves.DelRoute)), len(steps)
    )
    learned = [
        moves.AddNeighbour(replace(n, dev=current.uplink)) for n in host.neighbours if n.dev == current.bridge
    ]
    return (*steps[:first], *learned, *steps[first:])


def _with_time_left(step: Step, host: Host, current: Plan) -> Step:
    if not isinstance(step, moves.AddAddress) or step.address.valid is None:
        return step
    for dev in (current.bridge, current.uplink):
        for known in host.addresses_of(dev):
            if known.interface == step.address.interface:
                return moves.AddAddress(replace(step.address, valid=known.valid, preferred=known.preferred))
    return step


def readdressed(current: Plan, old: IPv4Interface, new: IPv4Interface, router: IPv4Address | None) -> Plan:
    """`current` after the server has given the host `new` in place of `old`, with `router` as the gateway."""
    lease = current.lease
    before = lease.router if lease is not None else None
    steps = tuple(_readdressed(step, old, new, before, router) for step in current.steps)
    if lease is not None:
        lease = replace(lease, address=new.ip, router=router or lease.router)
    return replace(current, steps=steps, lease=lease)


def _readdressed(
    step: Step,
    old: IPv4Interface,
    new: IPv4Interface,
    before: IPv4Address | None,
    router: IPv4Address | None,
) -> Step:
    match step:
        case moves.AddAddress(address) | moves.DelAddress(address) if address.interface == old:
            broadcast = new.network.broadcast_address if address.broadcast is not None else None
            return type(step)(replace(address, interface=new, broadcast=broadcast))
        case moves.AddRoute(route) | moves.DelRoute(route):
            same_net = route.dst == old.network
            return type(step)(
                replace(
                    route,
                    dst=new.network if same_net else route.dst,
                    prefsrc=new.ip if route.prefsrc == old.ip else route.prefsrc,
                    gateway=router if router is not None and route.gateway == before else route.gateway,
                )
            )
    return step
