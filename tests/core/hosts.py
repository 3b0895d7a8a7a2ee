"""Descriptions of hosts, as observing them gives, for the tests of what is pure."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_interface, ip_network
from typing import Any

from terwayd.model import (
    SCOPE_LINK,
    Address,
    Host,
    Link,
    Neighbour,
    Route,
)

MAC = "52:54:00:77:00:03"
LO = Link(1, "lo", "00:00:00:00:00:00", 65536, up=True, loopback=True)
ETH0 = Link(2, "eth0", MAC, 1500, up=True, carrier=True)
ETH1 = Link(3, "eth1", "52:54:00:77:00:04", 9000, up=True, carrier=True)


def address(text: str, dev: str = "eth0", **more: Any) -> Address:
    """An address as `ip addr add TEXT brd + dev DEV` leaves it."""
    interface = ip_interface(text)
    defaults: dict[str, Any] = {}
    if interface.version == 4:
        defaults = {"broadcast": IPv4Address(int(interface.network.broadcast_address)), "label": dev}
    return Address(dev, interface, **{**defaults, **more})


def route(dst: str, via: str = "", dev: str = "eth0", **more: Any) -> Route:
    """A route as `ip route add DST via VIA dev DEV` leaves it; `::/0` for IPv6's default."""
    network = ip_network(dst if dst != "default" else "0.0.0.0/0")
    metric = {"priority": 1024} if network.version == 6 else {}
    scope = {"scope": SCOPE_LINK} if network.version == 4 and not via else {}
    gateway = ip_address(via) if via else None
    return Route(network, dev, gateway, **{**metric, **scope, **more})


def connected(net: str, source: str, dev: str = "eth0", **more: Any) -> Route:
    """The route that the kernel makes for an address."""
    if ":" in net:
        return route(net, dev=dev, proto=2, priority=256, **more)
    return route(net, dev=dev, proto=2, prefsrc=ip_address(source), **more)


def host(**changes: Any) -> Host:
    """A host with one NIC, IPv4 and IPv6, a gateway for each, as most are."""
    parts: dict[str, Any] = {
        "links": (LO, ETH0),
        "addresses": (
            address("127.0.0.1/8", "lo", broadcast=None, scope=254),
            address("192.0.2.10/24"),
            address("2001:db8::10/64"),
            address("fe80::10/64", scope=SCOPE_LINK),
        ),
        "routes": (
            route("default", "192.0.2.1"),
            connected("192.0.2.0/24", "192.0.2.10"),
            route("192.0.2.10/32", table=255, type=2, proto=2, scope=254, prefsrc=ip_address("192.0.2.10")),
            connected("2001:db8::/64", ""),
            connected("fe80::/64", ""),
            route("::/0", "fe80::1"),
            route("ff00::/8", table=255, type=5, proto=2, priority=256),
        ),
        "neighbours": (
            Neighbour("eth0", ip_address("192.0.2.1"), "02:00:00:00:00:01"),
            Neighbour("eth0", ip_address("fe80::1"), "02:00:00:00:00:01", permanent=True),
        ),
        "sysctls": {
            "net/ipv4/conf/eth0/rp_filter": "0",
            "net/ipv4/conf/default/rp_filter": "2",
            "net/ipv6/conf/eth0/accept_ra": "1",
            "net/ipv6/conf/default/accept_ra": "1",
            "net/ipv6/conf/eth0/addr_gen_mode": "0",
            "net/ipv6/conf/eth0/disable_ipv6": "0",
            "net/ipv6/conf/default/disable_ipv6": "0",
        },
    }
    return Host(**{**parts, **changes})
