"""A pod reaches the ClusterIPs that kube-proxy serves on its node, wherever the backend is, and itself.

kube-proxy's rules are written by the test, as kube-proxy does in each of its modes (kube_proxy.py).  The node
has Docker's FORWARD policy DROP.  Pods, backends, DHCP server and daemon are the lab's real ones.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e import kube_proxy
from tests.e2e.kube_proxy import Service
from tests.lab import Lan, Node, Pod, eventually
from tests.lab.machine import CHECKOUT, PYTHON

TALK = [PYTHON, "-IS", str(CHECKOUT / "tests/e2e/talk.py")]
CONFIG = f'[pods]\nservice_cidrs = ["{kube_proxy.SERVICE_CIDR}"]\n'
DOCKER = (
    "iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN; iptables -I FORWARD -j DOCKER-USER;"
    "iptables -P FORWARD DROP"
)
ACCEPT = "-A DOCKER-USER -i mybr0 -o mybr0 -m comment --comment terwayd -j ACCEPT"
WHERE = ["self", "same", "other", "host"]


@dataclass
class Stage:
    """A client pod, and a server in it, in a pod beside it, in a pod of another node and on a host of the LAN."""

    lan: Lan
    node: Node
    client: Pod
    services: list[Service]

    def serve(self, mode: str, *, br_netfilter: bool) -> None:
        kube_proxy.write(self.node, mode, self.services, self.lan.net)
        self.node.run(f"sysctl -qw net.bridge.bridge-nf-call-iptables={int(br_netfilter)}")

    def reached(self) -> dict[str, set[str]]:
        """By which protocols the client reached which backend by its Service."""
        told = self.client.run([*TALK, "ask", "8080", *(s.cluster_ip for s in self.services)]).stdout
        answers: dict[str, str | None] = json.loads(told)
        found: dict[str, set[str]] = {name: set() for name in WHERE}
        for name, service in zip(WHERE, self.services, strict=True):
            for proto in ("tcp", "udp"):
                answer = answers[f"{proto} {service.cluster_ip}"]
                if answer is not None:
                    assert answer.split()[0] == name
                    found[name].add(proto)
        return found

    def rules(self) -> str:
        return self.node.run("nft list tables; iptables -S; iptables-legacy -S FORWARD").stdout


ALL = {name: {"tcp", "udp"} for name in WHERE}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Lan() as lan:
        nodes = [lan.node("n1", CONFIG), lan.node("n2", CONFIG)]
        for node in nodes:
            node.run("sysctl -qw net.ipv4.ip_forward=1")
            node.start_daemon()
        for node in nodes:
            assert node.daemon is not None
            node.daemon.wait_ready()
        nodes[0].run(DOCKER)
        pods = [nodes[0].pod("client"), nodes[0].pod("beside"), nodes[1].pod("elsewhere")]
        for pod in pods:
            pod.add()
        places = dict(zip(WHERE, [*pods, lan.host], strict=True))
        servers = [
            place.popen([*TALK, "serve", "8080", name], stdout=subprocess.PIPE)
            for name, place in places.items()
        ]
        for server in servers:
            assert server.stdout is not None
            with server.stdout as output:
                assert output.readline() == b"serving\n"
        ips = [*(str(pod.address) for pod in pods), lan.host_ip]
        services = [
            Service(name, f"10.96.0.1{n}", ip) for n, (name, ip) in enumerate(zip(WHERE, ips, strict=True))
        ]
        yield Stage(lan, nodes[0], pods[0], services)
        for server in servers:  # what nsenter has started ends with its machine
            server.kill()
            server.wait()


@pytest.mark.parametrize("br_netfilter", [True, False], ids=["br_netfilter", "routed"])
@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_every_backend_is_reached(stage: Stage, mode: str, br_netfilter: bool) -> None:
    stage.serve(mode, br_netfilter=br_netfilter)
    eventually(lambda: ACCEPT in stage.rules(), 5.0, "the rule stands where Docker has it looked at")
    assert stage.reached() == ALL
    told = stage.node.terwayctl("status").stdout
    assert "inet terwayd: what a Service sends back out of mybr0" in told
    assert "iptables-nft DOCKER-USER: what comes and leaves by mybr0" in told


def take_rules_away(node: Node) -> None:
    node.run("nft delete table inet terwayd; nft delete table bridge terwayd; iptables -D" + ACCEPT[2:])


@pytest.mark.parametrize("br_netfilter", [True, False], ids=["br_netfilter", "routed"])
def test_without_the_rules_they_are_not(stage: Stage, br_netfilter: bool) -> None:
    """What this file shows is the rules' doing; a daemon that starts again finds them gone, and makes them."""
    assert stage.node.daemon is not None
    stage.node.daemon.term()
    stage.serve("iptables", br_netfilter=br_netfilter)
    take_rules_away(stage.node)
    itself_alone: dict[str, set[str]] = {name: set() for name in WHERE} | {"self": {"tcp", "udp"}}
    assert stage.reached() == itself_alone  # kube-proxy accepts what it masquerades; the rest is dropped
    if not br_netfilter:
        stage.node.run("iptables -P FORWARD ACCEPT")
        assert stage.reached() == itself_alone  # the rest is answered past the node
        stage.node.run("iptables -P FORWARD DROP")
    stage.node.start_daemon().wait_ready()
    assert stage.reached() == ALL


