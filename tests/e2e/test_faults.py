"""What breaks under the daemon: what a user sees, that nothing is lost, and that it heals by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from terwayd.dhcp.client import REBOOT_SPREAD_S
from tests.lab import Lan, Node, Pod, ShimError, eventually
from tests.lab.machine import PYTHON

STATE = "/var/lib/terwayd"


@pytest.fixture
def node(lan: Lan) -> Iterator[Node]:
    node = lan.node("n1", config='[dhcp]\ntimeout = "5s"\n')
    node.run(f"mount -t tmpfs -o size=1m,mode=0700 state {STATE}")
    node.start_daemon().wait_ready()
    yield node
    assert node.daemon is not None
    assert node.daemon.running, node.log()
    assert "Traceback" not in node.log()


@pytest.fixture
def pod(node: Node) -> Pod:
    pod = node.pod("web-0")
    pod.add()
    return pod


def held(node: Node) -> dict[str, str]:
    return {lease["name"]: lease["state"] for lease in node.api("Leases")["leases"]}


def pods(node: Node) -> Iterator[Pod]:
    """More than fit into what is free in the pages that a full disk has already."""
    return (node.pod(f"web-{number}") for number in range(1, 50))


def comes_and_goes(lan: Lan, node: Node, name: str) -> None:
    pod = node.pod(name)
    pod.add()
    mac = pod.mac
    assert lan.host.ping(pod.address, count=3)
    pod.delete()
    eventually(lambda: mac not in {lease.mac for lease in lan.dhcp.leases()}, 5, "its lease is given back")


def test_a_full_disk(lan: Lan, node: Node, pod: Pod) -> None:
    node.run(f"dd if=/dev/zero of={STATE}/filler bs=4k 2>/dev/null; true")
    late, error = next((pod, error) for pod in pods(node) if (error := attempt(pod)) is not None)
    assert error.code == 5
    assert f"cannot write {STATE}/state.db: database or disk is full" in error.msg
    assert f"df {STATE}" in error.details
    assert "eth0" not in late.run("ip -br link").stdout
    assert lan.host.ping(pod.address)
    assert held(node)["web-0"] == "bound"
    asked = len(lan.dhcp.messages("DHCPREQUEST", pod.mac))
    node.terwayctl("leases", "renew", "web-0")
    eventually(lambda: len(lan.dhcp.messages("DHCPREQUEST", pod.mac)) > asked, 10, "it is renewed")
    eventually(lambda: "would go on with older times after a restart" in node.log(), 5, "and that is told")
    node.run(f"rm {STATE}/filler")
    comes_and_goes(lan, node, "late")
    pod.delete()
    assert "web-0" not in held(node)


def test_a_state_directory_that_is_read_only(lan: Lan, node: Node, pod: Pod) -> None:
    assert node.daemon is not None
    node.daemon.term()
    node.run(f"mount -o remount,ro {STATE}")
    assert node.start_daemon().wait() == 1
    said = node.daemon.log()
    assert f"error: cannot open {STATE}/state.db" in said
    assert "Read-only file system" in said
    assert f"hint: findmnt -T {STATE}" in said
    assert lan.host.ping(pod.address)
    node.run(f"mount -o remount,rw {STATE}")
    node.start_daemon().wait_ready()
    assert held(node) == {"web-0": "bound"}


def test_no_descriptors_left(lan: Lan, node: Node, pod: Pod) -> None:
    assert node.daemon is not None
    pid = node.daemon.pid_inside
    opened = len(list(Path(f"/proc/{node.daemon.pid}/fd").iterdir()))
    node.run(f"prlimit --pid {pid} --nofile={opened + 2}:4096")
    eight = [node.pod(f"web-{number}") for number in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(attempt, eight))
    assert any(outcomes), "some found no descriptor"
    assert {error.code for error in outcomes if error} <= {5, 11}
    node.run(f"prlimit --pid {pid} --nofile=1024:4096")
    for one, error in zip(eight, outcomes, strict=True):
        if error:
            one.cni("DEL")
            one.add()
        assert lan.host.ping(one.address, count=3)
        one.delete()
    assert held(node) == {"web-0": "bound"}
    # A socket that waits for a server in the pod is there for ten seconds more.
    descriptors = Path(f"/proc/{node.daemon.pid}/fd")
    eventually(lambda: len(list(descriptors.iterdir())) <= opened + 1, 25, "none is left open")


def attempt(pod: Pod) -> ShimError | None:
    try:
        pod.add()
    except ShimError as error:
        return error
    return None


def test_more_netlink_events_than_fit(lan: Lan, node: Node, pod: Pod) -> None:
    """The monitor's queue runs over; nothing depends on having seen an event."""
    assert node.daemon is not None
    node.daemon.process.signal(19)  # SIGSTOP: it reads nothing
    many = [f"127.{number // 250}.7.{number % 250}/32 dev lo" for number in range(1, 1500)]
    node.ip(
        "link set eth0 nomaster", *[f"addr add {one}" for one in many], *[f"addr del {one}" for one in many]
    )
    queue = next(line for line in node.run("cat /proc/net/netlink").stdout.splitlines() if drops(line))
    assert queue
    node.daemon.process.signal(18)  # SIGCONT
    eventually(lambda: lan.host.ping(pod.address), 5, "the NIC is under the bridge again")
    comes_and_goes(lan, node, "late")


