"""A host whose NIC has no address, and that nobody manages: terwayd leases one, takes what is written, or has none."""

from __future__ import annotations

import contextlib

import pytest

from tests.interop.servers import IscDhcpd, Range
from tests.lab import LabError, Lan, Node, ShimError, State, eventually

EXPLICIT = """
[host]
uplink = "eth0"
address = ["192.168.77.61/24", "fd77::61/64"]
gateway = ["192.168.77.1", "fd77::1"]
mtu = 1400
"""


def bare(lan: Lan, config: str, *, down: bool) -> Node:
    node = lan.node("n1", config=config, static=False, setup=["link set eth0 down"] if down else ())
    if down:
        eventually(lambda: "inet" not in node.run("ip addr show eth0").stdout, 5, "it is down")
    return node


def as_before(node: Node, before: State) -> None:
    with contextlib.suppress(LabError):  # what the kernel does a moment later
        eventually(lambda: node.state() == before, 5)
    assert before.diff(node.state()) == []


def address_of(node: Node) -> str:
    entries = node.ip_json("-4 addr show mybr0")
    return next((str(info["local"]) for entry in entries for info in entry["addr_info"]), "")


@pytest.mark.parametrize("down", [False, True])
def test_explicit_addresses(lan: Lan, down: bool) -> None:
    node = bare(lan, EXPLICIT, down=down)
    before = node.state()
    daemon = node.start_daemon().wait_ready()
    for address in ("192.168.77.61", "fd77::61"):
        eventually(lambda address=address: lan.host.ping(address), 5, f"{address} answers")  # type: ignore[misc]
    assert node.ping(lan.world)
    assert node.ping(lan.world6)
    links = {entry["ifname"]: entry["mtu"] for entry in node.ip_json("link")}
    assert (links["eth0"], links["mybr0"], links["twdhcp"]) == (1400, 1400, 1400)
    node.ip("addr del 192.168.77.61/24 dev mybr0")
    eventually(lambda: address_of(node) == "192.168.77.61", 2, "it is put back")
    pod = node.pod("web-0")
    pod.add()
    assert lan.host.ping(pod.address)
    node.terwayctl("teardown", "--force")
    as_before(node, before)
    daemon.term()


def test_a_leased_address(lan: Lan) -> None:
    node = bare(lan, '[host]\nuplink = "eth0"\naddress = "dhcp"\n', down=True)
    before = node.state()
    node.start_daemon().wait_ready()
    address = address_of(node)
    assert address in {str(lease.address) for lease in lan.dhcp.leases()}
    assert node.ip_json("-4 addr show mybr0")[0]["addr_info"][0]["valid_life_time"] < 200
    assert lan.host.ping(address)
    assert node.ping(lan.world)
    pod = node.pod("web-0")
    pod.add()
    assert pod.ping(lan.world)

    assert node.daemon is not None
    node.daemon.kill9()
    asked = len(lan.dhcp.messages("DHCPACK"))
    node.start_daemon().wait_ready()
    eventually(lambda: len(lan.dhcp.messages("DHCPACK")) > asked, 5, "the server is asked again")
    assert address_of(node) == address
    assert lan.host.ping(address)

    node.terwayctl("teardown", "--force")
    eventually(lambda: lan.dhcp.leases() == [], 5, "both leases are given back")
    as_before(node, before)


def test_a_bridge_without_an_address(lan: Lan) -> None:
    node = bare(lan, '[host]\nuplink = "eth0"\naddress = []\n', down=False)
    before = node.state()
    node.start_daemon().wait_ready()
    assert address_of(node) == ""
    pod = node.pod("web-0")
    pod.add()
    assert lan.host.ping(pod.address)
    node.terwayctl("teardown", "--force")
    as_before(node, before)


def test_pods_follow_an_address_that_the_host_is_given_later() -> None:
    with Lan(dhcp=None) as lan:
        node = bare(
            lan,
            '[host]\nuplink = "eth0"\naddress = "dhcp"\n[pods]\nservice_cidrs = ["10.96.0.0/16"]\n',
            down=False,
        )
        server = IscDhcpd(lan.gateway, Range(seconds=10))
        server.start()
        node.start_daemon().wait_ready()
        pod = node.pod("web-0")
        pod.add(config={"static": True, "runtimeConfig": {"ips": ["192.168.77.50"]}})

        def ways() -> list[str]:
            shown = pod.ip_json("route show 10.96.0.0/16") + pod.ip_json("route show default")
            return [str(route["gateway"]) for route in shown]

        before = address_of(node)
        assert ways() == [before, lan.gateway_ip]
        server.stop()
        server.forget()
        server.start(first="192.168.77.30", last="192.168.77.40", router=lan.host_ip)
        eventually(lambda: address_of(node) not in ("", before), 15, "the host has another address")
        eventually(lambda: ways() == [address_of(node), lan.host_ip], 3, "the pod's routes follow")
        pod.check()


def test_a_second_address_of_the_host_is_no_pods(lan: Lan) -> None:
    node = lan.node("n1", config='[dhcp]\ntimeout = "2s"\n')
    node.start_daemon().wait_ready()
    lan.dhcp.restart(first="192.168.77.61", last="192.168.77.61")

    def refused() -> bool:
        """Told to the next pod a moment after the address has come."""
        pod = node.pod("web-0")
        try:
            pod.add()
        except ShimError as error:
            return "it is for 192.168.77.61, which is this node's own" in error.msg
        pod.delete()
        return False

    node.ip("addr add 192.168.77.61/24 dev mybr0")
    eventually(refused, 5, "the host's second address is refused")
    node.ip("addr del 192.168.77.61/24 dev mybr0")
    lan.dhcp.forget()  # what it was told to be in use

    def had() -> bool:
        pod = node.pod("web-0")
        with contextlib.suppress(ShimError):
            pod.add()
            return str(pod.address) == "192.168.77.61"
        lan.dhcp.forget()
        return False

    eventually(had, 15, "and given to a pod when the host has it no more")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('address = "dhcp"', 'host.address = "dhcp": eth0 has 192.168.77.11/24 already'),
        ('uplink = "eth1"', "there is no interface 'eth1'"),
    ],
)
def test_what_is_refused_is_told(lan: Lan, config: str, words: str) -> None:
    node = lan.node("n1", config=f"[host]\n{config}\n")
    before = node.state()
    node.start_daemon().wait_state("degraded")
    assert words in node.status()["reason"]
    assert node.state() == before
