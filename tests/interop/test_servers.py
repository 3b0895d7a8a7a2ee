"""One pod's whole life with each server, as the wire shows it: leased, renewed, rebound, refused, released."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from tests.interop.capture import Capture, Seen
from tests.interop.servers import SERVERS, Dnsmasq, Kea, Range, Server, Udhcpd, installed
from tests.lab import Lan, Node, ShimError, eventually

pytestmark = pytest.mark.interop


@pytest.fixture(params=SERVERS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> type[Server]:
    found: type[Server] = request.param
    if not installed(found):
        pytest.fail(f"{found.program} is not installed", pytrace=False)
    return found


@pytest.fixture
def bare() -> Iterator[Lan]:
    with Lan(dhcp=None) as lan:
        yield lan


def ready(lan: Lan, config: str = "") -> Node:
    node = lan.node("n1", config)
    node.start_daemon().wait_ready()
    return node


def number(address: object) -> int:
    return int(str(address).rpartition(".")[2])


def at_least(wire: Capture, count: int, kind: str, mac: str, seconds: float) -> list[Seen]:
    return eventually(
        lambda: found if len(found := wire.dhcp(kind, mac)) >= count else [],
        seconds,
        f"{count} {kind} on the wire",
        0.1,
    )


def kinds(wire: Capture, mac: str) -> list[str]:
    """The kinds of messages in the order of the first of each: a slow answer has some sent again."""
    return list(dict.fromkeys(one.kind for one in wire.dhcp(mac=mac)))


def test_leased_renewed_and_released(bare: Lan, kind: type[Server]) -> None:
    node, server = ready(bare), kind(bare.gateway)
    server.start()
    pod = node.pod("web-0")
    with Capture(bare.gateway) as wire:
        pod.add()
        mac = pod.mac
        assert 100 <= number(pod.address) <= 200
        assert bare.host.ping(pod.address)
        request, *_ = eventually(
            lambda: [one for one in wire.dhcp("REQUEST", mac) if int(one.ciaddr)], 9.0, "a renewal", 0.1
        )
        acks = at_least(wire, 2, "ACK", mac, 9.0)
        assert request.ciaddr == request.source == pod.address
        assert request.destination == IPv4Address(bare.gateway_ip)
        assert not request.to_all, "a renewal goes to the server alone"
        assert not {50, 54} & set(request.options)
        assert request.options[61] == wire.dhcp("DISCOVER", pod.mac)[0].options[61]
        assert {ack.yiaddr for ack in acks} == {pod.address}
        address = pod.address
        pod.delete()
        (release,) = at_least(wire, 1, "RELEASE", mac, 2.0)
        assert release.ciaddr == release.source == address
        assert release.options[54] == IPv4Address(bare.gateway_ip).packed
        assert kinds(wire, mac) == ["DISCOVER", "OFFER", "REQUEST", "ACK", "RELEASE"]
        assert not wire.dhcp("NAK")


def test_rebound_when_the_server_has_another_address(bare: Lan, kind: type[Server]) -> None:
    node, server = ready(bare), kind(bare.gateway)
    server.start()
    pod = node.pod("web-0")
    with Capture(bare.gateway) as wire:
        pod.add()
        address = pod.address
        server.stop()
        bare.gateway.ip("addr del 192.168.77.1/24 dev eth0", "addr add 192.168.77.3/24 dev eth0")
        server.start()
        eventually(lambda: node.api("Leases")["leases"][0]["server"] == "192.168.77.3", 15.0, "rebound", 0.1)
        requests = wire.dhcp("REQUEST", pod.mac)
        assert any(one.to_all and one.ciaddr == address for one in requests), "a REQUEST to all servers"
        assert len({one.xid for one in wire.dhcp("DISCOVER", pod.mac)}) == 1, "without asking for a new lease"
        assert pod.address == address


def test_refused_after_the_range_moved(bare: Lan, kind: type[Server]) -> None:
    node, server = ready(bare), kind(bare.gateway)
    server.start()
    pod = node.pod("web-0")
    with Capture(bare.gateway) as wire:
        pod.add()
        server.stop()
        server.forget()
        server.start(first="192.168.77.30", last="192.168.77.40")
        eventually(lambda: 30 <= number(pod.address) <= 40, 15.0, "an address of the new range", 0.1)
        # The others say nothing to a renewal of what they do not know: there the lease ends first.
        assert bool(wire.dhcp("NAK", pod.mac)) == (kind.name == "dnsmasq")
    assert bare.host.ping(pod.address)


def test_declined_when_somebody_has_the_address(bare: Lan, kind: type[Server]) -> None:
    node, server = ready(bare, '[dhcp]\nconflict_detection = "fast"\n'), kind(bare.gateway)
    server.start(first="192.168.77.100", last="192.168.77.103", seconds=600)
    pod = node.pod("web-0")
    with Capture(bare.gateway) as wire:
        pod.add()
        probes = [one for one in wire.arp(pod.mac) if not int(one.sender)]
        assert [one.target for one in probes] == [pod.address] * 3
        assert probes[2].at - probes[0].at < 1.0
        assert pod.seconds > 0.35
        taken, mac = pod.address, pod.mac
        pod.delete()
        if kind is Kea:  # it goes round its range; the others give a client what it had
            server.stop()
            server.forget()
            server.start(first=str(taken))
        squatter = bare.machine("squatter", number(taken))
        pod.add()
        (declined,) = at_least(wire, 1, "DECLINE", mac, 2.0)
        assert declined.options[50] == taken.packed
        assert pod.address != taken
        discover = [one for one in wire.dhcp("DISCOVER", mac) if one.at > declined.at]
        assert discover[0].at - declined.at >= 9.9, "RFC 2131 section 3.1.5"
        assert squatter.ping(pod.address)


def test_a_server_that_forgot_gives_nobody_a_pods_address(bare: Lan) -> None:
    """Kea asks nobody before it gives an address: what another pod of the node has is declined."""
    node, server = ready(bare), Kea(bare.gateway)
    server.start(first="192.168.77.100", last="192.168.77.103", seconds=600)
    first, second = node.pod("web-0"), node.pod("web-1")
    first.add()
    server.stop()
    server.forget()
    server.start()
    with Capture(bare.gateway) as wire:
        second.add()
        (declined,) = wire.dhcp("DECLINE", second.mac)
        assert declined.options[50] == first.address.packed
    assert second.address != first.address
    assert bare.host.ping(first.address)
    assert bare.host.ping(second.address)


def test_reserved_by_mac(bare: Lan, kind: type[Server]) -> None:
    node, server = ready(bare, '[dhcp]\nclient_id = "mac"\n'), kind(bare.gateway)
    pod = node.pod("db-0")
    server.start()
    pod.add()
    mac = pod.mac
    pod.delete()
    server.stop()
    server.start(by_mac=((mac, "192.168.77.77"),))
    pod.add()
    assert number(pod.address) == 77


def test_reserved_by_client_id(bare: Lan, kind: type[Server]) -> None:
    if kind is Udhcpd:
        pytest.skip("udhcpd knows no reservations by client-id")
    node, server = ready(bare), kind(bare.gateway)
    pod = node.pod("db-0")
    server.start()
    pod.add()
    client_id = node.api("Leases")["leases"][0]["client_id"]
    assert len(bytes.fromhex(client_id)) <= 32
    pod.delete()
    server.stop()
    server.start(by_client_id=((client_id, "192.168.77.78"),))
    pod.add()
    assert number(pod.address) == 78


def test_named_in_option_81(bare: Lan, kind: type[Server]) -> None:
    node, server = ready(bare, '[dhcp]\nhostname = "fqdn"\n'), kind(bare.gateway)
    server.start()
    pod = node.pod("web-0")
    with Capture(bare.gateway) as wire:
        pod.add()
        for asked in (*wire.dhcp("DISCOVER", pod.mac), *wire.dhcp("REQUEST", pod.mac)):
            assert asked.options[81] == b"\x05\0\0\x05web-0"
            assert 12 not in asked.options
    if kind in (Kea, Dnsmasq):  # the others keep no name of their clients without a DNS to update
        assert "web-0" in bare.gateway.read(server.leases)


@pytest.mark.parametrize("knows", [True, False])
def test_two_messages_where_the_server_knows_how(bare: Lan, knows: bool) -> None:
    """RFC 4039; and another option asked for by its number."""
    node = ready(bare, "[dhcp]\nrapid_commit = true\nrequest = [66]\n")
    server = Dnsmasq(bare.gateway, Range(rapid_commit=knows, options=("66,boot.example",)))
    server.start()
    pod = node.pod("web-0")
    with Capture(bare.gateway) as wire:
        pod.add()
        messages = ["DISCOVER", "ACK"] if knows else ["DISCOVER", "OFFER", "REQUEST", "ACK"]
        assert kinds(wire, pod.mac) == messages
        assert wire.dhcp("DISCOVER", pod.mac)[0].options[80] == b""
        assert f"{pod.address} " in bare.gateway.read(server.leases)
        (lease,) = node.api("Leases")["leases"]
        assert bytes.fromhex(lease["options"]["66"]).rstrip(b"\0") == b"boot.example"
        assert "option 66  boot.example" in node.terwayctl("leases", "show", "web-0").stdout
        assert bare.host.ping(pod.address)
        pod.delete()
        eventually(lambda: not bare.gateway.read(server.leases).strip(), 2.0, "the server has it back")


def test_what_comes_with_a_lease(bare: Lan) -> None:
    """It is in the CNI result, the API, terwayctl and the database; and what changes with a renewal is followed and told."""
    node = ready(bare)
    options = ("42,192.168.77.5", "119,a.example,b.example", "26,1400", "15,a.example", "6,192.168.77.6")
    routes = "121,0.0.0.0/0,192.168.77.1,10.0.0.0/8,192.168.77.2"
    server = Dnsmasq(bare.gateway, Range(seconds=8, options=(*options, routes)))
    server.start()
    pod = node.pod("web-0")
    result = pod.add()
    assert result["dns"] == {
        "nameservers": ["192.168.77.6"],
        "domain": "a.example",
        "search": ["a.example", "b.example"],
    }
    wanted = [{"dst": "0.0.0.0/0", "gw": "192.168.77.1"}, {"dst": "10.0.0.0/8", "gw": "192.168.77.2"}]
    assert [route for route in wanted if route in result["routes"]] == wanted
    assert pod.ip_json("link show dev eth0")[0]["mtu"] == 1400
    (lease,) = node.api("Leases")["leases"]
    assert (lease["ntp"], lease["mtu"], lease["dns"]) == (["192.168.77.5"], 1400, ["192.168.77.6"])
    shown = node.terwayctl("leases", "show", "web-0").stdout
    for text in ("192.168.77.5", "a.example b.example", "1400", "10.0.0.0/8 via 192.168.77.2"):
        assert text in shown
    assert any(
        b'"ntp": ["192.168.77.5"]' in file.read_bytes()
        for file in node.path("/var/lib/terwayd").glob("state.db*")
    )
    server.stop()
    server.start(options=("26,1300", "6,192.168.77.7", routes.replace("10.0.0.0/8", "10.0.0.0/9")))
    eventually(lambda: node.api("Leases")["leases"][0]["mtu"] == 1300, 10.0, "renewed", 0.1)
    eventually(lambda: pod.ip_json("link show dev eth0")[0]["mtu"] == 1300, 3.0, "the pod's MTU")
    eventually(
        lambda: {"10.0.0.0/9"} == {r["dst"] for r in pod.ip_json("route show via 192.168.77.2")},
        3.0,
        "its routes",
    )
    for text in (
        "dns 192.168.77.7 in place of 192.168.77.6",
        "mtu 1300 in place of 1400",
        "ntp none in place of",
    ):
        assert text in node.log()


def test_an_exhausted_range_is_told(bare: Lan, kind: type[Server]) -> None:
    node, server = ready(bare, '[dhcp]\ntimeout = "3s"\n'), kind(bare.gateway)
    server.start(first="192.168.77.100", last="192.168.77.100", seconds=600)
    first, second = node.pod("web-0"), node.pod("web-1")
    first.add()
    with pytest.raises(ShimError) as failure:
        second.add()
    assert failure.value.code == 11
    assert re.search(r"DISCOVERs sent in \d s, no OFFER came back", failure.value.msg)
    assert "range is full" in failure.value.details
    first.delete()
    second.add()
    assert number(second.address) == 100


@pytest.mark.parametrize("seconds", [30, pytest.param(300, marks=pytest.mark.long)])
def test_fifty_short_leases_without_a_gap(bare: Lan, seconds: int) -> None:
    """Leases of 20 s: every pod's is extended in time, each time, on the wire."""
    node, server = ready(bare), Kea(bare.gateway, Range(seconds=20))
    server.start()
    pods = [node.pod(f"web-{n}") for n in range(50)]
    with Capture(bare.gateway) as wire:
        for pod in pods:
            pod.add()
        macs = {pod.mac: pod.address for pod in pods}
        time.sleep(seconds)  # the thing itself: nothing else tells that time goes by without a gap
        end = wire.frames()[-1][0]
        acks = wire.dhcp("ACK")
        assert len({(one.mac, one.xid) for one in wire.dhcp("DISCOVER")}) == 50
        for mac, address in macs.items():
            times = [one.at for one in acks if one.mac == mac]
            assert {one.yiaddr for one in acks if one.mac == mac} == {address}
            gaps = [b - a for a, b in zip(times, [*times[1:], end], strict=True)]
            assert max(gaps) < 20.0, f"{address} was without a lease"
        assert not wire.dhcp("NAK")
    assert len(set(macs.values())) == 50


def test_asked_for_again_after_a_restart(bare: Lan, kind: type[Server]) -> None:
    """INIT-REBOOT: a lease whose T1 passed while no daemon ran is asked for by its address, and kept."""
    node, server = ready(bare), kind(bare.gateway)
    server.start(seconds=20)
    pod = node.pod("web-0")
    pod.add()
    address, mac = pod.address, pod.mac
    lease = node.api("Leases")["leases"][0]
    assert node.daemon is not None
    node.daemon.kill9()
    over = time.time() + lease["renews_in"]
    eventually(lambda: time.time() > over + 0.2, 15.0, "T1 is over", 0.1)
    with Capture(bare.gateway) as wire:
        node.start_daemon().wait_ready()
        at_least(wire, 1, "ACK", mac, 8.0)
        request = wire.dhcp("REQUEST", mac)[0]
        assert (request.to_all, int(request.ciaddr)) == (True, 0)
        assert request.options[50] == address.packed
        assert 54 not in request.options
        assert not wire.dhcp("DISCOVER")
    eventually(lambda: node.api("Leases")["leases"][0]["state"] == "bound", 2.0)
    assert pod.address == address
