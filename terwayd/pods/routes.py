"""Which routes a pod gets: from its lease, the host's gateway, and the Service ranges.  Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from terwayd.config import Network
from terwayd.dhcp.lease import Lease

_DEFAULT = IPv4Network("0.0.0.0/0")


@dataclass(frozen=True, slots=True)
class Node:
    """What a pod's routes need to know of its node: its address on the LAN and its own gateway."""

    address: IPv4Address | None = None
    gateway: IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class PodRoute:
    """A route in a pod; without a gateway the destination is on the link itself."""

    dst: IPv4Network
    gateway: IPv4Address | None = None
    onlink: bool = False


def pod_routes(
    lease: Lease, node: Node, *, service_cidrs: tuple[Network, ...] = (), default_route: bool = True
) -> tuple[PodRoute, ...]:
    """The pod's routes, those that others depend on first.

    A lease with classless routes has no routers (RFC 3442), one with static routes has both.  Where
    the server sends no default route, the node's own gateway serves.  The Service ranges are served on
    the node, so they go through it, whatever part of them a server would have elsewhere.
    """
    ours = [cidr for cidr in service_cidrs if isinstance(cidr, IPv4Network)] if node.address else []
    routes = [
        _route(lease, dst, gateway)
        for dst, gateway in lease.routes
        if not any(dst.subnet_of(cidr) for cidr in ours)
    ]
    router = lease.routers[0] if lease.routers else node.gateway
    if not any(route.dst == _DEFAULT for route in routes) and router is not None:
        routes.append(_route(lease, _DEFAULT, router))
    if not default_route:
        routes = [route for route in routes if route.dst != _DEFAULT]
    routes += [_route(lease, cidr, node.address) for cidr in ours]
    return tuple(sorted(routes, key=lambda route: route.gateway is not None))


def _route(lease: Lease, dst: IPv4Network, gateway: IPv4Address | None) -> PodRoute:
    """A gateway outside the lease's own network is reached on the link all the same."""
    return PodRoute(dst, gateway, onlink=gateway is not None and gateway not in lease.address.network)
