"""A host whose NIC has no address, and that nobody manages: terwayd leases one, takes what is written, or has none."""

from __future__ import annotations

import contextlib

import pytest

from tests.lab import LabError, Lan, Node, State, eventually

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
