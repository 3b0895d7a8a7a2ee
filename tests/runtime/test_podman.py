"""podman 4.3 with the CNI backend."""

from __future__ import annotations

import json

import pytest

from tests.core.test_docs import to_run
from tests.lab import Lan, Node, eventually
from tests.lab.machine import Place
from tests.lab.node import SOCKET
from tests.runtime import cgroup, image
from tests.runtime.podman import Podman
from tests.runtime.test_containerd import NO_LEASE, WATCH, wait_until_nothing_is_left

pytestmark = pytest.mark.runtime


def test_two_containers_at_once_have_addresses_of_the_lan(lan: Lan, node: Node, podman: Podman) -> None:
    # One names the network, the other takes the default; ping wants a right that podman does not give.
    starting = [podman.start("web-0", "--cap-add=NET_RAW", "--network=terway"), podman.start("web-1")]
    assert [process.wait(20) for process in starting] == [0, 0]

    leases = {lease.hostname: lease for lease in lan.dhcp.leases()}
    assert set(leases) == {"web-0", "web-1"}, "the containers' names are their host names at the server"
    for name, lease in leases.items():
        network = podman.network(name)
        assert (network["IPAddress"], network["MacAddress"]) == (str(lease.address), lease.mac)
        assert podman.exec(name, "cat", "/sys/class/net/eth0/address").strip() == lease.mac
        assert lan.host.ping(lease.address)
    podman.exec("web-0", "ping", "-c", "1", "-W", "1", str(leases["web-1"].address))
    podman.exec("web-0", "ping", "-c", "1", "-W", "1", lan.world)  # by the default route
    assert f"nameserver {lan.gateway_ip}\n" in podman.exec("web-0", "cat", "/etc/resolv.conf")

    podman("rm", "--force", "web-0")
    eventually(lambda: [lease.hostname for lease in lan.dhcp.leases()] == ["web-1"], 2.0, "one lease is back")
    assert lan.host.ping(leases["web-1"].address)
    podman("rm", "--force", "web-1")
    wait_until_nothing_is_left(lan, node)


def test_the_lines_of_the_document(lan: Lan, podman: Podman) -> None:
    podman("tag", image.NAME, "docker.io/library/nginx")
    run, inspect = to_run("docs/containers.md", "run: podman")
    podman.node.run(run.replace(" run ", f" run --cgroup-parent {cgroup.PARENT} "))
    [lease] = lan.dhcp.leases()
    assert podman.node.run(inspect).stdout.strip() == str(lease.address)


def test_a_container_keeps_its_address_over_restart_and_replacement(lan: Lan, podman: Podman) -> None:
    podman.run("web-0")
    [lease] = lan.dhcp.leases()

    podman("restart", "web-0")
    assert podman.network("web-0")["IPAddress"] == str(lease.address)

    podman.run("web-0", "--replace")
    [again] = lan.dhcp.leases()
    assert (again.address, again.mac, again.hostname) == (lease.address, lease.mac, lease.hostname)


def test_a_container_has_the_mac_that_it_asks_for(lan: Lan, podman: Podman) -> None:
    podman.run("web-0", "--mac-address", "02:11:22:33:44:55")

    [lease] = lan.dhcp.leases()
    assert lease.mac == "02:11:22:33:44:55"
    assert lan.host.ping(lease.address)


def test_podman_shows_why_there_is_no_lease(lan: Lan, node: Node, podman: Podman) -> None:
    lan.dhcp.stop()

    failed = podman.run("web-0", check=False)

    assert failed.returncode != 0
    assert NO_LEASE in failed.stderr
    assert WATCH in failed.stderr
    wait_until_nothing_is_left(lan, node)


def test_podman_shows_that_the_daemon_is_not_there(node: Node, podman: Podman) -> None:
    assert node.daemon is not None
    node.daemon.term()
    node.path(SOCKET).unlink(missing_ok=True)  # as after a boot without terwayd

    failed = podman.run("web-0", check=False)

    assert failed.returncode != 0
    assert "terwayd is not running" in failed.stderr
    assert "hint: systemctl start terwayd" in failed.stderr


def test_an_address_that_podman_asks_for(lan: Lan, podman: Podman) -> None:
    podman.run("web-0", "--network=terway", "--ip=192.168.77.150", "--mac-address=02:11:22:33:44:55")

    [lease] = lan.dhcp.leases()
    assert (str(lease.address), lease.mac) == ("192.168.77.150", "02:11:22:33:44:55")
    assert lan.host.ping(lease.address)


def test_podman_publishes_a_port_through_portmap(lan: Lan) -> None:
    """[cni] chain: what portmap does behind us is reached from the LAN and from beyond the gateway, and goes with a DEL."""
    node = lan.node(
        "n1",
        '[cni]\nchain = ["portmap", "bandwidth", { type = "tuning", sysctl = { "net.core.somaxconn" = "77" } }]\n',
    )
    node.start_daemon().wait_ready()
    node.run("sysctl -qw net.ipv4.ip_forward=1")
    podman = Podman(node)
    podman.run(
        "web-0",
        "--publish=8080:80",
        "--entrypoint=/bin/busybox",
        command=("httpd", "-f", "-p", "80", "-h", "/bin"),
    )
    assert podman.exec("web-0", "cat", "/proc/sys/net/core/somaxconn").strip() == "77"

    def reaches(place: Place, *options: str) -> bool:
        get = ["curl", "-sf", "--max-time", "2", "--output", "/dev/null", *options]
        return place.run([*get, "http://192.168.77.11:8080/cat"], check=False).returncode == 0

    for filtered in ("1", "0"):  # whether iptables sees what is bridged: some runtimes and proxies want that
        node.run(f"sysctl -qw net.bridge.bridge-nf-call-iptables={filtered}")
        eventually(lambda: reaches(lan.host), 10.0, "a host of the LAN reaches the port")
        assert reaches(node)
        assert reaches(lan.gateway, "--interface", lan.world), "and so does one beyond the gateway"
    podman("rm", "--force", "web-0")
    wait_until_nothing_is_left(lan, node)
    assert not reaches(lan.host)
    assert "8080" not in node.run("iptables-save").stdout


def test_a_container_in_two_networks(lan: Lan, node: Node, podman: Podman) -> None:
    """terwayd's own, and one that an administrator wrote for addresses without DHCP."""
    plugin = {"type": "cni-terway", "static": True, "capabilities": {"ips": True, "mac": True}}
    second = {"cniVersion": "0.4.0", "name": "fixed", "plugins": [plugin]}
    node.write("/etc/cni/net.d/20-fixed.conflist", json.dumps(second))

    podman.run("web-0", "--network=terway", "--network=fixed:ip=192.168.77.60")

    [lease] = lan.dhcp.leases()
    shown = podman.exec("web-0", "ip", "-4", "-o", "addr", "show").split()
    assert {f"{lease.address}/24", "192.168.77.60/24", "eth0", "eth1"} <= set(shown)
    assert lan.host.ping(lease.address)
    assert lan.host.ping("192.168.77.60")
    assert {pod["network"] for pod in node.api("Leases")["leases"]} == {"terway", "fixed"}
    podman("rm", "--force", "web-0")
    wait_until_nothing_is_left(lan, node)
