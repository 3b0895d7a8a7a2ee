"""A node's NIC goes under the bridge and back while others talk to it, and its daemon comes and goes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from terwayd.dhcp.client import REBOOT_SPREAD_S
from tests.e2e import shared
from tests.lab import CommandError, Lan, Loss, Node, eventually

INTERVAL_MS = 5.0
ADDRESSES = {4: "192.168.77.11", 6: "fd77::11"}


lan = shared.lan


@pytest.fixture(scope="module")
def node(lan: Lan) -> Node:
    """The one with .11 and ::11; its host is its own before and after each test."""
    return lan.node("n1")


@pytest.fixture(autouse=True)
def own_again(node: Node) -> Iterator[None]:
    before = node.state()
    yield
    assert node.daemon is not None
    if node.daemon.running:
        node.terwayctl("teardown", "--force")
        node.daemon.term()
    assert before.diff(node.state()) == []


def lost(losses: dict[int, Loss], what: str) -> None:
    for version, loss in losses.items():
        print(f"{what}, IPv{version}: {loss}, slowest reply {loss.slowest * 1000:.1f} ms")
    for version, loss in losses.items():
        assert len(loss.lost) <= 1, f"{what}: IPv{version} {loss}"
        assert loss.sent > 30


@pytest.mark.alone
def test_setup_and_teardown_lose_no_more_than_one_packet(lan: Lan, node: Node) -> None:
    for what in ("setup", "teardown"):
        probes = {version: lan.host.probe(address, INTERVAL_MS) for version, address in ADDRESSES.items()}
        if what == "setup":
            node.start_daemon().wait_ready()
        else:
            told = node.terwayctl("teardown").stdout
            assert "eth0 has its addresses back and mybr0 is gone" in told
        assert all(lan.host.ping(address) for address in ADDRESSES.values())
        lost({version: probe.stop() for version, probe in probes.items()}, what)
    status = node.terwayctl("status", check=False)
    assert status.returncode == 4
    assert "down" in status.stdout
    assert not node.path("/etc/cni/net.d/10-terway.conflist").exists()


def test_setup_again_after_teardown(lan: Lan, node: Node) -> None:
    node.start_daemon().wait_ready()
    node.terwayctl("teardown")
    assert "nothing to do" in node.terwayctl("teardown").stdout
    assert "mybr0 now carries eth0" in node.terwayctl("setup", "--yes").stdout
    assert node.status()["state"] == "ready"
    assert node.path("/etc/cni/net.d/10-terway.conflist").exists()
    pod = node.pod("web-0")
    pod.add()
    assert lan.host.ping(pod.address)
    assert "nothing to do" in node.terwayctl("setup", "--yes").stdout


def test_the_printed_plan_is_what_is_done(node: Node) -> None:
    planned = node.terwayctl("setup", "--dry-run", check=False).stdout
    assert "ip link set eth0 master mybr0" in planned
    node.start_daemon().wait_ready()
    assert "master mybr0" in node.run("ip link show eth0").stdout
    assert node.api("Plan", {"action": "setup"})["changes"] is False
    back = node.api("Plan", {"action": "teardown"})
    assert back["steps"][-1]["command"] == "ip link del mybr0"


def test_a_stopped_daemon_leaves_pods_and_host_and_the_next_one_goes_on(lan: Lan, node: Node) -> None:
    node.start_daemon().wait_ready()
    pod = node.pod("web-0")
    pod.add()
    address, bridged = pod.address, node.state()
    leases = node.api("Leases")["leases"]
    asked = len(lan.dhcp.messages())
    probes = [lan.host.probe(address, INTERVAL_MS), lan.host.probe(ADDRESSES[4], INTERVAL_MS)]
    assert node.daemon is not None
    assert node.daemon.term() == 0
    assert node.state() == bridged
    assert lan.host.ping(address)
    node.start_daemon().wait_ready()
    for probe in probes:
        loss = probe.stop()
        print(f"restart: {probe.name}: {loss}")
        assert loss.none, loss
    assert node.state() == bridged
    time.sleep(REBOOT_SPREAD_S + 0.2)  # packets of a start are spread over a second
    assert len(lan.dhcp.messages()) == asked, "a lease that runs needs no packet"
    again = node.api("Leases")["leases"]
    assert [(one["address"], one["client_id"], one["state"]) for one in again] == [
        (one["address"], one["client_id"], one["state"]) for one in leases
    ]
    assert abs(again[0]["acquired"] - leases[0]["acquired"]) < 1.0
    pod.check()
    pod.delete()
    eventually(lambda: lan.dhcp.leases() == [], 2.0, "the lease is given back")


def test_pods_keep_the_host_bridged_unless_forced(lan: Lan, node: Node) -> None:
    node.start_daemon().wait_ready()
    pods = [node.pod(f"web-{number}") for number in range(3)]
    for pod in pods:
        pod.add()
    bridged = node.state()
    with pytest.raises(CommandError, match=r"3 pods would lose the LAN") as caught:
        node.terwayctl("teardown")
    assert caught.value.returncode == 1
    assert "hint: " in caught.value.stderr
    assert "--force" in caught.value.stderr
    for pod in pods:
        assert f"default/{pod.pod_name}" in caught.value.stderr
        pod.check()
    assert node.state() == bridged
    node.terwayctl("teardown", "--force")
    eventually(lambda: lan.dhcp.leases() == [], 2.0, "every lease is given back")
    for pod in pods:
        assert pod.run("ip -br link").stdout.split()[0] == "lo"
    assert lan.host.ping(ADDRESSES[4])


def test_a_second_daemon_is_refused(node: Node) -> None:
    node.start_daemon().wait_ready()
    done = node.run("/usr/sbin/terwayd", check=False)
    assert done.returncode == 1
    assert "error: another terwayd serves /run/terwayd.sock" in done.stderr
    assert node.status()["state"] == "ready"


def test_a_static_and_an_advertised_default_route_of_one_metric() -> None:
    """The kernel would make one of them that ends with the advertised one."""
    with Lan() as lan:
        node = lan.node("n1")
        lan.dhcp.restart(ra=True)
        eventually(lambda: "proto ra" in node.run("ip -6 route").stdout, 15, "an advertisement came")
        static = f"default via {lan.gateway_ip6} dev {{}} metric 1024 pref medium"
        assert static.format("eth0") in node.run("ip -6 route").stdout
        node.start_daemon().wait_ready()
        assert static.format("mybr0") in node.run("ip -6 route").stdout
        eventually(lambda: "dev mybr0 proto ra" in node.run("ip -6 route").stdout, 15, "the next came")
        assert static.format("mybr0") in node.run("ip -6 route").stdout
        node.terwayctl("teardown")
        assert static.format("eth0") in node.run("ip -6 route").stdout
        eventually(lambda: "dev eth0 proto ra" in node.run("ip -6 route").stdout, 15, "and the next")
        assert static.format("eth0") in node.run("ip -6 route").stdout
        assert node.ping(lan.world6, count=3)
