"""The plan of a takeover: what is done, in which order, and what is refused."""

from __future__ import annotations

import itertools
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from terwayd.errors import Refused
from terwayd.host import interfaces, moves
from terwayd.host.plan import Plan, plan
from terwayd.host.steps import Step, undo
from terwayd.model import Address, Hop, Host, Neighbour, Route
from tests.core.hosts import ETH0, ETH1, LO, MAC, address, connected, host, route

GOLDEN = f"""
ip link add mybr0 address {MAC} mtu 1501 type bridge stp_state 0 forward_delay 0 mcast_snooping 0; ip link set mybr0 mtu 1500
sysctl -w net/ipv4/conf/mybr0/rp_filter=0
sysctl -w net/ipv6/conf/mybr0/addr_gen_mode=1
sysctl -w net/ipv6/conf/eth0/addr_gen_mode=1
ip link set mybr0 up
ip link add twdhcp mtu 1500 type veth peer name twdhcp0 mtu 1500; sysctl -qw net/ipv6/conf/twdhcp/disable_ipv6=1; sysctl -qw net/ipv6/conf/twdhcp0/disable_ipv6=1; ip link set twdhcp master mybr0 up; bridge link set dev twdhcp learning off isolated on; ip link set twdhcp0 up
ip addr add 192.0.2.10/24 brd 192.0.2.255 dev mybr0 label mybr0:1 noprefixroute
ip addr add 192.0.2.11/24 brd 192.0.2.255 dev mybr0 noprefixroute
ip addr add fe80::10/64 dev mybr0 scope link noprefixroute nodad
ip addr add 2001:db8::10/64 dev mybr0 noprefixroute nodad
ip neigh replace 192.0.2.1 lladdr 02:00:00:00:00:01 dev mybr0 nud stale
ip neigh replace fe80::1 lladdr 02:00:00:00:00:01 dev mybr0 nud permanent
ip link set eth0 alias 'terwayd uplink of mybr0'
nft 'table netdev terwayd {{ chain divert {{ type filter hook ingress device eth0 priority -500; fwd to twdhcp0; }}; }}; \
table bridge terwayd_divert {{ chain keep {{ type filter hook forward priority -500; iifname twdhcp oifname eth0 drop; }}; }}'
ip link set eth0 master mybr0; bridge link set dev eth0 isolated on
nft 'add table netdev terwayd; delete table netdev terwayd; add table bridge terwayd_divert; delete table bridge terwayd_divert'
ip route prepend fe80::/64 dev mybr0 proto kernel metric 256
ip route prepend 2001:db8::/64 dev mybr0 proto kernel metric 256
ip route prepend 192.0.2.0/24 dev mybr0 proto kernel scope link src 192.0.2.10
ip route prepend 10.9.0.0/16 via 192.0.2.2 dev mybr0 table 100 proto static
ip -6 route prepend default via fe80::1 dev mybr0 proto boot metric 1024
ip route prepend default via 192.0.2.1 dev mybr0 proto boot
ip route del default via 192.0.2.1 dev eth0 proto boot
ip -6 route del default via fe80::1 dev eth0 proto boot metric 1024
ip route del 10.9.0.0/16 via 192.0.2.2 dev eth0 table 100 proto static
ip route del 192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.10
ip route del 2001:db8::/64 dev eth0 proto kernel metric 256
ip route del fe80::/64 dev eth0 proto kernel metric 256
ip addr del 2001:db8::10/64 dev eth0
ip addr del fe80::10/64 dev eth0
ip addr del 192.0.2.11/24 dev eth0
ip addr del 192.0.2.10/24 dev eth0
sysctl -w net/ipv6/conf/eth0/disable_ipv6=1
"""


def usual() -> Host:
    """What GOLDEN is the plan for."""
    there = host()
    labelled = replace(there.addresses[1], label="eth0:1")
    second = address("192.0.2.11/24", flags=0x81)
    table = route("10.9.0.0/16", "192.0.2.2", table=100, proto=4)
    return replace(
        there,
        addresses=(there.addresses[0], labelled, second, *there.addresses[2:]),
        routes=(*there.routes, table),
    )


