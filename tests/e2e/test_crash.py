"""The daemon killed with pods on the LAN: they do not notice, and the next daemon goes on with their leases."""

from __future__ import annotations

import time

from terwayd.dhcp.client import REBOOT_SPREAD_S
from tests.lab import Lan, Node, eventually

PODS = 20


def test_a_killed_daemon_costs_no_packet_and_no_lease(lan: Lan) -> None:
    node = lan.node("n1")
    daemon = node.start_daemon().wait_ready()
    pods = [node.pod(f"web-{number}") for number in range(PODS)]
    for pod in pods:
        pod.add()
    before = {lease.mac: lease.address for lease in lan.dhcp.leases()}
    assert len(before) == PODS
    probes = [lan.host.probe(pod.address, interval_ms=50) for pod in pods]

    daemon.kill9()
    requests = len(lan.dhcp.messages("DHCPREQUEST"))
    discovers = len(lan.dhcp.messages("DHCPDISCOVER"))
    node.start_daemon().wait_ready()

    held = {lease["mac"]: lease for lease in node.api("io.terway.Leases")["leases"]}
    assert {mac: lease["address"].split("/")[0] for mac, lease in held.items()} == {
        mac: str(address) for mac, address in before.items()
    }
    assert {lease["state"] for lease in held.values()} == {"bound"}
    # A lease whose renewal is not due needs no packet at a restart, nor a second later, when such packets are spread.
    time.sleep(REBOOT_SPREAD_S + 0.2)
    assert len(lan.dhcp.messages("DHCPREQUEST")) == requests

    # Leases run two minutes here, so that each is renewed within the next 75 seconds.
    def renewed() -> bool:
        asked = {message.mac for message in lan.dhcp.messages("DHCPACK")[requests:]}
        return asked >= set(before)

    eventually(renewed, 90, "every lease is renewed", 0.5)
    assert not lan.dhcp.messages("DHCPNAK")
    assert len(lan.dhcp.messages("DHCPDISCOVER")) == discovers
    losses = [probe.stop() for probe in probes]
    assert min(loss.sent for loss in losses) > 1000
    assert all(loss.none for loss in losses), [str(loss) for loss in losses]
    assert {lease.mac: lease.address for lease in lan.dhcp.leases()} == before


def test_a_lease_whose_pod_went_while_nobody_watched_is_given_back(lan: Lan) -> None:
    node = lan.node("n1")
    daemon = node.start_daemon().wait_ready()
    gone, stays = node.pod("gone"), node.pod("stays")
    gone.add()
    stays.add()
    daemon.kill9()
    gone.remove()
    eventually(
        lambda: {"twdhcp", "twdhcp0"} == {name for name in links(node) if name[:2] == "tw"} - {stays.port}
    )

    node.start_daemon().wait_ready()

    eventually(lambda: [lease.mac for lease in lan.dhcp.leases()] == [stays.mac], 5, "one lease is left")
    assert [lease["name"] for lease in node.api("io.terway.Leases")["leases"]] == ["stays"]


def links(node: Node) -> set[str]:
    return {str(link["ifname"]) for link in node.ip_json("link")}
