"""containerd 1.6: `ctr run --cni`, and CRI as kubelet drives it."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Interface

import pytest

from tests.core.test_docs import to_run
from tests.lab import Lan, Node, eventually
from tests.lab.node import SOCKET
from tests.runtime import cgroup, image
from tests.runtime.containerd import Containerd
from tests.runtime.cri import Cri, CriError

pytestmark = pytest.mark.runtime

ORIGINAL = {
    "name": "mycninet",
    "cniVersion": "0.3.1",
    "type": "cni-terway",
    "delegate": {
        "cniVersion": "0.3.1",
        "name": "mycninet",
        "type": "bridge",
        "bridge": "mybr0",
        "ipam": {"type": "dhcp"},
    },
}
NO_LEASE = "no DHCP lease for"
WATCH = "tcpdump -nei any 'port 67 or port 68'"  # the hint's command


def host_ends(node: Node) -> list[str]:
    """The node's ends of the veth pairs."""
    names = [str(link["ifname"]) for link in node.ip_json("link show")]
    return [name for name in names if name.startswith("tw") and not name.startswith("twdhcp")]


def wait_until_nothing_is_left(lan: Lan, node: Node, timeout: float = 10.0) -> None:
    """Wait until the DHCP server has every lease back and the node has no trace of a pod."""
    eventually(lambda: not lan.dhcp.leases(), timeout, "the DHCP server has its leases back")
    eventually(lambda: not host_ends(node), timeout, "no veth is left")
    eventually(lambda: node.status()["pods"] == [], timeout, "no pod is known")


def test_ctr_run_gives_a_container_an_address_of_the_lan(
    lan: Lan, node: Node, containerd: Containerd
) -> None:
    running = containerd.start("web-0")

    shown = containerd.exec("web-0", "ip", "-4", "-o", "addr", "show", "dev", "eth0").split()
    address = IPv4Interface(shown[shown.index("inet") + 1])
    lease = lan.dhcp.lease_of(address.ip)
    assert lease is not None, f"the server knows no lease of {address}"
    assert lease.mac == containerd.exec("web-0", "cat", "/sys/class/net/eth0/address").strip()
    assert str(address.network) == lan.net
    assert lan.host.ping(address.ip)
    containerd.exec("web-0", "ping", "-c", "1", "-W", "1", lan.host_ip)
    containerd.exec("web-0", "ping", "-c", "1", "-W", "1", lan.world)  # by the default route

    containerd.kill("web-0")
    assert running.wait() == 128 + signal.SIGKILL
    wait_until_nothing_is_left(lan, node)  # ctr's DEL comes before ctr ends
    assert lan.dhcp.messages("DHCPRELEASE", lease.mac)


def test_ctr_run_again_gets_the_same_address(lan: Lan, containerd: Containerd) -> None:
    leases = []
    for _ in range(2):
        running = containerd.start("web-0")
        leases += eventually(lan.dhcp.leases, 2.0, "the server has written the lease down")
        containerd.kill("web-0")
        running.wait()

    first, second = leases
    assert (first.address, first.mac, first.client_id) == (second.address, second.mac, second.client_id)


def test_a_container_that_ends_without_a_del_gives_its_lease_back(
    lan: Lan, node: Node, containerd: Containerd
) -> None:
    """`ctr run --detach` never calls DEL; the container's namespace and its veth go with its process."""
    group = f"--cgroup {cgroup.PARENT}/web"
    for line in to_run("docs/containers.md", "run: ctr"):
        command = line.replace("docker.io/library/busybox:latest", image.NAME).replace(
            "--cni", f"--cni {group}"
        )
        shown = node.run(command, env={"CONTAINERD_SNAPSHOTTER": "native"})
        if " exec " in command:
            (lease,) = lan.dhcp.leases()
            assert f"inet {lease.address}/24 " in shown.stdout

    wait_until_nothing_is_left(lan, node)