def planned(there: Host) -> Plan:
    return plan(there, ETH0, "mybr0")


def commands(made: Plan) -> list[str]:
    return [str(step) for step in made.steps]


def places(made: Plan, kind: type | tuple[type, ...], dev: str = "") -> list[int]:
    """Where the steps of a kind stand, of those that are about `dev`."""

    def about(step: Step) -> bool:
        thing = getattr(step, "address", None) or getattr(step, "route", None) or step
        names = {getattr(thing, "dev", ""), *(hop.dev for hop in getattr(thing, "hops", ()))}
        return not dev or dev in names

    return [at for at, step in enumerate(made.steps) if isinstance(step, kind) and about(step)]


def ordered(*groups: list[int]) -> bool:
    """Whether all of each group comes before all of the next."""
    filled = [group for group in groups if group]
    return all(max(one) < min(other) for one, other in itertools.pairwise(filled))


def test_the_golden_plan() -> None:
    made = planned(usual())
    assert commands(made) == GOLDEN.strip().splitlines()
    assert (made.uplink, made.bridge, made.warnings) == ("eth0", "mybr0", ())


def assert_in_order(made: Plan) -> None:
    """What keeps the host reachable."""
    bridge, nic = made.bridge, made.uplink
    assert isinstance(made.steps[0], interfaces.AddBridge)
    enslaved = places(made, interfaces.Enslave)
    assert len(enslaved) == 1
    before = places(made, (moves.AddAddress, moves.AddNeighbour), bridge)
    assert ordered(places(made, interfaces.AddBridge), places(made, interfaces.SetUp), before)
    added, deleted = places(made, moves.AddRoute, bridge), places(made, moves.DelRoute, nic)
    assert ordered(before, enslaved, added, deleted, places(made, moves.DelAddress, nic))
    assert ordered(
        places(made, interfaces.AddPort),
        places(made, interfaces.Divert),
        enslaved,
        places(made, interfaces.EndDivert),
        added,
    )
    assert not places(made, (moves.AddAddress, moves.AddNeighbour, moves.AddRoute), nic), (
        "nothing new is put on the NIC"
    )
    assert not places(made, (moves.DelAddress, moves.DelRoute), bridge), "nothing of the bridge is taken away"


def assert_palindrome(made: Plan) -> None:
    """The way back gives the NIC everything before it leaves the bridge, and the bridge goes last."""
    back = Plan(made.uplink, made.bridge, undo(made.steps))
    nic = places(back, (moves.AddAddress, moves.AddRoute), made.uplink)
    gone = places(back, (moves.DelRoute, moves.DelAddress), made.bridge)
    released = places(back, interfaces.Release)
    assert ordered(nic, places(back, moves.DelRoute, made.bridge), released)
    assert ordered(places(back, interfaces.Divert), released, places(back, interfaces.EndDivert))
    assert ordered(released, places(back, moves.DelAddress, made.bridge))
    assert isinstance(back.steps[-1], interfaces.DelLink)
    assert len(gone) == len(nic)
    order = [step.inverse() for step in reversed(back.steps)]
    assert [step for step in order if step in made.steps] == [
        step
        for step in made.steps
        if step.inverse() is not None and not isinstance(step, interfaces.AddBridge | interfaces.AddPort)
    ]


def test_the_usual_plan_is_in_order() -> None:
    assert_in_order(planned(usual()))
    assert_palindrome(planned(usual()))


