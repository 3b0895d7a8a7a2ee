"""Which routes a pod gets."""

from __future__ import annotations

import math
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, ip_network
from typing import Any

import pytest

from terwayd.dhcp.lease import Lease
from terwayd.pods.routes import Node, PodRoute, pod_routes

DEFAULT = IPv4Network("0.0.0.0/0")
ROUTER = IPv4Address("192.0.2.1")
OTHER = IPv4Address("192.0.2.2")
OUTSIDE = IPv4Address("198.51.100.1")
NODE = Node(IPv4Address("192.0.2.10"), IPv4Address("192.0.2.254"))
NOWHERE = Node()
TEN = IPv4Network("10.0.0.0/8")
LEASE = Lease(
    IPv4Interface("192.0.2.57/24"),
    ROUTER,
    acquired=0.0,
    renew_at=math.inf,
    rebind_at=math.inf,
    expires_at=math.inf,
    routers=(ROUTER, OTHER),
)


def routes(
    node: Node = NODE, *, default_route: bool = True, services: str = "", **lease: Any
) -> list[PodRoute]:
    cidrs = tuple(ip_network(text) for text in services.split())
    made = pod_routes(replace(LEASE, **lease), node, service_cidrs=cidrs, default_route=default_route)
    return list(made)


def test_the_first_router_is_the_default() -> None:
    assert routes() == [PodRoute(DEFAULT, ROUTER)]
    assert routes(routers=(OTHER, ROUTER)) == [PodRoute(DEFAULT, OTHER)]


def test_classless_routes_replace_the_routers() -> None:
    """RFC 3442: with option 121 the lease has no routers."""
    assert routes(routers=(), routes=((DEFAULT, OTHER), (TEN, ROUTER))) == [
        PodRoute(DEFAULT, OTHER),
        PodRoute(TEN, ROUTER),
    ]


def test_static_routes_stand_beside_the_routers() -> None:
    """Option 33 replaces nothing (RFC 2132 section 5.8): the server's router stays the default."""
    assert sorted(routes(routes=((TEN, OTHER),)), key=lambda r: r.dst) == [
        PodRoute(DEFAULT, ROUTER),
        PodRoute(TEN, OTHER),
    ]
    assert PodRoute(DEFAULT, ROUTER) in routes(NOWHERE, routes=((TEN, OTHER),))


def test_routes_on_the_link_come_first() -> None:
    link = IPv4Network("198.51.100.0/24")
    made = routes(routers=(), routes=((DEFAULT, OUTSIDE), (TEN, ROUTER), (link, None)))
    assert made == [PodRoute(link), PodRoute(DEFAULT, OUTSIDE, onlink=True), PodRoute(TEN, ROUTER)]


@pytest.mark.parametrize("address", ["192.0.2.57/24", "192.0.2.57/32", "10.1.2.3/8"])
def test_a_gateway_outside_of_the_lease_is_on_the_link(address: str) -> None:
    outside = ROUTER not in IPv4Interface(address).network
    assert routes(address=IPv4Interface(address)) == [PodRoute(DEFAULT, ROUTER, onlink=outside)]


def test_without_a_router_the_nodes_gateway_serves() -> None:
    assert NODE.gateway is not None
    assert routes(routers=()) == [PodRoute(DEFAULT, NODE.gateway)]
    assert routes(routers=(), routes=((TEN, ROUTER),)) == [
        PodRoute(TEN, ROUTER),
        PodRoute(DEFAULT, NODE.gateway),
    ]
    far = Node(NODE.address, OUTSIDE)
    assert routes(far, routers=()) == [PodRoute(DEFAULT, OUTSIDE, onlink=True)]


def test_without_any_gateway_there_is_no_default() -> None:
    assert routes(NOWHERE, routers=()) == []
    assert routes(Node(NODE.address), routers=()) == []


def test_no_default_route_when_told_so() -> None:
    assert routes(default_route=False) == []
    assert routes(default_route=False, routers=()) == []
    kept = routes(default_route=False, routers=(), routes=((DEFAULT, ROUTER), (TEN, ROUTER)))
    assert kept == [PodRoute(TEN, ROUTER)]


def test_services_are_reached_through_the_node() -> None:
    made = routes(services="10.96.0.0/12 10.200.0.0/16")
    assert made == [
        PodRoute(DEFAULT, ROUTER),
        PodRoute(IPv4Network("10.96.0.0/12"), NODE.address),
        PodRoute(IPv4Network("10.200.0.0/16"), NODE.address),
    ]
    assert routes(default_route=False, services="10.96.0.0/12") == made[1:2]


def test_services_of_a_node_outside_of_the_lease() -> None:
    elsewhere = Node(IPv4Address("203.0.113.7"), ROUTER)
    assert routes(elsewhere, services="10.96.0.0/12")[1] == PodRoute(
        IPv4Network("10.96.0.0/12"), elsewhere.address, onlink=True
    )


def test_what_is_no_service_route() -> None:
    assert routes(services="fd00::/108") == [PodRoute(DEFAULT, ROUTER)]
    assert routes(NOWHERE, services="10.96.0.0/12") == [PodRoute(DEFAULT, ROUTER)]


def test_no_server_has_the_services_elsewhere() -> None:
    """CVE-2024-3661: routes of a DHCP server that take over what is reached otherwise."""
    part, wider = IPv4Network("10.0.0.0/9"), IPv4Network("10.0.0.0/7")
    got = routes(routes=((TEN, OTHER), (part, OTHER), (wider, OTHER)), services="10.0.0.0/8")
    assert [route for route in got if route.dst in (TEN, part)] == [PodRoute(TEN, NODE.address)]
    assert PodRoute(wider, OTHER) in got
