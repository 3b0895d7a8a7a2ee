"""Many pods: what they cost, that they are served, that a daemon with many starts soon.  Figures are printed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.bench.driving import Driver, lan_of_thousands, pods, serving
from tests.bench.peers import ours
from tests.interop.servers import Kea, Range
from tests.lab import Lan, Node, eventually

pytestmark = [pytest.mark.long, pytest.mark.alone]

AT_ONCE = 50
HELD, CYCLES = 250, 1000
LEASED, LEASE_S = 1000, 90
NODES, EACH = 20, 50


def attach(driver: Driver, names: list[str], command: str = "ADD") -> None:
    for start in range(0, len(names), AT_ONCE):
        driver.call(ours(), [(command, name) for name in names[start : start + AT_ONCE]], together=True)


def status(pid: int, key: str, of: str = "") -> int:
    found = re.search(rf"^{key}:\s+(\d+)", Path(f"/proc/{pid}/{of}status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def resident(node: Node) -> int:
    """KiB."""
    assert node.daemon is not None
    return status(node.daemon.pid, "VmRSS")


def wakeups(node: Node) -> dict[str, int]:
    """How often each thread of the daemon has gone to sleep so far."""
    assert node.daemon is not None
    pid = node.daemon.pid
    threads = [thread.name for thread in Path(f"/proc/{pid}/task").iterdir()]
    return {thread: status(pid, "voluntary_ctxt_switches", f"task/{thread}/") for thread in threads}


def test_memory_and_rest(lan: Lan) -> None:
    lan_of_thousands(lan)
    with serving(lan, "n1", 11) as (node, driver):
        attach(driver, pods(HELD, "held"))
        with_250 = resident(node)
        attach(driver, pods(HELD, "more"))
        a_lease = (resident(node) - with_250) / HELD
        attach(driver, pods(HELD, "more"), "DEL")
        levels = []
        for _ in range(4):
            for _ in range(CYCLES // 4 // AT_ONCE):
                attach(driver, pods(AT_ONCE, "cycle"))
                attach(driver, pods(AT_ONCE, "cycle"), "DEL")
            levels.append(resident(node))
        eventually(lambda: node.api("Leases")["leases"], 10, "it answers")
        time.sleep(12)  # the last announcements, and the last sockets that listened for answers
        before = wakeups(node)
        time.sleep(60)
        after = wakeups(node)
        woken = {thread: count - before.get(thread, 0) for thread, count in after.items()}
        print(f"resident with {HELD} pods {with_250 * 1024 / 1e6:.1f} MB, {a_lease:.1f} KiB a further lease")
        print("after", [CYCLES * n // 4 for n in (1, 2, 3, 4)], "attaches and detaches:", levels, "KiB")
        print("woken in a minute, by thread:", woken)
        assert with_250 * 1024 <= 45_000_000
        assert a_lease <= 20
        assert levels[-1] - levels[0] < 1024, "level"
        assert not sum(woken.values())


@pytest.fixture
def kea_lan() -> Iterator[tuple[Lan, Kea]]:
    with Lan(dhcp=None) as lan:
        lan.gateway.ip("addr add 10.77.0.1/16 dev eth0", "addr del 192.168.77.1/24 dev eth0")
        room = Range("10.77.1.0", "10.77.30.255", seconds=LEASE_S, router="10.77.0.1", subnet="10.77.0.0/16")
        server = Kea(lan.gateway, room)
        server.start()
        yield lan, server


def test_a_thousand_pods_on_one_bridge(kea_lan: tuple[Lan, Kea]) -> None:
    """Leased, each renewed, taken up again by the next daemon within 2 s, and given back, by Kea's own record."""
    lan, kea = kea_lan
    with serving(lan, "n1", 11) as (node, driver):
        names = pods(LEASED, "web")
        began = time.monotonic()
        attach(driver, names)
        attached = time.monotonic() - began
        ports = node.run("ls /sys/class/net/mybr0/brif | wc -l").stdout.strip()
        rows = leases(lan, kea)
        assert len(rows) == LEASED
        first = {address: times[-1] for address, times in rows.items()}
        eventually(
            lambda: all(times[-1][1] > first[a][1] for a, times in leases(lan, kea).items()),
            LEASE_S,
            "each lease is renewed",
            1.0,
        )
        held = {lease["mac"]: lease["address"] for lease in node.api("Leases")["leases"]}
        assert len(held) == LEASED
        assert node.daemon is not None
        node.daemon.kill9()
        began = time.monotonic()
        node.start_daemon()
        driver.call(ours(), [("ADD", "late")])  # waits for the daemon as a runtime's call does
        restarted = time.monotonic() - began
        driver.call(ours(), [("DEL", "late")])
        assert {lease["mac"]: lease["address"] for lease in node.api("Leases")["leases"]} == held
        began = time.monotonic()
        attach(driver, names, "DEL")
        detached = time.monotonic() - began
        eventually(
            lambda: all(times[-1][0] == 0 for times in leases(lan, kea).values()),
            20,
            "every lease is given back",
            1.0,
        )
        print(
            f"{LEASED} pods: attached in {attached:.1f} s, {ports} ports, detached in {detached:.1f} s; "
            f"a restart took {restarted:.2f} s"
        )
        assert restarted <= 2.0


def leases(lan: Lan, kea: Kea) -> dict[str, list[tuple[int, int]]]:
    """By Kea's record: each address, with the seconds it was given for (0: given back) and when that ends."""
    found: dict[str, list[tuple[int, int]]] = {}
    for line in lan.gateway.read(kea.leases).splitlines()[1:]:
        words = line.split(",")
        if len(words) > 4:
            found.setdefault(words[0], []).append((int(words[3]), int(words[4])))
    return found


def test_twenty_nodes_at_once(lan: Lan) -> None:
    """All daemons start in the same moment, with the pods asked for at once as kubelets do after a power cut."""
    lan_of_thousands(lan)
    with ExitStack() as stack:
        nodes = [
            lan.node(
                f"n{number}",
                static=False,
                addresses=[f"10.77.0.{11 + number}/16"],
                setup=["route add default via 10.77.0.1"],
            )
            for number in range(NODES)
        ]
        drivers = [stack.enter_context(Driver(node)) for node in nodes]
        with ThreadPoolExecutor(NODES) as pool:
            began = time.monotonic()
            for node in nodes:
                node.start_daemon()
            for node in nodes:
                assert node.daemon is not None
                node.daemon.wait_ready(120)
            ready = time.monotonic() - began
            list(pool.map(lambda n: attach(drivers[n], pods(EACH, f"pod-{n}")), range(NODES)))
            spent = time.monotonic() - began
        packets = sum(
            len(lan.dhcp.messages(kind)) for kind in ("DHCPDISCOVER", "DHCPREQUEST", "DHCPOFFER", "DHCPACK")
        )
        print(
            f"{NODES} nodes ready after {ready:.1f} s, {NODES * EACH} pods bound after {spent:.1f} s; ",
            end="",
        )
        print(f"the server saw and sent {packets} DHCP packets, {packets / (spent - ready):.0f} a second")
        bound = [lease["state"] for node in nodes for lease in node.api("Leases")["leases"]]
        assert bound == ["bound"] * (NODES * EACH)
        assert len({lease.address for lease in lan.dhcp.leases()}) == NODES * EACH