NETS = [f"10.{number}.0.0/16" for number in range(9)] + ["2001:db8:1::/48", "::/0", "0.0.0.0/0"]
ADDRESSES = st.sampled_from([f"192.0.2.{n}/24" for n in range(2, 9)] + ["2001:db8::2/64", "fe80::2/64"])
VIAS = st.sampled_from(["", "192.0.2.1", "fe80::1"])
MADE = st.builds(
    lambda addresses, nets, vias, neighbours: host(
        addresses=tuple(address(text) for text in addresses),
        routes=tuple(
            route(net, via if (":" in via) == (":" in net) else "", table=254 if n % 2 else 100)
            for n, (net, via) in enumerate(zip(nets, vias, strict=True))
        ),
        neighbours=tuple(Neighbour("eth0", ip_address(ip), MAC) for ip in neighbours),
    ),
    st.lists(ADDRESSES, unique=True, max_size=5),
    st.lists(st.sampled_from(NETS), min_size=6, max_size=6),
    st.lists(VIAS, min_size=6, max_size=6),
    st.lists(st.sampled_from(["192.0.2.1", "fe80::1"]), unique=True),
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])  # type: ignore[misc]
@given(MADE)  # type: ignore[misc]
def test_any_plan_is_in_order_and_moves_all(there: Host) -> None:
    made = planned(there)
    assert_in_order(made)
    assert_palindrome(made)
    assert set(deleted_addresses(made)) == set(there.addresses)
    gone = deleted_routes(made)
    come = added_routes(made)
    assert sorted(map(str, gone)) == sorted(map(str, there.routes))
    assert come == [replace(old, dev="mybr0") for old in reversed(gone)]
    direct = [old.gateway is None for old in come]
    assert direct == sorted(direct, reverse=True), "a gateway is found by the routes without one"


def added_addresses(made: Plan) -> list[Address]:
    return [step.address for step in made.steps if isinstance(step, moves.AddAddress)]


def deleted_addresses(made: Plan) -> list[Address]:
    return [step.address for step in made.steps if isinstance(step, moves.DelAddress)]


def added_routes(made: Plan) -> list[Route]:
    return [step.route for step in made.steps if isinstance(step, moves.AddRoute)]


def deleted_routes(made: Plan) -> list[Route]:
    return [step.route for step in made.steps if isinstance(step, moves.DelRoute)]


def test_what_is_not_the_nics_stays() -> None:
    there = host(links=(LO, ETH0, ETH1))
    more = replace(
        there,
        addresses=(*there.addresses, address("198.51.100.1/24", "eth1")),
        routes=(*there.routes, connected("198.51.100.0/24", "198.51.100.1", "eth1")),
        neighbours=(*there.neighbours, Neighbour("eth1", ip_address("198.51.100.2"), MAC)),
    )
    assert planned(more) == planned(there)


def test_the_local_table_is_the_kernels() -> None:
    moved = added_routes(planned(host()))
    assert moved
    assert {old.table for old in moved} == {254}


def test_a_multipath_route_moves_with_its_other_leg() -> None:
    hops = (Hop("eth0", ip_address("192.0.2.1"), 2), Hop("eth1", ip_address("198.51.100.1"), 1))
    both = route("0.0.0.0/0", dev="", hops=hops, scope=0)
    made = planned(host(links=(LO, ETH0, ETH1), routes=(both,)))
    assert deleted_routes(made) == [both]
    assert added_routes(made) == [replace(both, hops=(replace(hops[0], dev="mybr0"), hops[1]))]


def test_an_address_keeps_what_it_says() -> None:
    peer = address("192.0.2.10/32", peer=ip_address("198.51.100.7"), broadcast=None, scope=200)
    slaac = address("2001:db8::5/64", flags=0x100, valid=600, preferred=300)
    metric = address("192.0.2.12/24", metric=50)
    made = planned(host(addresses=(peer, slaac, metric), routes=()))
    assert added_addresses(made) == [
        replace(peer, dev="mybr0", label="mybr0", flags=peer.flags | 0x200),
        replace(metric, dev="mybr0", label="mybr0", flags=metric.flags | 0x200, metric=0),
        replace(slaac, dev="mybr0", flags=0x300),
    ]
    assert deleted_addresses(made) == [slaac, metric, peer]


