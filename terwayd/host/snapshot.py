"""What the kernel says of the host's network, as frozen values, and which NIC is the uplink.

A snapshot is taken whole before anything is planned; planning, diffing and undoing work on it
alone.  This file does not know what netlink is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from terwayd.errors import HostError, Refused

IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network

TABLE_MAIN = 254
TABLE_LOCAL = 255
SCOPE_LINK = 253
ROUTE_UNICAST = 1
IFA_F_NODAD = 0x02
IFA_F_PERMANENT = 0x80
IFA_F_NOPREFIXROUTE = 0x200
RTNH_F_ONLINK = 4


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface; `kind` is the rtnl kind, "" for hardware."""

    index: int
    name: str
    mac: str
    mtu: int
    kind: str = ""
    master: int = 0
    lower: int = 0
    up: bool = False
    carrier: bool = False
    loopback: bool = False
    wireless: bool = False
    alias: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """An address of an interface, with all that RTM_NEWADDR says of it; lifetimes in seconds, None: forever."""

    dev: str
    interface: IPInterface
    peer: IPAddress | None = None
    broadcast: IPv4Address | None = None
    label: str = ""
    scope: int = 0
    flags: int = IFA_F_PERMANENT
    valid: int | None = None
    preferred: int | None = None
    metric: int = 0

    @property
    def link_local(self) -> bool:
        return self.interface.ip.is_link_local


@dataclass(frozen=True, slots=True)
class Hop:
    """One leg of a multipath route."""

    dev: str
    gateway: IPAddress | None = None
    weight: int = 1
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Route:
    """A route of any table; `metrics` are RTAX attributes as (name, value)."""

    dst: IPNetwork
    dev: str = ""
    gateway: IPAddress | None = None
    prefsrc: IPAddress | None = None
    table: int = TABLE_MAIN
    priority: int = 0
    proto: int = 3
    scope: int = 0
    type: int = ROUTE_UNICAST
    tos: int = 0
    flags: int = 0
    metrics: tuple[tuple[str, int], ...] = ()
    hops: tuple[Hop, ...] = ()
    pref: int | None = None
    expires: int | None = None
    nexthop: int = 0

    def uses(self, dev: str) -> bool:
        return self.dev == dev or any(hop.dev == dev for hop in self.hops)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry of the ARP or ND cache that is known to be true."""

    dev: str
    ip: IPAddress
    mac: str
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """The host's network at one moment.  `sysctls`: "net/ipv4/conf/DEV/KEY" to value."""

    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)

    def link(self, name: str) -> Link | None:
        return next((link for link in self.links if link.name == name), None)

    def by_index(self, index: int) -> Link | None:
        return next((link for link in self.links if link.index == index), None)

    def addresses_of(self, dev: str) -> tuple[Address, ...]:
        return tuple(address for address in self.addresses if address.dev == dev)

    def routes_of(self, dev: str) -> tuple[Route, ...]:
        return tuple(route for route in self.routes if route.uses(dev))

    def default_routes(self) -> Iterator[Route]:
        """The default routes of the main table, IPv4 first, the one that wins first."""
        found = [route for route in self.routes if route.dst.prefixlen == 0 and route.table == TABLE_MAIN]
        yield from sorted(found, key=lambda route: (route.dst.version, route.priority))

    def gateways_of(self, dev: str) -> tuple[IPAddress, ...]:
        gateways: list[IPAddress] = []
        for route in self.default_routes():
            legs = [hop.gateway for hop in route.hops if hop.dev == dev]
            for gateway in [route.gateway if route.dev == dev else None, *legs]:
                if gateway is not None and gateway not in gateways:
                    gateways.append(gateway)
        return tuple(gateways)


_SETTING = "host.uplink in /etc/terway.toml"


def find_uplink(host: Host, wanted: str, bridge: str) -> Link:
    """The NIC to put under the bridge: `wanted`, or for "auto" the one of the default route.

    Raises Refused where it must not be taken over, HostError where it is not there (yet).
    A NIC that is under `bridge` already is a right answer.
    """
    if wanted == "auto":
        link = _of_default_route(host, bridge)
    else:
        named = host.link(wanted)
        if named is None:
            names = ", ".join(link.name for link in host.links if not link.loopback and not link.kind)
            raise HostError(
                f"host.uplink: there is no interface {wanted!r} on this host",
                hint=f"set {_SETTING} to one of: {names or 'none found'}; or to auto",
            )
        link = named
    _refuse(host, link, bridge)
    return link


def _of_default_route(host: Host, bridge: str) -> Link:
    for route in host.default_routes():
        name = route.dev or next((hop.dev for hop in route.hops), "")
        link = host.link(name)
        if link is None:
            continue
        if link.name != bridge:
            return link
        ports = [port for port in host.links if port.master == link.index and not port.alias and port.kind != "veth"]
        ports += [port for port in host.links if port.master == link.index and port.alias == uplink_alias(bridge)]
        if ports:
            return ports[-1]
    raise HostError(
        'host.uplink = "auto": this host has no default route to find its NIC by',
        hint=f"wait for the network, or name the NIC: {_SETTING}",
    )


def uplink_alias(bridge: str) -> str:
    """The interface alias that marks a NIC as put under `bridge` by terwayd."""
    return f"terwayd uplink of {bridge}"


def _refuse(host: Host, link: Link, bridge: str) -> None:
    """Raise Refused where a takeover of `link` cannot work or would cut the host off."""
    master = host.by_index(link.master) if link.master else None
    children = [
        child.name for child in host.links if child.lower == link.index and child.kind not in {"", "veth"}
    ]
    dynamic = [
        a for a in host.addresses_of(link.name) if a.valid is not None and a.interface.version == 4
    ]
    other = f"name another NIC: {_SETTING}"
    reason = ""
    if link.loopback:
        reason, hint = "is the loopback interface", other
    elif link.wireless:
        reason, hint = "is wireless; an access point takes frames of one MAC only, so it cannot be bridged", other
    elif link.kind == "bridge":
        reason, hint = "is a bridge itself", f"name the NIC under it, or use it as it is: {_SETTING}"
    elif master is not None and master.name != bridge:
        kind = "a port of the bridge" if master.kind == "bridge" else f"under the {master.kind}"
        reason, hint = f"is {kind} {master.name} already", f"take it out there first, or {other}"
    elif children:
        reason, hint = f"carries {', '.join(children)}, which would fall silent", other
    elif dynamic:
        reason = f"has the leased address {dynamic[0].interface}, which its DHCP client would put back on the NIC"
        hint = "give this host a static address; the host's own lease cannot be taken over yet"
    if reason:
        raise Refused(f"host.uplink: {link.name} {reason}", hint=hint)
