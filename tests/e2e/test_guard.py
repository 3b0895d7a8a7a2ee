"""Somebody else's hands on the host's network: mended within a second, told, and not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.lab import Lan, Node, Pod, eventually
from tests.lab.machine import PYTHON

pytestmark = pytest.mark.alone

WITHIN = 1.0  # seconds


@pytest.fixture
def node(lan: Lan) -> Node:
    node = lan.node("n1")
    node.start_daemon().wait_ready()
    return node


@pytest.fixture
def pod(node: Node) -> Pod:
    pod = node.pod("web-0")
    pod.add()
    return pod


def mended(node: Node, well: Callable[[], bool]) -> float:
    """Seconds until `well`."""
    started = time.monotonic()
    eventually(well, 5, "it is mended", 0.01)
    return time.monotonic() - started


def master(node: Node, name: str = "eth0") -> str:
    return str(node.ip_json(f"link show {name}")[0].get("master", ""))


def addresses(node: Node, name: str) -> set[str]:
    return {entry["local"] for entry in node.ip_json(f"addr show {name}")[0]["addr_info"]}


def warnings(node: Node) -> str:
    return " ".join(finding["message"] for finding in node.status()["findings"])


def test_an_address_put_back_on_the_nic(lan: Lan, node: Node, pod: Pod) -> None:
    routes = node.run("ip route").stdout
    node.ip("addr add 192.168.77.11/24 dev eth0")
    assert mended(node, lambda: "192.168.77.11" not in addresses(node, "eth0")) < WITHIN
    assert "192.168.77.11" in addresses(node, "mybr0")
    assert node.run("ip route").stdout == routes
    assert lan.host.ping("192.168.77.11")
    assert "192.168.77.11/24 is on eth0" in warnings(node)
    assert node.terwayctl("status").returncode == 0


def test_a_new_address_on_the_nic_goes_to_the_bridge(lan: Lan, node: Node) -> None:
    node.ip("addr add 192.168.77.61/24 dev eth0")
    assert mended(node, lambda: "192.168.77.61" in addresses(node, "mybr0")) < WITHIN
    assert lan.host.ping("192.168.77.61")


def test_the_nic_pulled_from_the_bridge(lan: Lan, node: Node, pod: Pod) -> None:
    node.ip("link set eth0 nomaster")
    assert mended(node, lambda: master(node) == "mybr0") < WITHIN
    assert lan.host.ping(pod.address)
    assert lan.host.ping("192.168.77.11")


@pytest.mark.parametrize("seen", [True, False])
def test_the_nic_unplugged_and_back(lan: Lan, node: Node, pod: Pod, seen: bool) -> None:
    if seen:
        node.ip("link del eth0")
        eventually(lambda: "the NIC eth0 is gone" in node.status()["reason"], 3, "it is told")
        assert node.status()["state"] == "degraded"
        lan.plug(node)
    else:
        lan.swap_nic(node)
    assert mended(node, lambda: lan.host.ping("192.168.77.11", timeout=0.1)) < WITHIN + 0.5
    assert lan.host.ping(pod.address)
    assert lan.host.ping("fd77::11")
    assert node.status()["state"] == "ready"
    late = node.pod("web-1")
    late.add()
    assert lan.host.ping(late.address)
    eventually(lambda: addresses(node, "eth0") == set(), 3, "the NIC has no address of its own")


def test_the_bridge_deleted_with_pods_attached(lan: Lan, node: Node, pod: Pod) -> None:
    other = node.pod("web-1")
    other.add()

    def as_port() -> list[str]:
        return [
            node.run(f"bridge {what} show dev {pod.port}").stdout.split("master")[1]
            for what in ("-d link", "fdb")
        ]

    before = as_port()
    assert "guard on" in before[0]
    assert "learning off" in before[0]
    node.ip("link del mybr0")
    assert mended(node, lambda: lan.host.ping(pod.address, timeout=0.1)) < WITHIN + 0.5
    assert as_port() == before
    assert lan.host.ping(other.address)
    assert lan.host.ping("192.168.77.11")
    assert lan.host.ping("fd77::11")
    late = node.pod("web-2")
    late.add()
    mac = late.mac
    assert lan.host.ping(late.address)
    late.delete()
    eventually(lambda: mac not in {lease.mac for lease in lan.dhcp.leases()}, 2.0, "the lease is given back")


@pytest.mark.parametrize("change", ["address 02:00:00:00:00:07", "mtu 1400"])
@pytest.mark.parametrize("name", ["mybr0", "eth0"])
def test_mac_and_mtu(lan: Lan, node: Node, name: str, change: str) -> None:
    before = node.ip_json(f"link show {name}")[0]
    node.ip(f"link set {name} {change}")

    def as_before() -> bool:
        now = node.ip_json(f"link show {name}")[0]
        return (now["address"], now["mtu"]) == (before["address"], before["mtu"])

    assert mended(node, as_before) < WITHIN
    assert lan.host.ping("192.168.77.11")


def test_the_bridge_set_down(lan: Lan, node: Node, pod: Pod) -> None:
    routes = node.run("ip route").stdout
    node.ip("link set mybr0 down")
    assert mended(node, lambda: node.run("ip route").stdout == routes) < WITHIN
    assert lan.host.ping("192.168.77.11")
    assert lan.host.ping(pod.address)


def given_up(node: Node) -> bool:
    """What is not mended yet is told as degraded too; the reason tells them apart."""
    return "again and again" in node.status()["reason"]


def test_two_managers_do_not_fight_for_ever(node: Node) -> None:
    for _ in range(30):
        node.ip("addr add 192.168.77.11/24 dev eth0")
        # Given up or mended; which of the two a moment after the last repair, is open.
        eventually(lambda: given_up(node) or "192.168.77.11" not in addresses(node, "eth0"), 3)
        if given_up(node):
            break
    status = node.status()
    assert status["state"] == "degraded"
    assert "192.168.77.11/24 is on eth0, again and again" in status["reason"]
    node.run("ip addr del 192.168.77.11/24 dev eth0", check=False)
    node.ip("addr add 192.168.77.11/24 dev eth0")
    time.sleep(1.5)  # it is left alone: what does not happen cannot be waited for
    assert "192.168.77.11" in addresses(node, "eth0")
    node.terwayctl("setup")
    assert node.status()["state"] == "ready"
    assert "192.168.77.11" not in addresses(node, "eth0")


PLAN = """
import sys
from dataclasses import replace
from terwayd import codec
from terwayd.host.plan import Plan
from terwayd.host.steps import DelAddress
from terwayd.store import Store

