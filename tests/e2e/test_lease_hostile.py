"""A bad LAN: frames lost, a server that is away, servers that disagree, a rogue one in a pod, one that means harm."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_lease_policy import findings
from tests.interop import hostile
from tests.interop.capture import Capture
from tests.interop.servers import IscDhcpd, Kea, Range, Udhcpd
from tests.lab import Lan, Machine, Pod, ShimError, eventually
from tests.lab.machine import CHECKOUT, PYTHON


def begin(machine: Machine, how: str, address: str) -> None:
    """Run the hostile server there."""
    file = str(CHECKOUT / "tests/interop/hostile.py")
    machine.spawn([PYTHON, "-IS", file, how, address], "/var/log/hostile")
    eventually(lambda: "serves" in machine.read("/var/log/hostile"), 5.0, "the hostile server serves")


def resident(pid: int) -> int:
    """KiB in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def comes(pod: Pod) -> bool:
    """Whether its ADD is answered: three DISCOVERs may all be lost.  A runtime tries again then, after a DEL."""
    try:
        pod.add()
    except ShimError as error:
        if error.code != 11:
            raise
        pod.cni("DEL")
        return False
    return True


def test_a_third_of_the_frames_is_lost() -> None:
    with Lan(dhcp=None) as lan:
        node = lan.node("n1", config='[dhcp]\ntimeout = "15s"\n')
        node.start_daemon().wait_ready()
        Kea(lan.gateway, Range(seconds=20)).start()
        lan.gateway.run(
            "nft 'add table netdev bad; add chain netdev bad in"
            " { type filter hook ingress device eth0 priority 0; };"
            " add rule netdev bad in udp dport 67 numgen random mod 100 < 30 counter drop;"
            " add chain netdev bad out { type filter hook egress device eth0 priority 0; };"
            " add rule netdev bad out udp dport 68 numgen random mod 100 < 30 counter drop'"
        )
        pods = [node.pod(f"web-{n}") for n in range(10)]
        for pod in pods:
            assert any(comes(pod) for _ in range(8))

        def leased() -> dict[str, dict[str, Any]]:
            """All of them, at a moment when none is without its lease."""
            leases = node.api("Leases")["leases"]
            return {one["name"]: one for one in leases} if all(one["acquired"] for one in leases) else {}

        first = eventually(leased, 20.0, "all have a lease", 0.3)

        def renewed() -> bool:
            leases = node.api("Leases")["leases"]
            return all(
                one["acquired"] and one["acquired"] > first[one["name"]]["acquired"] + 2 for one in leases
            )

        eventually(renewed, 60.0, "all are renewed", 0.3)
        assert {one["name"]: one["address"] for one in node.api("Leases")["leases"]} == {
            name: one["address"] for name, one in first.items()
        }
        assert "packets 0 " not in lan.gateway.run("nft list table netdev bad").stdout, "nothing was lost"
        for pod in pods:
            assert lan.host.ping(pod.address)


def test_the_server_is_away_for_most_of_the_lease() -> None:
    """The lease's end is what counts, not how long: away from T1 until just before the end."""
    with Lan(dhcp=None) as lan:
        node = lan.node("n1")
        node.start_daemon().wait_ready()
        server = IscDhcpd(lan.gateway, Range(seconds=20))
        server.start()
        pod = node.pod("web-0")
        pod.add()
        address = pod.address
        server.stop()
        probe = lan.host.probe(address, 20.0)
        eventually(lambda: node.api("Leases")["leases"][0]["expires_in"] < 4.5, 20.0, "the end is near", 0.1)
        assert node.api("Leases")["leases"][0]["state"] in ("renewing", "rebinding")
        assert findings(node) == {}
        server.start()
        eventually(lambda: node.api("Leases")["leases"][0]["expires_in"] > 10, 4.5, "it goes on", 0.05)
        assert probe.stop().none
        assert pod.address == address
        assert "lost" not in node.log()