def drops(line: str) -> bool:
    """Whether a line of /proc/net/netlink is of a socket that lost messages."""
    words = line.split()
    return words[8].isdigit() and int(words[8]) > 0


def test_a_clock_that_is_set_back_by_a_day(lan: Lan, node: Node, pod: Pod) -> None:
    """The machine's clock cannot be set for one node alone, so its daemon is started anew on another one."""
    assert node.daemon is not None
    before = node.api("Leases")["leases"][0]
    asked = len(lan.dhcp.messages())
    node.daemon.term()
    # libfaketime would not do: with it each time.sleep of Python is refused.
    yesterday = "import time; time.time = lambda real=time.time: real() - 86400\n"
    node.write("/usr/lib/python3/dist-packages/yesterday.pth", yesterday)
    node.start_daemon().wait_ready()
    assert time.time() - 86500 < node.status()["since"] < time.time() - 86300
    after = node.api("Leases")["leases"][0]
    assert after["state"] == "bound"
    assert after["address"] == before["address"]
    assert 0 < before["expires_in"] - after["expires_in"] < 10
    time.sleep(REBOOT_SPREAD_S + 0.2)  # packets of a start are spread over a second
    assert len(lan.dhcp.messages()) == asked, "a lease that runs needs no packet"
    comes_and_goes(lan, node, "late")


def test_an_uplink_that_flaps(lan: Lan, node: Node, pod: Pod) -> None:
    address = pod.address
    for _ in range(30):
        lan.unplug(node)
        lan.replug(node)
    late = node.pod("web-1")
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(late.add)
        for _ in range(20):
            lan.unplug(node)
            lan.replug(node)
        adding.result(30)
    eventually(lambda: lan.host.ping(address) and lan.host.ping(late.address), 5, "both answer")
    assert node.daemon is not None
    node.daemon.wait_ready()
    assert held(node) == {"web-0": "bound", "web-1": "bound"}


@pytest.mark.alone
def test_a_loop_in_the_lan(lan: Lan, node: Node, pod: Pod) -> None:
    """Two ports of the switch joined: each broadcast goes round for as long as the loop is there."""
    lan.wire(
        "link add loop0 type veth peer name loop1",
        "link set loop0 master lan up",
        "link set loop1 master lan up",
    )
    lan.host.run("ping -b -c 3 -i 0.2 -W 1 192.168.77.255", check=False)
    assert node.status()["state"] in ("ready", "degraded")
    lan.wire("link del loop0")
    eventually(lambda: lan.host.ping(pod.address), 10, "the LAN is well again")
    assert node.daemon is not None
    node.daemon.wait_ready()
    comes_and_goes(lan, node, "late")
    assert held(node) == {"web-0": "bound"}


def test_a_namespace_that_is_deleted_during_its_add(lan: Lan, node: Node, pod: Pod) -> None:
    lan.dhcp.stop()
    try:
        gone = node.pod("gone")
        with ThreadPoolExecutor(1) as pool:
            adding = pool.submit(attempt, gone)
            eventually(
                lambda: "gone" in held(node) or len(node.status()["pods"]) == 2, 3, "the ADD has begun"
            )
            gone.remove()
            error = adding.result(20)
        assert error is not None
        assert error.code == 11
    finally:
        lan.dhcp.start()
    assert held(node) == {"web-0": "bound"}
    comes_and_goes(lan, node, "late")


def test_a_start_that_fails_half_way(lan: Lan, node: Node, pod: Pod) -> None:
    """What earlier runs left is gone on with at the next try, with nothing lost."""
    assert node.daemon is not None
    node.daemon.kill9()
    node.ip("link del eth0")
    node.start_daemon().wait_state("degraded")  # it has its state, and waits for the NIC
    rename(node, "attachments", "hidden")
    lan.plug(node)
    eventually(lambda: "no such table: attachments" in node.status()["reason"], 5, "its start fails")
    rename(node, "hidden", "attachments")
    node.daemon.wait_ready()
    assert held(node) == {"web-0": "bound"}
    asked = len(lan.dhcp.messages("DHCPACK", pod.mac))
    node.terwayctl("leases", "renew", "web-0")
    assert len(lan.dhcp.messages("DHCPACK", pod.mac)) > asked
    comes_and_goes(lan, node, "late")


def rename(node: Node, table: str, to: str) -> None:
    change = f"sqlite3.connect('{STATE}/state.db').execute('ALTER TABLE {table} RENAME TO {to}')"
    node.run([PYTHON, "-c", f"import sqlite3; {change}"])


def test_an_interface_that_cannot_be_taken_out(lan: Lan, node: Node, pod: Pod) -> None:
    """Where an ADD was cut short stands what the kernel does not delete: the other pods go on."""
    assert node.daemon is not None
    lan.dhcp.stop()
    cut = node.pod("cut")
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(attempt, cut)
        eventually(lambda: "eth0" in cut.run("ip -br link").stdout, 3, "the ADD has begun")
        name = next(iter(set(node.veths()) - {pod.port}))
        node.daemon.kill9()
        assert adding.result(20) is not None
    lan.dhcp.start()
    node.ip(f"link del {name}", "link set lo down", f"link set lo name {name}")
    node.start_daemon().wait_ready()
    assert held(node)["web-0"] == "bound"
    assert f"ip link del {name}: Operation not supported" in node.daemon.log()
    comes_and_goes(lan, node, "late")