def test_ctr_with_a_shell(lan: Lan, node: Node, containerd: Containerd) -> None:
    """The README's line, with something typed."""
    [line] = to_run("README.md", "run: ctr")
    command = line.replace("docker.io/library/busybox:latest", image.NAME)
    command = command.replace("--cni", f"--cni --cgroup {cgroup.PARENT}/web")
    typed = "ip -4 address show eth0\nexit\n"
    terminal = ["script", "--quiet", "--return", "--command", command, "/dev/null"]
    shown = node.run(terminal, env={"CONTAINERD_SNAPSHOTTER": "native"}, input=typed)
    message, *_ = lan.dhcp.messages("DHCPACK")
    assert f"inet {message.address}/24 " in shown.stdout
    wait_until_nothing_is_left(lan, node)


def test_ctr_shows_why_there_is_no_lease(lan: Lan, node: Node, containerd: Containerd) -> None:
    lan.dhcp.stop()

    failed = containerd.run("web-0")

    assert failed.returncode == 1
    assert NO_LEASE in failed.stderr
    assert WATCH in failed.stderr
    wait_until_nothing_is_left(lan, node)


def test_ctr_shows_that_the_daemon_is_not_there(node: Node, containerd: Containerd) -> None:
    assert node.daemon is not None
    node.daemon.term()
    node.path(SOCKET).unlink(missing_ok=True)  # as after a boot without terwayd

    failed = containerd.run("web-0")

    assert failed.returncode == 1
    assert "terwayd is not running" in failed.stderr
    assert "hint: systemctl start terwayd" in failed.stderr


def test_cri_network_is_ready_exactly_while_terwayd_takes_pods(lan: Lan) -> None:
    node = lan.node("n1")
    cri = Cri(Containerd(node))
    assert "cni plugin not initialized" in cri.network_ready().message

    node.start_daemon().wait_ready()
    eventually(lambda: cri.network_ready().status, 5.0, "the node's network is ready")

    node.terwayctl("teardown")
    eventually(lambda: not cri.network_ready().status, 5.0, "the node's network is not ready any more")


def test_cri_sandbox_has_an_address_of_the_lan(lan: Lan, node: Node, containerd: Containerd) -> None:
    cri = Cri(containerd)

    sandbox = cri.run_sandbox("shop", "web-0")
    lease = lan.dhcp.lease_of(cri.address(sandbox))
    assert lease is not None, f"the server knows no lease of {cri.address(sandbox)}"
    assert lease.hostname == "web-0"
    assert lan.host.ping(lease.address)
    [pod] = node.status()["pods"]
    assert (pod["namespace"], pod["name"], pod["mac"]) == ("shop", "web-0", lease.mac)

    cri.stop(sandbox)
    wait_until_nothing_is_left(lan, node)
    cri.remove(sandbox)  # calls DEL once more, now without a namespace
    assert cri.sandboxes() == []

    again = cri.run_sandbox("shop", "web-0", attempt=1)
    assert cri.address(again) == str(lease.address), "a pod keeps its address over its sandboxes"


def test_cri_tells_kubelet_why_there_is_no_lease(lan: Lan, node: Node, containerd: Containerd) -> None:
    cri = Cri(containerd)
    lan.dhcp.stop()

    with pytest.raises(CriError, match=NO_LEASE) as failure:
        cri.run_sandbox("shop", "web-0")
    assert WATCH in str(failure.value)
    wait_until_nothing_is_left(lan, node)

    for sandbox in cri.sandboxes():  # as kubelet does before it tries again
        cri.stop(sandbox)
        cri.remove(sandbox)
    lan.dhcp.start()
    assert lan.dhcp.lease_of(cri.address(cri.run_sandbox("shop", "web-0", attempt=1)))