@pytest.mark.long
def test_the_server_is_away_for_ten_minutes() -> None:
    """Of a lease of 700 s, from before T1 at 20 s on: asked for again and again, and held without a gap."""
    with Lan(dhcp=None) as lan:
        node = lan.node("n1")
        node.start_daemon().wait_ready()
        server = Kea(lan.gateway, Range(seconds=700, t1=20, t2=650))
        server.start()
        pods = [node.pod(f"web-{n}") for n in range(5)]
        for pod in pods:
            pod.add()
        addresses = {pod.pod_name: pod.address for pod in pods}
        probe = lan.host.probe(pods[0].address, 100.0)
        with Capture(lan.gateway) as wire:
            server.stop()
            time.sleep(600.0)  # the thing itself
            asked = len(wire.dhcp("REQUEST", pods[0].mac))
            assert {one["state"] for one in node.api("Leases")["leases"]} == {"renewing"}
            assert findings(node) == {}
            server.start()

            def extended() -> list[dict[str, Any]]:
                found: list[dict[str, Any]] = node.api("Leases")["leases"]
                return found if all(one["expires_in"] > 600 for one in found) else []

            leases = eventually(extended, 80.0, "all go on", 0.2)
            assert {one["name"]: one["address"].partition("/")[0] for one in leases} == {
                name: str(address) for name, address in addresses.items()
            }
            assert not wire.dhcp("DISCOVER")
        lost = probe.stop().lost
        print(f"{asked} REQUESTs of a pod in the ten minutes; {len(lost)} probes of it lost")
        assert 3 <= asked <= 20
        assert lost == []


def test_two_servers_that_disagree() -> None:
    """The first offer is taken, and that server kept to; the other one's address is not mixed in."""
    with Lan(dhcp=None) as lan:
        node = lan.node("n1")
        node.start_daemon().wait_ready()
        IscDhcpd(lan.gateway, Range(seconds=10)).start()
        Kea(lan.host, Range("192.168.77.30", "192.168.77.40", seconds=10, router="192.168.77.2")).start()
        pods = [node.pod(f"web-{n}") for n in range(6)]
        with Capture(lan.gateway) as wire:
            for pod in pods:
                pod.add()
            first = {one["name"]: one for one in node.api("Leases")["leases"]}
            eventually(
                lambda: len(wire.dhcp("ACK")) + len(wire.dhcp("REQUEST")) >= 12
                and all(
                    one["acquired"] > first[one["name"]]["acquired"] + 2
                    for one in node.api("Leases")["leases"]
                ),
                12.0,
                "all are renewed",
                0.3,
            )
            for one in node.api("Leases")["leases"]:
                before = first[one["name"]]
                assert (one["address"], one["server"]) == (before["address"], before["server"])
                of_host = one["server"] == "192.168.77.2"
                assert of_host == (int(one["address"].split("/")[0].split(".")[3]) < 100)
                assert one["gateway"] == ("192.168.77.2" if of_host else "192.168.77.1")
        assert findings(node) == {}


def test_a_rogue_server_in_a_pod_is_not_believed_where_the_servers_are_named() -> None:
    with Lan(dhcp=None) as lan:
        node = lan.node("n1", '[dhcp]\nservers = ["192.168.77.1"]\n')
        node.start_daemon().wait_ready()
        Udhcpd(lan.gateway, Range(seconds=60)).start()
        bad = node.pod("bad")
        bad.add()
        node.write(
            "/etc/rogue",
            "start 192.168.77.30\nend 192.168.77.40\ninterface eth0\nlease_file /run/rogue\n"
            "option lease 60\noption router 192.168.77.30\noption subnet 255.255.255.0\n",
        )
        run = ["nsenter", f"--net=/run/netns/{bad.netns}", "udhcpd", "-f", "-a", "1", "/etc/rogue"]
        node.spawn(run, "/var/log/rogue")
        eventually(lambda: "started" in node.read("/var/log/rogue"), 5.0)
        for n in range(5):
            node.pod(f"web-{n}").add()
        assert "OFFER" in node.read("/var/log/rogue"), "the rogue did not even try"
        assert {one["server"] for one in node.api("Leases")["leases"]} == {"192.168.77.1"}