def test_the_order_of_what_is_equal_stays() -> None:
    """The kernel prefers the first of equal routes, and of IPv6 addresses; it puts what is new before them."""
    first, second = address("2001:db8::11/64"), address("2001:db8::10/64")  # as `ip addr` shows them
    best, other = route("default", "192.0.2.1"), route("default", "192.0.2.2")
    made = planned(host(addresses=(first, second), routes=(best, other)))
    assert [new.interface for new in added_addresses(made)] == [second.interface, first.interface]
    assert [new.gateway for new in added_routes(made)] == [other.gateway, best.gateway]
    back = Plan("eth0", "mybr0", undo(made.steps))
    assert added_addresses(back) == [second, first]
    assert added_routes(back) == [other, best]


def test_a_label_that_does_not_fit_is_left_out() -> None:
    long = address("192.0.2.10/24", label="eth0:web-server")
    foreign = address("192.0.2.11/24", label="web")
    made = planned(host(addresses=(long, foreign), routes=()))
    assert [new.label for new in added_addresses(made)] == ["", ""]
    assert [old.label for old in deleted_addresses(made)] == ["web", "eth0:web-server"]


def test_a_temporary_address_is_told_and_left() -> None:
    temporary = address("2001:db8::77/64", flags=0x01, valid=600, preferred=300)
    second = address("192.0.2.11/24", flags=0x81)  # the same bit means secondary for IPv4
    made = planned(host(addresses=(temporary, second), routes=()))
    assert [new.interface for new in added_addresses(made)] == [second.interface]
    assert len(made.warnings) == 1
    assert made.warnings[0].startswith("2001:db8::77/64 is a temporary address")


def test_without_ipv6_nothing_of_ipv6_is_touched() -> None:
    for value in ("1", None):
        sysctls = {key: text for key, text in host().sysctls.items() if "ipv6" not in key}
        if value is not None:
            sysctls |= {"net/ipv6/conf/eth0/disable_ipv6": value, "net/ipv6/conf/default/disable_ipv6": value}
        made = planned(host(addresses=(address("192.0.2.10/24"),), routes=(), sysctls=sysctls))
        lines = [str(step) for step in made.steps if not isinstance(step, interfaces.AddPort)]
        assert not [line for line in lines if "ipv6" in line or "-6" in line]


def test_ipv6_off_on_the_nic_alone_is_off_on_the_bridge() -> None:
    sysctls = {**host().sysctls, "net/ipv6/conf/eth0/disable_ipv6": "1"}
    lines = commands(planned(host(addresses=(), routes=(), sysctls=sysctls)))
    assert "sysctl -w net/ipv6/conf/mybr0/disable_ipv6=1" in lines
    assert not [line for line in lines if "conf/eth0" in line]


def test_settings_of_the_nic_hold_on_the_bridge_before_it_is_up() -> None:
    made = planned(host(sysctls={**host().sysctls, "net/ipv6/conf/eth0/accept_ra": "2"}))
    set_ = [
        at for at, line in enumerate(commands(made)) if line.startswith("sysctl -w net/") and "mybr0" in line
    ]
    assert "sysctl -w net/ipv6/conf/mybr0/accept_ra=2" in commands(made)
    assert ordered(set_, places(made, interfaces.SetUp))


def test_the_mtu_is_the_nics() -> None:
    made = plan(host(links=(LO, ETH0, ETH1)), ETH1, "br-lan")
    assert made.steps[0] == interfaces.AddBridge("br-lan", ETH1.mac, 9000)


def test_a_host_without_a_gateway_or_an_address() -> None:
    for there in (host(routes=()), host(addresses=(), routes=(), neighbours=())):
        assert_in_order(planned(there))
        assert_palindrome(planned(there))


def test_a_bridge_of_someone_else_is_refused() -> None:
    with pytest.raises(Refused, match=r"host\.bridge: there is an interface mybr0 already") as caught:
        planned(host(links=(LO, ETH0, replace(ETH1, name="mybr0", kind="bridge"))))
    assert "ip link del mybr0" in caught.value.hint


def test_a_nexthop_object_is_refused() -> None:
    with pytest.raises(Refused, match=r"the route 10\.0\.0\.0/8 has a nexthop object") as caught:
        planned(host(routes=(route("10.0.0.0/8", foreign=("a nexthop object",)),)))
    assert "host.uplink" in caught.value.hint