def redirected(pod: Pod) -> bool:
    """Whether a pod gets ICMP redirects from its node, which after some of them sends that pod none for a while."""

    def counted() -> int:
        lines = pod.run("cat /proc/net/snmp").stdout.splitlines()
        names, values = (line.split() for line in lines if line.startswith("Icmp: "))
        return int(values[names.index("InRedirects")])

    before = counted()
    pod.run("ping -c 3 -i 0.2 -w 2 10.96.99.99", check=False)
    return counted() > before


def test_no_redirect_reaches_a_pod(stage: Stage) -> None:
    """For what is translated the kernel sends none; so it is asked for what no rule of kube-proxy knows."""
    kube_proxy.clean(stage.node)
    stage.node.run("sysctl -qw net.bridge.bridge-nf-call-iptables=0; iptables -P FORWARD ACCEPT")
    with_rules, without = stage.node.pod("with-rules"), stage.node.pod("without")
    with_rules.add()
    without.add()
    assert not redirected(with_rules)
    assert stage.node.daemon is not None
    stage.node.daemon.term()
    stage.node.run(
        "nft delete table bridge terwayd; nft delete table inet terwayd"
    )  # both: NAT knows no redirect either
    assert redirected(without)
    stage.node.run("iptables -P FORWARD DROP")
    stage.node.start_daemon().wait_ready()
    with_rules.delete()
    without.delete()


def test_a_pod_reaches_itself_by_its_hairpin(stage: Stage) -> None:
    """With br_netfilter only; and what a pod says to everybody does not come back to it."""
    stage.serve("iptables", br_netfilter=True)
    port = next(pod["host_ifname"] for pod in stage.node.status()["pods"] if pod["name"] == "client")
    stage.node.run(f"bridge link set dev {port} hairpin off")
    assert stage.reached() == ALL | {"self": set()}
    stage.node.run(f"bridge link set dev {port} hairpin on")
    assert stage.reached() == ALL
    with stage.client.popen(
        f"timeout 20 tcpdump -pnl -c 1 -Q in -i eth0 ether src {stage.client.mac} 2>&1",
        stdout=subprocess.PIPE,
    ) as hearing:
        assert hearing.stdout is not None
        while b"listening" not in (line := hearing.stdout.readline()):
            assert line
        stage.client.run("ping -b -c 1 -w 1 192.168.77.255", check=False)
        stage.client.run("ping -c 1 -w 1 ff02::1%eth0", check=False)
        stage.client.ping(stage.services[0].cluster_ip)  # not sent back either: ICMP is no Service's
        stage.reached()  # but this is
        heard = hearing.stdout.read().decode()
    assert f"{stage.services[0].endpoint}.8080" in heard, heard


