"""DHCP servers in unusual places: on the node itself, in one of its pods, and a rogue one."""

from __future__ import annotations

import signal
from ipaddress import IPv4Address
from itertools import pairwise
from typing import Any

from tests.interop.capture import Capture
from tests.interop.servers import Range, Udhcpd
from tests.lab import Lan, Node, Pod, eventually


def acquire_and_renew(lan: Lan, pod: Pod, server: str) -> None:
    """The pod gets an address from `server`, and keeps it for longer than the lease."""
    with Capture(lan.gateway) as wire:
        pod.add()
        assert IPv4Address("192.168.77.100") <= pod.address <= IPv4Address("192.168.77.200")
        first = lease(pod)
        assert first["server"] == server
        eventually(lambda: lease(pod)["acquired"] > first["acquired"] + 1, 9.0, "the lease is renewed", 0.1)
        assert lease(pod)["state"] == "bound"
        assert lease(pod)["address"] == first["address"]
        discovers = wire.dhcp("DISCOVER", pod.mac)
        assert all(b.at - a.at > 0.5 for a, b in pairwise(discovers)), "the LAN hears each DISCOVER once"
        assert discovers[0].flags == 0, "and is not asked to broadcast"
    pod.delete()


def lease(pod: Pod) -> dict[str, Any]:
    found = pod.node.api("Leases")["leases"]
    return dict(next(one for one in found if one["name"] == pod.pod_name))


def test_a_server_on_the_node_itself() -> None:
    with Lan(dhcp=None) as lan:
        node = lan.node("n1")
        before = links(node)
        node.start_daemon().wait_ready()
        assert links(node) - before == {"mybr0", "twdhcp", "twdhcp0"}
        server = Udhcpd(node, Range(interface="mybr0"))
        server.start()
        for name in ("web-0", "web-1"):
            if name == "web-1":
                node.ip("link del twdhcp")
                eventually(lambda: "twdhcp" in links(node), 5.0, "the way to it is mended")
            acquire_and_renew(lan, node.pod(name), "192.168.77.11")
        node.terwayctl("teardown")
        assert links(node) == before
        server.stop()


def test_a_server_in_a_pod() -> None:
    with Lan(dhcp=None) as lan:
        node = lan.node("n1")
        node.start_daemon().wait_ready()
        inside = node.pod("dhcp")
        server = Udhcpd(node, Range(interface="mybr0"))
        server.start()
        # A pod that will be a server needs an address first: here a server on the node gives it.
        inside.add(config={"antispoof": False})  # no other pod may answer for a server
        server.stop()
        address = str(inside.address)
        node.write("/etc/pod-dhcp", pod_server(address))
        run = ["nsenter", f"--net=/run/netns/{inside.netns}", "udhcpd", "-f", "-a", "1", "/etc/pod-dhcp"]
        process = node.spawn(run, "/var/log/pod-dhcp")
        eventually(lambda: "started" in node.read("/var/log/pod-dhcp"), 5.0)
        acquire_and_renew(lan, node.pod("web-0"), address)
        process.signal(signal.SIGTERM)


def pod_server(address: str) -> str:
    return "\n".join(
        [
            "start 192.168.77.150\nend 192.168.77.190\ninterface eth0\nlease_file /run/pod-leases",
            "option lease 12\nmin_lease 1\noption subnet 255.255.255.0\noption router 192.168.77.1\n",
        ]
    )


def links(node: Node) -> set[str]:
    return {str(link["ifname"]) for link in node.ip_json("link show")}