store = Store()
record = store.takeover()
plan = codec.decode(Plan, record.plan)
steps = tuple(
    replace(step, address=replace(step.address, dev=sys.argv[1])) if isinstance(step, DelAddress) else step
    for step in plan.steps
)
store.write_takeover(replace(record, state="applying", plan=codec.encode(replace(plan, steps=steps))))
"""


def test_what_cannot_be_undone_is_tried_at_longer_and_longer_intervals(lan: Lan, node: Node) -> None:
    """A takeover that was cut short, whose way back the kernel refuses for now."""
    assert node.daemon is not None
    node.daemon.kill9()
    node.run([PYTHON, "-c", PLAN, "gone0"])
    node.start_daemon("--debug").wait_state("degraded")
    assert "eth0 cannot get back what it had" in node.status()["reason"]
    time.sleep(8)  # what happens only so often cannot be waited for
    tries = [line for line in node.daemon.log().splitlines() if "was cut short: undoing it" in line]
    assert 3 <= len(tries) <= 7
    assert [" WARNING " in line for line in tries] == [True] + [False] * (len(tries) - 1)
    assert node.daemon.log().count("ERROR degraded") == 1
    node.run([PYTHON, "-c", PLAN, "eth0"])
    node.daemon.wait_ready()
    assert lan.host.ping("192.168.77.11")
