"""Which NIC is chosen, and that each NIC which must not be is refused by the name of the setting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from terwayd.errors import HostError, Refused
from terwayd.host.uplink import find_uplink, uplink_alias
from terwayd.model import Hop, Host, Link
from tests.core.hosts import ETH0, ETH1, LO, address, host, route

BRIDGE = Link(7, "mybr0", ETH0.mac, 1500, kind="bridge", up=True)
OTHER = Link(8, "br0", "02:00:00:00:00:08", 1500, kind="bridge", up=True)
TWO = host(links=(LO, ETH0, ETH1))


def with_routes(*routes: Any) -> Host:
    return replace(TWO, routes=routes)


def auto(there: Host) -> str:
    return find_uplink(there, "auto", "mybr0").name


def test_auto_is_the_nic_of_the_default_route() -> None:
    assert auto(with_routes(route("default", "198.51.100.1", "eth1"))) == "eth1"


@pytest.mark.parametrize(
    ("routes", "chosen"),
    [
        (
            [
                route("default", "1.1.1.1", "eth0", priority=200),
                route("default", "1.1.1.2", "eth1", priority=100),
            ],
            "eth1",
        ),
        ([route("default", "1.1.1.1", "eth0", priority=100), route("default", "1.1.1.2", "eth1")], "eth1"),
        ([route("::/0", "fe80::1", "eth0"), route("default", "1.1.1.2", "eth1", priority=9999)], "eth1"),
        ([route("::/0", "fe80::1", "eth1")], "eth1"),
        ([route("default", "1.1.1.1", "eth0", table=100), route("default", "1.1.1.2", "eth1")], "eth1"),
        ([route("10.0.0.0/8", "1.1.1.1", "eth0"), route("default", "1.1.1.2", "eth1")], "eth1"),
        ([route("default", dev="", type=7), route("default", "1.1.1.2", "eth1", priority=5)], "eth1"),
        ([route("default", dev="", hops=(Hop("eth1"), Hop("eth0")))], "eth1"),
        ([route("default", "1.1.1.1", "gone0"), route("default", "1.1.1.2", "eth1", priority=5)], "eth1"),
    ],
)
def test_the_default_route_that_wins(routes: list[Any], chosen: str) -> None:
    assert auto(with_routes(*routes)) == chosen


def test_auto_without_a_default_route_waits_for_one() -> None:
    for routes in ((), (route("10.0.0.0/8", "192.0.2.1"),), (route("default", "192.0.2.1", table=100),)):
        with pytest.raises(
            HostError, match=r'^host\.uplink = "auto": this host has no default route'
        ) as caught:
            auto(with_routes(*routes))
        assert not isinstance(caught.value, Refused), "the network may come yet"
        assert "host.uplink in /etc/terway.toml" in caught.value.hint


def test_behind_our_bridge_auto_is_the_nic_below() -> None:
    pod = Link(9, "tw0123456789ab", "02:00:00:00:00:09", 1500, kind="veth", master=7, alias="default/web-0")
    for alias in ("", uplink_alias("mybr0")):
        nic = replace(ETH1, master=7, alias=alias)
        there = host(links=(LO, ETH0, nic, BRIDGE, pod), routes=(route("default", "192.0.2.1", "mybr0"),))
        assert auto(there) == "eth1"


def test_behind_our_bridge_a_veth_nic_is_known_by_its_mark() -> None:
    nic = replace(ETH1, kind="veth", master=7, alias=uplink_alias("mybr0"))
    pod = Link(9, "tw0123456789ab", "02:00:00:00:00:09", 1500, kind="veth", master=7, alias="default/web-0")
    default = route("default", "192.0.2.1", "mybr0")
    assert auto(host(links=(LO, ETH0, nic, BRIDGE, pod), routes=(default,))) == "eth1"
    with pytest.raises(HostError):
        auto(host(links=(LO, ETH0, BRIDGE, pod), routes=(default,)))


def test_a_name_is_taken_at_its_word() -> None:
    assert find_uplink(TWO, "eth1", "mybr0") is ETH1
    assert find_uplink(host(links=(LO, replace(ETH0, kind="veth"))), "eth0", "mybr0").kind == "veth"
    under = replace(ETH0, master=7)
    assert find_uplink(host(links=(LO, under, BRIDGE)), "eth0", "mybr0") == under


def test_a_name_that_is_none_is_told_with_those_there_are() -> None:
    with pytest.raises(
        HostError, match=r"^host\.uplink: there is no interface 'eth7' on this host"
    ) as caught:
        find_uplink(host(links=(LO, ETH0, ETH1, BRIDGE)), "eth7", "mybr0")
    assert not isinstance(caught.value, Refused), "it may come yet"
    assert "eth0, eth1" in caught.value.hint
    assert "lo" not in caught.value.hint.replace("to one of", "").split()
    assert "mybr0" not in caught.value.hint
    with pytest.raises(HostError) as caught:
        find_uplink(host(links=(LO,)), "eth7", "mybr0")
    assert "none found" in caught.value.hint


LEASED = address("192.0.2.10/24", valid=600, preferred=600)
MACVLAN = Link(5, "macvlan0", "02:00:00:00:00:05", 1500, kind="macvlan", lower=2)
VLAN = Link(6, "eth0.7", ETH0.mac, 1500, kind="vlan", lower=2)
BOND = Link(4, "bond0", "02:00:00:00:00:04", 1500, kind="bond", up=True)


@pytest.mark.parametrize(
    ("wanted", "there", "reason"),
    [
        ("lo", host(), "lo is the loopback interface"),
        ("eth0", host(links=(LO, replace(ETH0, wireless=True))), "eth0 is wireless"),
        ("br0", host(links=(LO, ETH0, OTHER)), "br0 is a bridge itself"),
        ("mybr0", host(links=(LO, ETH0, BRIDGE)), "mybr0 is a bridge itself"),
        (
            "eth0",
            host(links=(LO, replace(ETH0, master=8), OTHER)),
            "eth0 is a port of the bridge br0 already",
        ),
        ("eth0", host(links=(LO, replace(ETH0, master=4), BOND)), "eth0 is under the bond bond0 already"),
        ("eth0", host(links=(LO, ETH0, VLAN)), "eth0 carries eth0.7, which would fall silent"),
        ("eth0", host(links=(LO, ETH0, VLAN, MACVLAN)), "eth0 carries eth0.7, macvlan0"),
        ("eth0", host(addresses=(LEASED,)), "eth0 has the leased address 192.0.2.10/24"),
    ],
)
def test_what_must_not_be_taken_is_refused(wanted: str, there: Host, reason: str) -> None:
    by_route = replace(there, routes=(route("default", "192.0.2.1", wanted),))
    ways = [(there, wanted)]
    if wanted != "mybr0":  # the way out of our own bridge is the NIC below it
        ways.append((by_route, "auto"))
    for host_, named in ways:
        with pytest.raises(Refused) as caught:
            find_uplink(host_, named, "mybr0")
        assert caught.value.message.startswith(f"host.uplink: {reason}")
        assert caught.value.hint
        assert caught.value.cni_code == 50


def test_what_is_no_reason_to_refuse() -> None:
    slaac = address("2001:db8::5/64", valid=600, preferred=300)
    pod = Link(9, "veth0", "02:00:00:00:00:09", 1500, kind="veth", lower=2)
    there = host(links=(LO, ETH0, pod, replace(VLAN, lower=3)), addresses=(slaac,))
    assert find_uplink(there, "eth0", "mybr0") is ETH0


@pytest.mark.parametrize("kind", ["tun", "wireguard", "ipip", "ppp"])
def test_what_carries_no_ethernet_is_refused(kind: str) -> None:
    there = host(
        links=(LO, Link(3, "wg0", "", 1420, kind=kind, up=True)), routes=(route("default", dev="wg0"),)
    )
    for wanted in ("auto", "wg0"):
        with pytest.raises(Refused, match=r"^host\.uplink: wg0 "):
            find_uplink(there, wanted, "mybr0")
