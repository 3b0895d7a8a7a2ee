"""A changed terway.toml while the daemon runs: what is in force at once, what waits, and what is refused."""

from __future__ import annotations

import signal
from ipaddress import ip_interface

from tests.lab import Lan, Node, Pod, eventually

CONFIG = "/etc/terway.toml"
SERVICES = '[pods]\nservice_cidrs = ["10.96.0.0/12"]\n'


def findings(node: Node) -> dict[str, str]:
    return {found["code"]: found["message"] for found in node.status()["findings"]}


def services(pod: Pod) -> list[str]:
    """By what gateway the pod reaches the Service range, if it has a route there."""
    return [route["gateway"] for route in pod.ip_json("route show 10.96.0.0/12")]


def test_what_is_applied_and_what_waits(lan: Lan) -> None:
    node = lan.node("n1")
    daemon = node.start_daemon().wait_ready()
    pod = node.pod("web-0")
    pod.add()
    host = ip_interface(node.status()["host"]["addresses"][0]).ip
    before = node.state()
    assert services(pod) == []
    assert node.terwayctl("reload").stdout == "Nothing has changed.\n"

    with lan.host.probe(pod.address) as probe:
        node.path("/etc/cni/elsewhere").mkdir()
        node.write(
            CONFIG, f'[host]\nbridge = "br7"\n{SERVICES}mtu = 1400\n[cni]\nconf_dir = "/etc/cni/elsewhere"\n'
        )
        assert node.api("Reload") == {
            "applied": ["pods.service_cidrs", "pods.mtu", "cni.conf_dir"],
            "waiting": ["host.bridge"],
        }
        eventually(lambda: services(pod) == [str(host)], 5, "the pod has the route")
        eventually(lambda: pod.ip_json("link show eth0")[0]["mtu"] == 1400, 5, "and the MTU")
        assert node.path("/etc/cni/elsewhere/10-terway.conflist").exists()
        assert not node.path("/etc/cni/net.d/10-terway.conflist").exists()
        assert "host.bridge" in findings(node)["configuration"]
        assert node.status()["host"]["bridge"] == "mybr0"

        node.write(CONFIG, "")
        daemon.process.signal(signal.SIGHUP)
        eventually(lambda: services(pod) == [], 5, "the route is gone again")
        assert "configuration" not in findings(node)
    assert node.path("/etc/cni/net.d/10-terway.conflist").exists()
    assert before.diff(node.state()) == []
    assert probe.loss is not None
    assert probe.loss.none, probe.loss
    pod.check()
    late = node.pod("late-0")
    late.add()
    assert lan.host.ping(late.address)


def test_a_file_that_is_wrong_changes_nothing_and_is_told(lan: Lan) -> None:
    node = lan.node("n1", SERVICES)
    daemon = node.start_daemon().wait_ready()
    pod = node.pod("web-0")
    pod.add()
    had = services(pod)
    assert had
    for wrong in (
        "[pods]\nservice_cidr = []\n",  # an unknown key
        '[pods]\nservice_cidrs = []\n[cni]\nconf_dir = "/proc/nowhere"\n',  # well written, but not to be had
    ):
        node.write(CONFIG, wrong)
        refused = node.terwayctl("reload", check=False)
        assert refused.returncode == 1, refused
        assert refused.stderr.startswith(("error: /etc/terway.toml: unknown", "error: cni.conf_dir"))
        assert "hint: " in refused.stderr
        assert "stays in force" in findings(node)["configuration"]
        assert node.status()["state"] == "ready"
        assert services(pod) == had
        assert daemon.running
    node.write(CONFIG, SERVICES)
    node.terwayctl("reload")
    assert "configuration" not in findings(node)
