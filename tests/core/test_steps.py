"""The steps: each prints as the command for it, and its inverse leads back."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from terwayd.host import interfaces, moves
from terwayd.host.steps import Step, undo
from terwayd.model import Hop, Neighbour
from tests.core.hosts import address, route

ADDRESS = address("192.0.2.10/24")
ROUTE = route("default", "192.0.2.1")
LABELLED = address("192.0.2.11/24", label="eth0:1")
PEER = address("192.0.2.10/32", peer=ip_address("198.51.100.7"), broadcast=None)
LEASED = address("192.0.2.10/24", valid=600, preferred=300, metric=7)
V6 = address("2001:db8::10/64", flags=0x280)
HOPS = (
    Hop("eth0", ip_address("192.0.2.1"), 2),
    Hop("eth1", ip_address("192.0.2.2"), 1, flags=4),
)


@pytest.mark.parametrize(
    ("step", "command"),
    [
        (
            interfaces.AddBridge("mybr0", "52:54:00:77:00:03", 1400),
            "ip link add mybr0 address 52:54:00:77:00:03 mtu 1401 type bridge"
            " stp_state 0 forward_delay 0 mcast_snooping 0; ip link set mybr0 mtu 1400",
        ),
        (interfaces.DelLink("mybr0"), "ip link del mybr0"),
        (interfaces.SetUp("mybr0"), "ip link set mybr0 up"),
        (interfaces.SetAlias("eth0", "terwayd uplink", ""), "ip link set eth0 alias 'terwayd uplink'"),
        (
            interfaces.Enslave("eth0", "mybr0"),
            "ip link set eth0 master mybr0; bridge link set dev eth0 isolated on",
        ),
        (
            interfaces.AddPort("mybr0", "tw1", "tw2", 1400),
            "ip link add tw1 mtu 1400 type veth peer name tw2 mtu 1400;"
            " sysctl -qw net/ipv6/conf/tw1/disable_ipv6=1; sysctl -qw net/ipv6/conf/tw2/disable_ipv6=1;"
            " ip link set tw1 master mybr0 up; bridge link set dev tw1 learning off isolated on;"
            " ip link set tw2 up",
        ),
        (
            interfaces.Divert("eth0", "mybr0", "tw2"),
            "nft 'table netdev terwayd { chain divert {"
            " type filter hook ingress device eth0 priority -500; fwd to tw2; }; };"
            " table bridge terwayd_divert { chain keep {"
            " type filter hook forward priority -500; iifname twdhcp oifname eth0 drop; }; }'",
        ),
        (
            interfaces.EndDivert("eth0", "mybr0", "tw2"),
            "nft 'add table netdev terwayd; delete table netdev terwayd;"
            " add table bridge terwayd_divert; delete table bridge terwayd_divert'",
        ),
        (interfaces.Release("eth0", "mybr0"), "ip link set eth0 nomaster"),
        (
            interfaces.SetSysctl("net/ipv6/conf/eth0.7/accept_ra", "2"),
            "sysctl -w net/ipv6/conf/eth0.7/accept_ra=2",
        ),
        (moves.AddAddress(ADDRESS), "ip addr add 192.0.2.10/24 brd 192.0.2.255 dev eth0"),
        (moves.DelAddress(ADDRESS), "ip addr del 192.0.2.10/24 dev eth0"),
        (
            moves.AddAddress(LABELLED),
            "ip addr add 192.0.2.11/24 brd 192.0.2.255 dev eth0 label eth0:1",
        ),
        (moves.AddAddress(PEER), "ip addr add 192.0.2.10 peer 198.51.100.7/32 dev eth0"),
        (
            moves.AddAddress(LEASED),
            "ip addr add 192.0.2.10/24 brd 192.0.2.255 dev eth0 metric 7 valid_lft 600 preferred_lft 300",
        ),
        (moves.AddAddress(V6), "ip addr add 2001:db8::10/64 dev eth0 noprefixroute nodad"),
        (
            moves.AddAddress(address("fe80::10/64", scope=253)),
            "ip addr add fe80::10/64 dev eth0 scope link nodad",
        ),
        (
            moves.AddNeighbour(Neighbour("mybr0", ip_address("192.0.2.1"), "02:00:00:00:00:01")),
            "ip neigh replace 192.0.2.1 lladdr 02:00:00:00:00:01 dev mybr0 nud stale",
        ),
        (
            moves.AddNeighbour(
                Neighbour("mybr0", ip_address("fe80::1"), "02:00:00:00:00:01", permanent=True)
            ),
            "ip neigh replace fe80::1 lladdr 02:00:00:00:00:01 dev mybr0 nud permanent",
        ),
        (moves.AddRoute(ROUTE), "ip route prepend default via 192.0.2.1 dev eth0 proto boot"),
        (moves.DelRoute(ROUTE), "ip route del default via 192.0.2.1 dev eth0 proto boot"),
        (
            moves.AddRoute(route("::/0", "fe80::1", proto=9)),
            "ip -6 route prepend default via fe80::1 dev eth0 proto ra metric 1024",
        ),
        (
            moves.AddRoute(route("10.0.0.0/8", "fe80::1", table=100, proto=4, flags=4)),
            "ip route prepend 10.0.0.0/8 via inet6 fe80::1 dev eth0 table 100 proto static onlink",
        ),
        (
            moves.DelRoute(
                route(
                    "192.0.2.0/24",
                    proto=2,
                    prefsrc=ip_address("192.0.2.10"),
                    priority=100,
                    metrics=(("RTAX_MTU", 1400), ("RTAX_ADVMSS", 1300)),
                )
            ),
            "ip route del 192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.10 metric 100"
            " mtu 1400 advmss 1300",
        ),
        (
            moves.AddRoute(route("10.0.0.0/8", dev="", scope=0, hops=HOPS, proto=99)),
            "ip route prepend 10.0.0.0/8 proto 99 nexthop via 192.0.2.1 dev eth0 weight 2"
            " nexthop via 192.0.2.2 dev eth1 weight 1 onlink",
        ),
        (
            moves.DelAddress(PEER),
            "ip addr del 192.0.2.10 peer 198.51.100.7/32 dev eth0",
        ),
        (
            moves.AddAddress(address("2001:db8::10/64", preferred=0)),
            "ip addr add 2001:db8::10/64 dev eth0 valid_lft forever preferred_lft 0 nodad",
        ),
        (
            moves.AddAddress(address("2001:db8::10/64", flags=0x100, valid=60, preferred=30)),
            "ip addr add 2001:db8::10/64 dev eth0 valid_lft 60 preferred_lft 30 mngtmpaddr nodad",
        ),
        (
            moves.AddRoute(route("2001:db8:7::/48", "fe80::1", tos=16, pref=1, expires=60)),
            "ip route prepend 2001:db8:7::/48 tos 0x10 via fe80::1 dev eth0 proto boot metric 1024"
            " expires 60 pref high",
        ),
        (
            moves.AddRoute(
                route(
                    "10.0.0.0/8",
                    "192.0.2.1",
                    metrics=(
                        ("RTAX_LOCK", 4),
                        ("RTAX_MTU", 1300),
                        ("RTAX_FEATURES", 1),
                        ("RTAX_RTO_MIN", 100),
                    ),
                )
            ),
            "ip route prepend 10.0.0.0/8 via 192.0.2.1 dev eth0 proto boot mtu lock 1300 features ecn rto_min 100ms",
        ),
        (
            moves.AddRoute(route("10.0.0.0/8", dev="", type=7, scope=0)),
            "ip route prepend unreachable 10.0.0.0/8 proto boot",
        ),
    ],
)
def test_a_step_prints_as_the_command_for_it(step: Step, command: str) -> None:
    assert str(step) == command


PAIRS: list[tuple[Step, Step | None]] = [
    (interfaces.AddBridge("mybr0", "52:54:00:77:00:03", 1400), interfaces.DelLink("mybr0")),
    (interfaces.DelLink("mybr0"), None),
    (interfaces.SetUp("mybr0"), None),
    (interfaces.SetAlias("eth0", "new", "old"), interfaces.SetAlias("eth0", "old", "new")),
    (interfaces.Enslave("eth0", "mybr0"), interfaces.Release("eth0", "mybr0")),
    (interfaces.AddPort("mybr0", "tw1", "tw2", 1400), interfaces.DelLink("tw1")),
    (interfaces.SetSysctl("key", "1", "0"), interfaces.SetSysctl("key", "0", "1")),
    (interfaces.SetSysctl("key", "1"), None),
    (moves.AddAddress(LEASED), moves.DelAddress(LEASED)),
    (moves.AddNeighbour(Neighbour("mybr0", ip_address("192.0.2.1"), "02:00:00:00:00:01")), None),
    (moves.AddRoute(ROUTE), moves.DelRoute(ROUTE)),
]


@pytest.mark.parametrize(("step", "inverse"), PAIRS)
def test_an_inverse(step: Step, inverse: Step | None) -> None:
    assert step.inverse() == inverse


BOTH_WAYS: list[type] = [
    interfaces.SetAlias,
    interfaces.SetMac,
    interfaces.SetMtu,
    interfaces.Enslave,
    interfaces.Release,
    interfaces.SetSysctl,
    interfaces.Divert,
]
BOTH_WAYS += [moves.AddAddress, moves.DelAddress, moves.AddRoute, moves.DelRoute]


@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_the_inverse_of_an_inverse_is_the_step(kind: type) -> None:
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))  # type: ignore[misc]
    @given(st.from_type(kind))  # type: ignore[misc]
    def leads_back(step: Step) -> None:
        inverse = step.inverse()
        if inverse is None:
            assert isinstance(step, interfaces.SetSysctl)
            assert step.before is None
        else:
            assert inverse.inverse() == step

    leads_back()


def test_undoing_is_the_inverses_last_first() -> None:
    steps: tuple[Step, ...] = (
        interfaces.AddBridge("mybr0", "52:54:00:77:00:03", 1500),
        interfaces.SetUp("mybr0"),
        moves.AddAddress(replace(ADDRESS, dev="mybr0")),
        interfaces.Enslave("eth0", "mybr0"),
        moves.DelRoute(ROUTE),
        moves.DelAddress(ADDRESS),
        interfaces.SetSysctl("key", "1", "0"),
        interfaces.SetSysctl("other", "1"),
    )
    assert undo(steps) == (
        interfaces.SetSysctl("key", "0", "1"),
        moves.AddAddress(ADDRESS),
        moves.AddRoute(ROUTE),
        interfaces.Release("eth0", "mybr0"),
        moves.DelAddress(replace(ADDRESS, dev="mybr0")),
        interfaces.DelLink("mybr0"),
    )
    assert undo(()) == ()
