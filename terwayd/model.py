"""What the kernel says of a host's network, as frozen values.

A snapshot (Host) is taken whole before anything is planned; planning, comparing and undoing work
on it alone.  This file does not know what netlink is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

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
_MAX_MTU = 65535  # of a bridge
LOCAL_PORT, LOCAL_FREE_END = "twdhcp", "twdhcp0"  # the bridge's port for terwayd itself

NFT_TABLE = "terwayd"
NFT_FAMILIES = ("bridge", "inet")  # in each of them there is one table of ours


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
    """A route of any table; `metrics` are RTAX attributes as (name, value);
    `foreign` names what it says beyond all this."""

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
    metrics: tuple[tuple[str, int | str], ...] = ()
    hops: tuple[Hop, ...] = ()
    pref: int | None = None
    expires: int | None = None
    foreign: tuple[str, ...] = ()

    def uses(self, dev: str) -> bool:
        return self.dev == dev or any(hop.dev == dev for hop in self.hops)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry of the ARP or ND cache that is known to be true."""

    dev: str
    ip: IPAddress
    mac: str
    permanent: bool = False
    proxy: bool = False  # then the host answers for `ip`, and there is no `mac`


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the routing policy; `attrs` are FRA attributes as (name, value).

    `foreign` is whether it says more than that.
    """

    version: int
    attrs: tuple[tuple[str, int | str], ...]
    action: int = 1
    src_len: int = 0
    dst_len: int = 0
    tos: int = 0
    flags: int = 0
    foreign: bool = False

    def get(self, name: str) -> int | str | None:
        return next((value for known, value in self.attrs if known == name), None)

    def names(self, dev: str) -> bool:
        return dev in (self.get("FRA_IIFNAME"), self.get("FRA_OIFNAME"))


@dataclass(frozen=True, slots=True)
class Host:
    """The host's network at one moment.  `sysctls`: "net/ipv4/conf/DEV/KEY" to value."""

    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    rules: tuple[Rule, ...] = ()
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


def other_mtu(mtu: int) -> int:
    """What a bridge that shall have this MTU is made with, so that setting it is a change."""
    return mtu + 1 if mtu < _MAX_MTU else mtu - 1
