"""A pod that comes (back): its address is announced, and after a reboot it asks for the one it had."""

from __future__ import annotations

from ipaddress import IPv4Address

from tests.interop.capture import Capture
from tests.lab import Lan, Node, eventually
from tests.lab.machine import PYTHON

STATE = "/var/lib/terwayd/state.db"


def reboot(node: Node) -> None:
    """What a reboot leaves of a node's pods: their rows, of another boot, and nothing else of them."""
    assert node.daemon is not None
    node.daemon.kill9()
    names = [link["ifname"] for link in node.ip_json("link show type veth")]
    node.ip(*[f"link del {name}" for name in names if name.startswith("tw") and len(name) == 14])
    change = "UPDATE attachments SET boot_id = 'another'"
    node.run(
        [
            PYTHON,
            "-c",
            f'import sqlite3; sqlite3.connect("{STATE}", isolation_level=None).execute("{change}")',
        ]
    )


def test_a_pod_asks_for_its_address_after_a_reboot(lan: Lan) -> None:
    node = lan.node("n1")
    node.start_daemon().wait_ready()
    pods = [node.pod(f"web-{n}") for n in range(3)]
    for pod in pods:
        pod.add()
    had = {pod.pod_name: pod.address for pod in pods}
    reboot(node)
    with Capture(lan.gateway) as wire:
        node.start_daemon().wait_ready()
        assert len(lan.dhcp.leases()) == 3
        for name in ("web-2", "web-0"):
            pod = node.pod(name)
            pod.add()
            assert pod.address == had[name]
            discover, *_ = wire.dhcp("DISCOVER", pod.mac)
            assert discover.options[50] == had[name].packed
        assert wire.dhcp("RELEASE") == [], "a lease was given back that its pod came for"
    assert len(node.api("Leases")["leases"]) == 2


def test_the_lan_learns_of_a_new_address_at_once(lan: Lan) -> None:
    node = lan.node("n1")
    node.start_daemon().wait_ready()
    pod = node.pod("web-0")
    with Capture(lan.host) as wire:
        pod.add()
        ip = IPv4Address(str(pod.address))
        eventually(
            lambda: [one for one in wire.arp(pod.mac) if one.sender == one.target == ip],
            2.0,
            "an announcement",
        )
