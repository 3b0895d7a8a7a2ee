"""What the module of netlink says of the kernel, and does to it, held against `ip`."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path

import pytest

from terwayd.errors import KernelError
from terwayd.kernel.netlink import Netlink
from terwayd.kernel.requests import Requests, delete_link
from terwayd.kernel.sysctl import read_sysctls, write_sysctl
from terwayd.model import Address, Hop, Neighbour, Route
from tests.contract.isolated import LAN_MAC, MAC, PLAIN, check, ip, run, sysctl, until, wire

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces: needs root")


@contextmanager
def refused(number: int, *words: str) -> Iterator[None]:
    """The kernel refuses what is done within, and the error says so with these words."""
    with pytest.raises(KernelError) as caught:
        yield
    assert caught.value.errno == number
    for word in (*words, os.strerror(number) if number != errno.ENODEV else ""):
        assert word in caught.value.message


def links() -> None:
    wire(1400)
    ip(
        "link add br0 type bridge",
        "link add mv0 link eth0 type macvlan",
        "link set eth0 alias office",
        "tuntap add tun0 mode tun",
        "link add pair0 type veth peer name pair1",
        "link set pair0 master br0",
    )
    Path("/sys/class/net/eth0").exists()
    with Netlink() as netlink:
        assert netlink.link("nobody0") is None
        host = netlink.observe()
        assert {link.name for link in host.links} == {"lo", "eth0", "br0", "mv0", "tun0", "pair0", "pair1"}
        assert host.links == netlink.links()
        for link in host.links:
            assert netlink.link(link.name) == link
        by_name = {link.name: link for link in host.links}
        eth0, br0 = by_name["eth0"], by_name["br0"]
        assert (eth0.mac, eth0.mtu, eth0.kind, eth0.alias) == (MAC, 1400, "veth", "office")
        assert (eth0.up, eth0.carrier, eth0.loopback, eth0.master) == (True, True, False, 0)
        assert eth0.lower == 0, "its other end is in another namespace, where the number is another's"
        assert by_name["lo"].loopback
        assert (br0.kind, br0.up) == ("bridge", False)
        assert (by_name["mv0"].kind, by_name["mv0"].lower) == ("macvlan", eth0.index)
        assert (by_name["tun0"].kind, by_name["tun0"].mac) == ("tun", "")
        assert by_name["pair0"].master == br0.index
        assert by_name["pair1"].lower == by_name["pair0"].index
        assert not any(link.wireless for link in host.links)
        ip("link set lan0 down", netns="lan")
        down = netlink.link("eth0")
        assert down is not None
        assert (down.up, down.carrier) == (True, False)


def wireless() -> None:
    """Whatever has a directory `wireless` or `phy80211`."""
    ip("link add pair0 type veth peer name pair1")
    run("mount", "-t", "tmpfs", "tmpfs", "/sys/class/net")
    Path("/sys/class/net/lo/wireless").mkdir(parents=True)
    Path("/sys/class/net/pair0/phy80211").mkdir(parents=True)
    with Netlink() as netlink:
        assert {link.name for link in netlink.links() if link.wireless} == {"lo", "pair0"}


def addresses() -> None:
    wire()
    ip(
        "addr add 192.0.2.10/24 brd + dev eth0",
        "addr add 192.0.2.11/24 dev eth0 label eth0:a valid_lft 600 preferred_lft 300",
        "addr add 192.0.2.12 peer 198.51.100.1/30 dev eth0 scope link noprefixroute metric 7",
        "addr add 2001:db8::10/64 dev eth0 nodad preferred_lft 0",
        "addr add 2001:db8::11 peer 2001:db8:5::/64 dev eth0 nodad mngtmpaddr valid_lft 600 preferred_lft 300",
    )
    with Netlink() as netlink:
        found = {known.interface: known for known in netlink.observe().addresses_of("eth0")}
        assert found[IPv4Interface("192.0.2.10/24")] == Address(
            "eth0", IPv4Interface("192.0.2.10/24"), broadcast=IPv4Address("192.0.2.255"), label="eth0"
        )
        leased = found[IPv4Interface("192.0.2.11/24")]
        assert (leased.label, leased.flags & 1) == ("eth0:a", 1)
        assert 595 <= (leased.valid or 0) <= 600
        assert 295 <= (leased.preferred or 0) <= 300
        peer = found[IPv4Interface("192.0.2.12/30")]
        assert (peer.peer, peer.broadcast) == (IPv4Address("198.51.100.1"), None)
        assert (peer.scope, peer.flags & 0x200, peer.metric) == (253, 0x200, 7)
        old = found[IPv6Interface("2001:db8::10/64")]
        assert (old.valid, old.preferred, old.broadcast, old.label) == (None, 0, None, "")
        other = found[IPv6Interface("2001:db8::11/64")]
        assert (other.peer, other.flags & 0x100) == (IPv6Address("2001:db8:5::"), 0x100)
        assert found[IPv6Interface("fe80::5054:ff:fe00:a/64")].link_local

        before = run("ip", "addr", "show", "dev", "eth0")
        for known in found.values():
            netlink.add_address(known)  # it is there already
        assert same_addresses(run("ip", "addr", "show", "dev", "eth0")) == same_addresses(before)
        for known in found.values():
            netlink.delete_address(known)
            netlink.delete_address(known)  # it is gone already
        assert netlink.observe().addresses_of("eth0") == ()
        four, six = [[a for a in found.values() if a.interface.version == version] for version in (4, 6)]
        for known in [*four, *reversed(six)]:  # each one of IPv6 goes before the older ones
            netlink.add_address(known)
        assert same_addresses(run("ip", "addr", "show", "dev", "eth0")) == same_addresses(before)

        fresh = Address("eth0", IPv6Interface("2001:db8::99/64"))
        netlink.add_address(fresh)
        assert "tentative" not in run("ip", "addr", "show", "dev", "eth0")
        netlink.add_address(replace(fresh, valid=60, preferred=30))
        shown = run("ip", "addr", "show", "dev", "eth0")
        assert re.search(r"valid_lft (60|5\d)sec preferred_lft (30|2\d)sec", shown)
        nowhere = replace(fresh, dev="nobody0")
        netlink.delete_address(nowhere)
        with refused(errno.ENODEV, "nobody0"):
            netlink.add_address(nowhere)
        sysctl("net/ipv6/conf/eth0/disable_ipv6", "1")
        with refused(errno.EACCES, "ip addr add 2001:db8::99/64 dev eth0"):
            netlink.add_address(fresh)


def same_addresses(shown: str) -> list[str]:
    """But for the seconds, and for the flag that only tells how an address was added."""
    lines = [line.replace(" nodad", "") for line in shown.splitlines()]
    return [
        " ".join(word if not word.endswith("sec") or word == "0sec" else "SEC" for word in line.split())
        for line in lines
    ]


def routes() -> None:
    wire()
    ip(
        *PLAIN,
        "route add 10.1.0.0/16 via 192.0.2.2 table 4242 metric 7 proto 99 mtu 1400 initcwnd 20",
        "route add 10.2.0.0/16 via inet6 fe80::1 dev eth0",
        "route add 10.3.0.0/16 nexthop via 192.0.2.2 weight 3 nexthop via 198.51.100.1 dev eth0 onlink",
        "route add 10.4.0.0/16 via 192.0.2.2 tos 0x10 congctl reno",
        "route add blackhole 10.5.0.0/16",
        "-6 route add 2001:db8:7::/48 via fe80::1 dev eth0 expires 600 pref high",
        "nexthop add id 7 via 192.0.2.2 dev eth0",
        "route add 10.9.0.0/16 nhid 7",
    )
    with Netlink() as netlink:
        host = netlink.observe()
        found = {known.dst: known for known in host.routes if known.table != 255}
        via = IPv4Address("192.0.2.2")
        assert found[IPv4Network("10.1.0.0/16")] == Route(
            IPv4Network("10.1.0.0/16"),
            "eth0",
            via,
            table=4242,
            priority=7,
            proto=99,
            metrics=(("RTAX_MTU", 1400), ("RTAX_INITCWND", 20)),
        )
        assert found[IPv4Network("10.2.0.0/16")].gateway == IPv6Address("fe80::1")
        assert found[IPv4Network("10.3.0.0/16")].hops == (
            Hop("eth0", via, 3),
            Hop("eth0", IPv4Address("198.51.100.1"), 1, flags=4),
        )
        assert found[IPv4Network("10.4.0.0/16")].tos == 0x10
        assert [*map(list, found[IPv4Network("10.4.0.0/16")].metrics)] == [["RTAX_CC_ALGO", "reno"]]
        assert (found[IPv4Network("10.5.0.0/16")].type, found[IPv4Network("10.5.0.0/16")].dev) == (6, "")
        six = found[IPv6Network("2001:db8:7::/48")]
        assert (six.gateway, six.pref, six.priority) == (IPv6Address("fe80::1"), 1, 1024)
        assert 595 <= (six.expires or 0) <= 600
        assert found[IPv4Network("10.9.0.0/16")].foreign
        assert not [
            known for known in found.values() if known.foreign and known.dst != IPv4Network("10.9.0.0/16")
        ]
        assert host.gateways_of("eth0") == (IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))

        own = [
            known
            for known in found.values()
            if known.dev == "eth0" and not known.foreign and known.dst.prefixlen
        ]
        own += [known for known in found.values() if known.hops]
        before = shown_routes()
        for known in own:
            netlink.add_route(known)  # it is there already
        assert shown_routes() == before
        for known in reversed(own):
            netlink.delete_route(known)
            netlink.delete_route(known)  # it is gone already
        for known in sorted(own, key=lambda r: r.gateway is not None or bool(r.hops)):
            netlink.add_route(known)
        assert shown_routes() == before

        netlink.add_route(Route(IPv4Network("0.0.0.0/0"), "eth0", via))
        assert "via 192.0.2.2" in run("ip", "route", "get", "203.0.113.1"), "what is new is put in front"
        with refused(errno.ENETUNREACH, "ip route prepend 10.8.0.0/16 dev eth0"):
            netlink.add_route(Route(IPv4Network("10.8.0.0/16"), "eth0", IPv4Address("203.0.113.1")))
        with refused(errno.ENODEV, "nobody0"):
            netlink.add_route(Route(IPv4Network("10.8.0.0/16"), "nobody0"))
        netlink.delete_route(Route(IPv4Network("10.8.0.0/16"), "nobody0"))


def what_a_path_can_carry_is_no_route() -> None:
    """The kernel keeps the MTU of a path as a route of its own making, and lists it with the others."""
    wire()
    ip(*PLAIN)
    run("ip", "netns", "exec", "lan", "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    ip(
        "link add far0 mtu 1300 type veth peer name far1",
        "link set far0 up",
        "link set far1 up",
        "addr add 2001:db8:ff::1/64 dev far0 nodad",
        netns="lan",
    )
    with Netlink() as netlink:
        before = netlink.observe().routes
        big = ["ping", "-6", "-n", "-c1", "-W0.2", "-s1400", "2001:db8:ff::2"]
        until(
            lambda: "Packet too big"
            in subprocess.run(big, capture_output=True, text=True, check=False).stdout
        )
        assert "mtu 1300" in run("ip", "-6", "route", "show", "cache")
        assert netlink.observe().routes == before


def shown_routes() -> list[str]:
    text = run("ip", "-d", "route", "show", "table", "all") + run(
        "ip", "-6", "-d", "route", "show", "table", "all"
    )
    return re.sub(r"expires \d+sec|error -?\d+", "", text).splitlines()


def a_route_that_would_not_be_taken_any_more() -> None:
    """It is there already: that the kernel would refuse it by now does not matter."""
    wire()
    ip(
        *("addr add 192.0.2.10/24 dev eth0", "addr add 198.51.100.5/24 dev eth0"),
        *("route add 10.7.0.0/16 via 198.51.100.1", "addr del 198.51.100.5/24 dev eth0"),
    )
    with Netlink() as netlink:
        stale = next(known for known in netlink.observe().routes if known.dst == IPv4Network("10.7.0.0/16"))
        netlink.add_route(stale)
        netlink.delete_route(stale)
        with refused(errno.ENETUNREACH):
            netlink.add_route(stale)


def neighbours() -> None:
    wire()
    ip(
        *PLAIN,
        "neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent",
        "neigh add 192.0.2.78 lladdr 02:00:00:00:00:78 dev eth0 nud failed",
    )
    run("ping", "-c1", "-W1", "192.0.2.1")
    with Netlink() as netlink:
        known = {entry.ip: entry for entry in netlink.observe().neighbours if entry.dev == "eth0"}
        assert known[IPv4Address("192.0.2.1")] == Neighbour("eth0", IPv4Address("192.0.2.1"), LAN_MAC)
        assert known[IPv4Address("192.0.2.77")].permanent
        assert IPv4Address("192.0.2.78") not in known
        netlink.add_neighbour(Neighbour("eth0", IPv6Address("2001:db8::7"), "02:00:00:00:00:07"))
        netlink.add_neighbour(
            Neighbour("eth0", IPv4Address("192.0.2.77"), "02:00:00:00:00:07", permanent=True)
        )
        shown = run("ip", "neigh")
        assert "2001:db8::7 dev eth0 lladdr 02:00:00:00:00:07 STALE" in shown
        assert "192.0.2.77 dev eth0 lladdr 02:00:00:00:00:07 PERMANENT" in shown
        with refused(errno.ENODEV, "nobody0"):
            netlink.add_neighbour(Neighbour("nobody0", IPv4Address("192.0.2.77"), "02:00:00:00:00:07"))


def asked_for_its_port_while_it_sends() -> None:
    """By another thread: the kernel gives a socket that has no port yet one for its first request."""
    wire()
    sys.setswitchinterval(1e-6)
    for _ in range(2000):
        asking, go = Requests(), threading.Event()
        thread = threading.Thread(target=send_then, args=(asking, go))
        thread.start()
        go.set()
        assert asking.port_id
        thread.join()
        asking.close()


def send_then(asking: Requests, go: threading.Event) -> None:
    go.wait()
    asking.send(delete_link("nobody0"))


def bridges_and_pods() -> None:
    wire()
    run("ip", "netns", "add", "pod")
    with Netlink() as netlink, Path("/run/netns/pod").open() as pod:
        for _ in range(2):  # the second time it is there
            netlink.add_bridge("mybr0", "02:00:00:00:00:aa", 1400)
        bridge = netlink.link("mybr0")
        assert bridge is not None
        assert (bridge.mac, bridge.mtu, bridge.kind) == ("02:00:00:00:00:aa", 1400, "bridge")
        shown = run("ip", "-d", "link", "show", "mybr0")
        assert "forward_delay 0 " in shown
        assert "stp_state 0 " in shown
        assert "mcast_snooping 0 " in shown
        netlink.set_link("mybr0", state="up")
        netlink.set_link("eth0", master=bridge.index)
        assert run("ip", "link", "show", "mybr0").count("02:00:00:00:00:aa") == 1, (
            "a port does not change its MAC"
        )
        ip(
            "link add low0 mtu 1300 type veth peer name low1",
            "link set low0 master mybr0",
            "link set low0 mtu 1280",
        )
        assert " mtu 1400 " in run("ip", "link", "show", "mybr0"), "nor its MTU"
        ip("link del low0")

        def veth(name: str, peer: str) -> None:
            netlink.add_veth(
                name,
                peer,
                netns=pod.fileno(),
                mac="02:00:00:00:00:01",
                peer_mac="02:00:00:00:00:02",
                mtu=1400,
            )

        veth("tw0", "eth0")
        assert "state DOWN" in run("ip", "link", "show", "tw0")
        for _ in range(2):  # the second time it is there
            netlink.join("tw0", bridge.index, alias="default/web-0", station="02:00:00:00:00:02")
        host_end = netlink.link("tw0")
        assert host_end is not None
        assert (host_end.mac, host_end.mtu, host_end.master) == ("02:00:00:00:00:01", 1400, bridge.index)
        assert (host_end.up, host_end.alias) == (True, "default/web-0")
        assert "02:00:00:00:00:02 sticky master mybr0 static" in run("bridge", "fdb", "show", "dev", "tw0")
        inside = run("ip", "-n", "pod", "link", "show", "eth0")
        assert "02:00:00:00:00:02" in inside
        assert "mtu 1400" in inside
        with refused(errno.EEXIST, "ip link add tw0 type veth peer other"):
            veth("tw0", "other")
        with refused(errno.EEXIST, "ip link add tw1 type veth peer eth0"):
            veth("tw1", "eth0")
        assert netlink.link("tw1") is None
        assert "02:00:00:00:00:02" in run("ip", "-n", "pod", "link", "show", "eth0")
        for _ in range(2):
            netlink.delete_link("tw0")
        assert "eth0" not in run("ip", "-n", "pod", "link")
        with refused(errno.ENODEV, "there is no interface tw0"):
            netlink.join("tw0", bridge.index, alias="default/web-0", station="02:00:00:00:00:02")
        netlink.set_link("eth0", master=0)
        for _ in range(2):
            netlink.delete_link("mybr0")
        with refused(errno.ENODEV, "there is no interface mybr0"):
            netlink.set_link("mybr0", state="up")
        with refused(errno.EINVAL, "ip link set eth0 mtu 1"):
            netlink.set_link("eth0", mtu=1)


def sysctls() -> None:
    wire()
    keys = ("net/ipv4/conf/{}/rp_filter", "net/ipv6/conf/{}/disable_ipv6", "net/ipv4/conf/{}/no_such_key")
    sysctl("net/ipv4/conf/eth0/rp_filter", "1")
    assert read_sysctls(keys, "eth0", "nobody0") == {
        "net/ipv4/conf/eth0/rp_filter": "1",
        "net/ipv6/conf/eth0/disable_ipv6": "0",
    }
    write_sysctl("net/ipv4/conf/eth0/rp_filter", "2")
    assert Path("/proc/sys/net/ipv4/conf/eth0/rp_filter").read_text() == "2\n"
    write_sysctl("net/ipv4/conf/eth0/no_such_key", "2")
    write_sysctl("net/ipv4/conf/nobody0/rp_filter", "2")
    with refused(errno.EINVAL, "sysctl -w net/ipv4/conf/eth0/rp_filter=x"):
        write_sysctl("net/ipv4/conf/eth0/rp_filter", "x")


@pytest.mark.parametrize(
    "what",
    [
        *("links", "wireless", "addresses", "routes", "a_route_that_would_not_be_taken_any_more"),
        *("neighbours", "bridges_and_pods", "sysctls", "what_a_path_can_carry_is_no_route"),
        "asked_for_its_port_while_it_sends",
    ],
)
def test_netlink(what: str) -> None:
    check("tests.contract.test_netlink", what)
