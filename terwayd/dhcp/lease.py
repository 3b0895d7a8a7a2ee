"""A DHCP lease as a value, and how an OFFER or ACK becomes one.

All times are seconds on the clock that the caller counts on (CLOCK_BOOTTIME in the daemon: it goes on
while the machine sleeps, and no one sets it).  What a server says is not trusted: an address nobody
can have is refused, an option that means nothing is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, Final, TypeVar

from terwayd.dhcp import options as opt
from terwayd.dhcp.options import Code
from terwayd.dhcp.packet import Message

T = TypeVar("T")
Route = tuple[IPv4Network, IPv4Address | None]

INFINITE: Final = 0xFFFFFFFF
MIN_LEASE_S: Final = 10  # shorter ones would be renewed several times a second
MIN_MTU: Final = 68  # RFC 2132 section 5.1
UNKNOWN_SERVER: Final = IPv4Address(
    "255.255.255.255"
)  # the server of a lease that was had otherwise; the first ACK tells
T1_OF_LEASE: Final = 0.5  # RFC 2131 section 4.4.5
T2_OF_LEASE: Final = 0.875


class LeaseError(ValueError):
    """The message carries no lease that could be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a DHCP server gave: an address, until when, and what goes with it, which may be nothing.

    `routes` holds option 121 where the server sent it (then `routers` is empty, RFC 3442), else option
    33; a router of None means "on the link".  `server_mac` is where the ACK came from on the link (the
    server or its relay); empty when unknown.  `extra` are the bytes of options that were asked for by number.
    Times are `math.inf` for a lease without end.
    """

    address: IPv4Interface
    server: IPv4Address
    acquired: float
    renew_at: float
    rebind_at: float
    expires_at: float
    server_mac: bytes = b""
    routers: tuple[IPv4Address, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: tuple[IPv4Address, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    mtu: int | None = None
    ntp: tuple[IPv4Address, ...] = ()
    extra: tuple[tuple[int, bytes], ...] = ()

    def shifted(self, seconds: float) -> Lease:
        """The same lease on a clock that reads `seconds` more."""
        return replace(
            self,
            acquired=self.acquired + seconds,
            renew_at=self.renew_at + seconds,
            rebind_at=self.rebind_at + seconds,
            expires_at=self.expires_at + seconds,
        )

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON knows; a time of "never" is None."""
        return {
            "address": str(self.address),
            "server": str(self.server),
            "server_mac": self.server_mac.hex(":"),
            "routers": [str(router) for router in self.routers],
            "routes": [[str(net), None if via is None else str(via)] for net, via in self.routes],
            "dns": [str(server) for server in self.dns],
            "domain": self.domain,
            "search": list(self.search),
            "mtu": self.mtu,
            "ntp": [str(server) for server in self.ntp],
            "acquired": self.acquired,
            "renew_at": _finite(self.renew_at),
            "rebind_at": _finite(self.rebind_at),
            "expires_at": _finite(self.expires_at),
            "extra": [[code, raw.hex()] for code, raw in self.extra],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Lease:
        """The lease that `to_dict` wrote; ValueError when it is not one."""
        try:
            return cls(
                address=IPv4Interface(str(data["address"])),
                server=IPv4Address(str(data["server"])),
                server_mac=bytes.fromhex(data["server_mac"].replace(":", "")),
                routers=tuple(IPv4Address(router) for router in data["routers"]),
                routes=tuple(
                    (IPv4Network(net), None if via is None else IPv4Address(via))
                    for net, via in data["routes"]
                ),
                dns=tuple(IPv4Address(server) for server in data["dns"]),
                domain=str(data["domain"]),
                search=tuple(str(name) for name in data["search"]),
                mtu=None if data["mtu"] is None else int(data["mtu"]),
                ntp=tuple(IPv4Address(server) for server in data["ntp"]),
                acquired=_time(data["acquired"], never=False),
                renew_at=_time(data["renew_at"]),
                rebind_at=_time(data["rebind_at"]),
                expires_at=_time(data["expires_at"]),
                extra=tuple((int(code), bytes.fromhex(raw)) for code, raw in data.get("extra", ())),
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"not a lease: {error!r}") from error


def lease_from(
    message: Message, *, server_mac: bytes, sent: float, fuzz: float = 0.0, extra: Iterable[int] = ()
) -> Lease:
    """The lease in an OFFER or ACK that answers what was sent at `sent`; LeaseError when there is none.

    RFC 2131 section 4.4.5: the lease counts from when the request was sent, not from when the answer
    came.  `fuzz` (0 to 1) moves T1 and T2 up to a tenth of the way towards the time before them, so that
    clients that were started together do not renew together.
    """
    options = message.options
    server = message.server
    if server is None:
        raise LeaseError("it names no server (option 54)")
    duration = _read(options, Code.LEASE_TIME, lambda raw: opt.number(raw, 4))
    if duration is None:
        raise LeaseError("it carries no lease time (option 51)")
    if duration == 0:
        raise LeaseError("it offers a lease of 0 seconds")
    address = _usable(message.yiaddr, _read(options, Code.SUBNET_MASK, opt.prefix))
    if address.ip == server:
        raise LeaseError(f"it offers the server's own address {server}")
    classless = _read(options, Code.CLASSLESS_ROUTES, opt.classless_routes)
    static = _read(options, Code.STATIC_ROUTES, opt.static_routes) if classless is None else None
    routers = _read(options, Code.ROUTER, opt.addresses) if classless is None else None
    mtu = _read(options, Code.MTU, lambda raw: opt.number(raw, 2))
    renew, rebind, end = _times(options, duration, fuzz)
    return Lease(
        address=address,
        server=server,
        server_mac=server_mac,
        routers=tuple(router for router in routers or () if _is_host(router) and router != address.ip),
        routes=tuple(
            (net, via) for net, via in classless or static or () if _is_target(net) and _is_via(via)
        ),
        dns=tuple(value for value in _read(options, Code.DNS, opt.addresses) or () if int(value)),
        domain=_read(options, Code.DOMAIN, opt.name) or "",
        search=_read(options, Code.SEARCH, opt.names) or (),
        mtu=mtu if mtu is not None and mtu >= MIN_MTU else None,
        ntp=tuple(value for value in _read(options, Code.NTP, opt.addresses) or () if int(value)),
        acquired=sent,
        renew_at=sent + renew,
        rebind_at=sent + rebind,
        expires_at=sent + end,
        extra=tuple((code, options[code]) for code in extra if code in options),
    )


def _times(options: Mapping[int, bytes], duration: int, fuzz: float) -> tuple[float, float, float]:
    """T1, T2 and the end of the lease in seconds from its start; the server's T1 and T2 where they make sense."""
    if duration == INFINITE:
        return math.inf, math.inf, math.inf
    end = float(max(duration, MIN_LEASE_S))
    sent_t1 = _read(options, Code.T1, lambda raw: opt.number(raw, 4))
    sent_t2 = _read(options, Code.T2, lambda raw: opt.number(raw, 4))
    t1 = float(sent_t1) if sent_t1 is not None else end * T1_OF_LEASE
    t2 = float(sent_t2) if sent_t2 is not None else end * T2_OF_LEASE
    if not 0 < t1 < t2 < end:
        t1, t2 = end * T1_OF_LEASE, end * T2_OF_LEASE
    return t1 - fuzz * t1 / 10, t2 - fuzz * (t2 - t1) / 10, end


def _usable(ip: IPv4Address, prefix: int | None) -> IPv4Interface:
    """The address with its prefix length, unless no host can have it."""
    if not _is_host(ip):
        raise LeaseError(f"it offers {ip}, which no host can have")
    address = IPv4Interface((ip, opt.classful_prefix(ip) if prefix is None else prefix))
    network = address.network
    if network.prefixlen < 31 and ip in (network.network_address, network.broadcast_address):
        raise LeaseError(f"it offers {address}, the network's or broadcast address")
    return address


def _is_host(ip: IPv4Address) -> bool:
    """Not 0/8, not loopback, not multicast, not class E, not broadcast."""
    return 0 < ip.packed[0] < 224 and ip.packed[0] != 127


def _is_target(net: IPv4Network) -> bool:
    """A network a route may lead to: everything, or a unicast one that is not loopback."""
    return net.prefixlen == 0 or (
        net.network_address.packed[0] < 224 and net.network_address.packed[0] != 127
    )


def _is_via(via: IPv4Address | None) -> bool:
    return via is None or _is_host(via)


def _read(options: Mapping[int, bytes], code: Code, decode: Callable[[bytes], T]) -> T | None:
    """The option's value; None when it is missing or means nothing."""
    raw = options.get(code)
    if raw is None:
        return None
    try:
        return decode(raw)
    except ValueError:
        return None


def _finite(time: float) -> float | None:
    return time if math.isfinite(time) else None


def _time(value: float | None, *, never: bool = True) -> float:
    """A time that was written down; ValueError when it is none, for what is no number would never come."""
    if value is None and never:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no time")
    return float(value)