def test_pods_are_known_again_after_the_database_was_lost(
    lan: Lan, node: Node, containerd: Containerd
) -> None:
    """By the veths and by libcni's cache: the lease goes on and is given back in the end, as if nothing had been."""
    forgotten = node.pod("no-cache")  # the first: `ip netns add` makes a mount that later ones lie on
    forgotten.add()
    cri = Cri(containerd)
    sandbox = cri.run_sandbox("shop", "web-0")
    running = containerd.start("web-1")
    before = {one["container_id"]: one for one in node.api("Leases")["leases"]}
    assert node.daemon is not None
    node.daemon.kill9()
    state = node.path("/var/lib/terwayd/state.db")
    for file in state.parent.glob("state.db*"):
        file.unlink()
    state.write_bytes(b"not a database" * 100)
    # The server has to say that the addresses may go on: it is asked, and hears of nothing else.
    asked = {message.xid for message in lan.dhcp.messages("DHCPREQUEST")}
    node.start_daemon().wait_ready()
    eventually(
        lambda: [one["state"] for one in node.api("Leases")["leases"]] == ["bound"] * 2, 20.0, "both again"
    )
    eventually(
        lambda: {one["server"] for one in node.api("Leases")["leases"]} == {lan.gateway_ip},
        5.0,
        "both are confirmed",
    )
    for one in node.api("Leases")["leases"]:
        same = ("container_id", "mac", "address", "client_id", "hostname", "host_ifname", "dns", "gateway")
        assert {key: one[key] for key in same} == {key: before[one["container_id"]][key] for key in same}
    assert len({message.xid for message in lan.dhcp.messages("DHCPREQUEST")} - asked) == 2
    assert [found["code"] for found in node.status()["findings"]] == ["state-lost"]
    assert "default/no-cache is of a pod that nothing else is known of" in node.log()
    for address in (cri.address(sandbox), before["default-web-1"]["address"].partition("/")[0]):
        assert lan.host.ping(address)

    forgotten.delete()
    containerd.kill("web-1")
    running.wait()
    cri.stop(sandbox)
    eventually(lambda: not host_ends(node), 10.0, "no veth is left")
    eventually(
        lambda: len(lan.dhcp.leases()) == 1,
        2.0,
        "but of the one that nothing was known of, all are given back",
    )


def test_cri_runs_thirty_sandboxes_at_once(lan: Lan) -> None:
    """RunPodSandbox, PodSandboxStatus, StopPodSandbox and RemovePodSandbox of all of them in parallel."""
    node = lan.node("n1")
    node.start_daemon().wait_ready()
    cri = Cri(Containerd(node))
    names = [f"web-{number}" for number in range(30)]
    with ThreadPoolExecutor(len(names)) as pool:
        sandboxes = list(pool.map(lambda name: cri.run_sandbox("shop", name), names))
        addresses = list(pool.map(cri.address, sandboxes))
        assert len(set(addresses)) == len(names)
        assert {str(lease.address): lease.hostname for lease in lan.dhcp.leases()} == dict(
            zip(addresses, names, strict=True)
        )
        assert all(pool.map(lan.host.ping, addresses))
        list(pool.map(cri.stop, sandboxes))
        wait_until_nothing_is_left(lan, node, 10.0)
        list(pool.map(cri.remove, sandboxes))
    assert cri.sandboxes() == []


def test_cri_pod_gets_what_its_annotations_ask_for(lan: Lan, node: Node, containerd: Containerd) -> None:
    cri = Cri(containerd)
    asked = {
        "terway.io/mac": "02:11:22:33:44:55",
        "terway.io/ip": "192.168.77.150",
        "terway.io/hostname": "db",
    }

    sandbox = cri.run_sandbox("shop", "web-0", annotations=asked)

    [lease] = lan.dhcp.leases()
    assert (lease.mac, str(lease.address), lease.hostname) == tuple(asked.values())
    assert cri.address(sandbox) == "192.168.77.150"
    cri.stop(sandbox)
    wait_until_nothing_is_left(lan, node)


def test_the_original_configuration_under_cri(lan: Lan, node: Node, containerd: Containerd) -> None:
    """The file that cni-terway's DaemonSet copied to every node comes before ours, and is the one in use."""
    node.write("/etc/cni/net.d/10-cni-terway.conf", json.dumps(ORIGINAL))
    cri = Cri(containerd)

    def network() -> list[str]:
        sandbox = cri.run_sandbox("shop", "web-0")
        told = [pod["network"] for pod in node.api("Leases")["leases"]]
        assert lan.dhcp.lease_of(cri.address(sandbox))
        cri.stop(sandbox)
        cri.remove(sandbox)
        return told

    eventually(lambda: network() == ["mycninet"], 10.0, "containerd has read the file")
    wait_until_nothing_is_left(lan, node)