def test_what_is_flushed_comes_back(stage: Stage) -> None:
    stage.serve("nftables", br_netfilter=False)
    for command in (
        "nft delete table inet terwayd",
        "nft flush table bridge terwayd",
        "nft flush set bridge terwayd macs",
        "nft flush chain inet terwayd return_path",
        "iptables -F DOCKER-USER",
        "iptables -D DOCKER-USER -i mybr0 -o mybr0 -m comment --comment terwayd -j ACCEPT",
    ):
        eventually(lambda: ACCEPT in stage.rules(), 5.0)
        before = stage.node.run("nft list table inet terwayd; nft list table bridge terwayd").stdout
        stage.node.run(command)

        def as_before(before: str = before) -> bool:
            now = stage.node.run(
                "nft list table inet terwayd; nft list table bridge terwayd", check=False
            ).stdout
            return now == before and ACCEPT in stage.rules()

        eventually(as_before, 10.0, f"mended: {command}")
    assert stage.reached() == ALL


def test_nothing_is_left_after_a_teardown(lan: Lan) -> None:
    """With the daemon and without it, in iptables-nft and in the iptables of old."""
    node = lan.node("n1", CONFIG)
    node.run("iptables -P FORWARD DROP; iptables-legacy -P FORWARD DROP")
    before = node.run("nft list ruleset; iptables-legacy -S").stdout
    daemon = node.start_daemon().wait_ready()
    rule = "-A FORWARD -i mybr0 -o mybr0 -m comment --comment terwayd -j ACCEPT"
    told = "table bridge terwayd", "table inet terwayd"

    def ruled() -> bool:
        both = node.run("iptables -S FORWARD").stdout, node.run("iptables-legacy -S FORWARD").stdout
        return all(rule in text for text in both) and all(
            t in node.run("nft list tables").stdout for t in told
        )

    eventually(ruled, 5.0)
    daemon.kill9()
    node.terwayctl("teardown", "--force")
    assert node.run("nft list ruleset; iptables-legacy -S").stdout == before
    node.start_daemon().wait_ready()
    eventually(ruled, 5.0)
    node.terwayctl("teardown")
    time.sleep(0.5)  # what does not come back cannot be waited for
    assert node.run("nft list ruleset; iptables-legacy -S").stdout == before


def test_rules_of_old_are_put_right_at_once(lan: Lan) -> None:
    """Whoever changes them, by the lock that all of them take; one that does not, when the next pod comes."""
    node = lan.node("n1", CONFIG)
    daemon = node.start_daemon().wait_ready()

    def stands() -> bool:
        rules = node.run("iptables-legacy-save").stdout  # takes no lock, and so tells the daemon nothing
        return "-A FORWARD -i mybr0 -o mybr0 -m comment --comment terwayd -j ACCEPT" in rules

    container = "touch /tmp/lock; mount --bind /run/xtables.lock /tmp/lock; XTABLES_LOCKFILE=/tmp/lock "
    for command in (
        "iptables-legacy -P FORWARD DROP",
        "iptables-legacy -F FORWARD",
        f"unshare --mount sh -ec '{container} iptables-legacy -F FORWARD'",
        "rm /run/xtables.lock; iptables-legacy -F FORWARD",
    ):
        node.run(command)
        eventually(stands, 5.0, f"mended: {command}")
    node.run("XTABLES_LOCKFILE=/tmp/other iptables-legacy -P FORWARD ACCEPT")
    node.pod("web-0").add()
    eventually(lambda: not stands(), 5.0, "it goes again")
    eventually(lambda: daemon.log().count("mended: iptables-legacy") == 5, 2.0, "each is told")