def test_what_a_server_says_reaches_nothing_unescaped() -> None:
    """Journal, terwayctl, API, CNI, database: no byte of it that could steer a terminal, a shell or a parser."""
    codes = list(hostile.TEXTS)
    with Lan(dhcp=None) as lan:
        node = lan.node("n1", f'[dhcp]\nrequest = {codes}\ntimeout = "3s"\n')
        node.start_daemon("--debug").wait_ready()
        begin(lan.gateway, "words", lan.gateway_ip)
        pod = node.pod("web-0")
        result = pod.add()
        assert "domain" not in result.get("dns", {})
        (lease,) = node.api("Leases")["leases"]
        assert (lease["domain"], lease["search"]) == ("", [])
        assert lease["options"] == {str(code): hostile.WORDS.hex() for code in sorted(codes, key=codes.index)}
        shown = [node.terwayctl("leases", "show", "web-0").stdout, node.terwayctl("leases", "--json").stdout]
        eventually(lambda: "lease-lost" in findings(node), 12.0, "the renewal is refused", 0.05)
        shown += [node.terwayctl("status", check=False).stdout, findings(node)["lease-lost"], node.log()]
        shown += [node.terwayctl("status", "--json", check=False).stdout]
        # The words did come through, harmless: as hexadecimal digits, and with ? for what is no letter.
        assert hostile.WORDS.hex() in shown[0]
        assert "the server refused it (?]0;owned??[2J$(reboot)`" in node.log()
        rows = [file.read_bytes() for file in node.path("/var/lib/terwayd").glob("state.db*")]
        assert any(hostile.WORDS.hex().encode() in row for row in rows)
        for text in shown:
            assert all(c.isprintable() or c == "\n" for c in text), ascii(text)
            assert "owned\x07" not in text
        assert not any(b"reboot" in row for row in rows)
        json.loads(shown[1])


def test_a_server_that_answers_for_the_wrong_client() -> None:
    """Alone, it gives nobody an address, and the error says what came; beside a right one it is of no account."""
    with Lan(dhcp=None) as lan:
        node = lan.node("n1", '[dhcp]\ntimeout = "3s"\n')
        node.start_daemon().wait_ready()
        begin(lan.host, "wrong", lan.host_ip)
        with pytest.raises(ShimError) as failure:
            node.pod("web-0").add()
        assert failure.value.code == 11
        for part in (
            "DISCOVERs sent in ",
            "OFFERs of 192.168.77.2: it is for 02:00:00:00:00:99",
            "OFFERs of 192.168.77.2: it is for another client identifier",
            "it names no server (option 54)",
        ):
            assert part in failure.value.msg
        Kea(lan.gateway, Range(seconds=10)).start()
        pods = [node.pod(f"web-{n}") for n in range(5)]
        for pod in pods:
            pod.add()
        first = {one["name"]: one for one in node.api("Leases")["leases"]}

        def renewed() -> bool:
            leases = node.api("Leases")["leases"]
            return all(one["acquired"] > first[one["name"]]["acquired"] + 2 for one in leases)

        eventually(renewed, 12.0, "all are renewed", 0.2)
        assert {one["server"] for one in node.api("Leases")["leases"]} == {lan.gateway_ip}
        assert findings(node) == {}
        assert "lost" not in node.log()


@pytest.mark.alone
def test_a_flood_of_offers_that_nobody_asked_for() -> None:
    """Twenty thousand a second: pods get their leases and keep them, and the daemon answers and does not grow."""
    with Lan(dhcp=None) as lan:
        node = lan.node("n1")
        node.start_daemon().wait_ready()
        Kea(lan.gateway, Range(seconds=10)).start()
        node.pod("first").add()
        assert node.daemon is not None
        before = resident(node.daemon.pid)
        begin(lan.host, "flood", lan.host_ip)
        pods = [node.pod(f"web-{n}") for n in range(5)]
        for pod in pods:
            pod.add()
            assert pod.seconds < 10.0
        first = {one["name"]: one["acquired"] for one in node.api("Leases")["leases"]}
        eventually(
            lambda: all(one["acquired"] > first[one["name"]] + 2 for one in node.api("Leases")["leases"]),
            15.0,
            "all are renewed",
            0.3,
        )
        assert {one["server"] for one in node.api("Leases")["leases"]} == {lan.gateway_ip}
        assert resident(node.daemon.pid) < before + 8192
        received = node.ip_json("-s link show dev eth0")[0]["stats64"]["rx"]["packets"]
        print(f"{received} frames came; ADD took {[round(pod.seconds, 3) for pod in pods]} s")
        assert received > 10_000, "no flood"
        assert findings(node) == {}
