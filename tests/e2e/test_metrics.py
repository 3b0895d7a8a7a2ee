"""Metrics as Prometheus and node_exporter get them, from a daemon that has done something."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from tests.core.promlint import problems
from tests.core.test_cli_golden import validate
from tests.lab import Lan, Node, ShimError, eventually

CONFIG = """
[dhcp]
timeout = "3s"
[metrics]
listen = "192.168.77.11:9753"
"""


@pytest.fixture
def node(lan: Lan) -> Node:
    node = lan.node("n1", CONFIG)
    node.start_daemon().wait_ready()
    return node


def scrape(lan: Lan, path: str = "/metrics", *options: str, timeout: float = 10) -> str:
    url = f"http://192.168.77.11:9753{path}"
    return lan.host.run(["curl", "-si", "--max-time", f"{timeout:g}", *options, url], check=False).stdout


def values(page: str) -> dict[str, float]:
    return {name: float(value) for name, _, value in (x.rpartition(" ") for x in page.splitlines())}


def test_what_happened_is_counted(lan: Lan, node: Node) -> None:
    pod = node.pod("web-0")
    pod.add()
    lan.dhcp.stop()
    with pytest.raises(ShimError):
        node.pod("web-1").add()
    lan.dhcp.start()
    node.ip("link set eth0 nomaster")
    eventually(lambda: "terway_host_repairs_total 1\n" in node.terwayctl("metrics", "print").stdout)
    page = node.terwayctl("metrics", "print").stdout
    document = json.loads(node.terwayctl("metrics", "print", "--json").stdout)
    validate("metrics print", document)
    told = {family["name"]: family for family in document["families"]}
    assert told.keys() == {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE ")}
    assert told["terway_host_repairs_total"]["samples"][0]["value"] == 1
    assert problems(page) == []
    assert problems(node.api("Metrics")["text"]) == []
    seen = values("\n".join(line for line in page.splitlines() if not line.startswith("#")))
    assert seen["terway_pods"] == seen['terway_leases{state="bound"}'] == 1
    assert seen['terway_node_state{state="ready"}'] == 1
    assert seen['terway_dhcp_messages_total{direction="sent",type="discover"}'] >= 3
    assert seen['terway_dhcp_messages_total{direction="received",type="offer"}'] >= 1
    assert seen['terway_dhcp_messages_total{direction="received",type="ack"}'] >= 1
    assert seen["terway_dhcp_acquire_seconds_count"] == seen["terway_dhcp_acquire_failures_total"] == 1
    assert (
        0 < seen["terway_dhcp_acquire_seconds_sum"] <= seen['terway_cni_duration_seconds_sum{command="ADD"}']
    )
    assert seen['terway_cni_requests_total{command="ADD",code="0"}'] == 1
    assert seen['terway_cni_requests_total{command="ADD",code="11"}'] == 1
    assert seen["terway_up"] == 1
    assert "web-" not in page


def test_over_tcp(lan: Lan, node: Node) -> None:
    head, _, page = scrape(lan).partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 OK")
    assert "Content-Type: text/plain; version=0.0.4" in head
    assert problems(page) == []
    assert scrape(lan, "/metrics", "-I").endswith("\r\n\r\n")
    assert scrape(lan, "/").startswith("HTTP/1.1 404")
    assert scrape(lan, "/metrics", "-X", "POST").startswith("HTTP/1.1 405")
    assert "-1 0" not in page


def test_slow_clients_harm_nobody(lan: Lan, node: Node) -> None:
    """More of them than are served: those in excess are closed at once, the rest after a few seconds."""
    before = descriptors(node)
    with ExitStack() as stack:
        slow = []
        for _ in range(30):
            process = lan.host.popen(
                [
                    "bash",
                    "-c",
                    "exec 3<>/dev/tcp/192.168.77.11/9753; printf 'GET /metr' >&3; cat <&3; echo closed",
                ],
                stdin=-3,
                stdout=-1,
            )
            slow.append(process)
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout is not None
            stack.callback(process.stdout.close)
        pod = node.pod("web-0")
        pod.add()
        assert lan.host.ping(pod.address)
        for process in slow:
            assert process.wait(20) is not None
        assert problems(scrape(lan).partition("\r\n\r\n")[2]) == []
    eventually(
        lambda: descriptors(node) <= before + 3, 10, "their connections are closed"
    )  # the pod has some


def descriptors(node: Node) -> int:
    assert node.daemon is not None
    return len(node.run(f"ls /proc/{node.daemon.pid_inside}/fd").stdout.split())


def test_a_head_without_end(lan: Lan, node: Node) -> None:
    answer = lan.host.run(
        ["bash", "-c", "exec 3<>/dev/tcp/192.168.77.11/9753; head -c 1000000 /dev/zero >&3; cat <&3"],
        check=False,
    )
    assert answer.stdout == ""
    assert "200 OK" in scrape(lan)
    assert "Traceback" not in node.log()


def test_a_port_that_is_taken(lan: Lan) -> None:
    node = lan.node("n1", CONFIG.replace("192.168.77.11", "0.0.0.0"))
    with node.popen(
        ["python3", "-c", "import socket; s = socket.create_server(('', 9753)); print(flush=True); input()"],
        stdin=-1,
        stdout=-1,
    ) as taken:
        assert taken.stdout is not None
        taken.stdout.readline()
        node.start_daemon().wait_ready()
        assert "no metrics on 0.0.0.0:9753: Address already in use" in node.log()
        taken.kill()


def test_the_textfile(lan: Lan, node: Node) -> None:
    node.path("/textfile").mkdir()
    node.terwayctl("metrics", "write", "/textfile/terwayd.prom")
    file = node.path("/textfile/terwayd.prom")
    assert problems(file.read_text()) == []
    assert file.stat().st_mode & 0o777 == 0o644
    assert node.daemon is not None
    node.daemon.term()
    assert node.terwayctl("metrics", "write", "/textfile/terwayd.prom", check=False).returncode == 3
    assert "terway_up 0\n" in file.read_text()
    assert problems(file.read_text()) == []
    assert [each.name for each in node.path("/textfile").iterdir()] == ["terwayd.prom"]
    refused = node.terwayctl("metrics", "write", "/nowhere/terwayd.prom", check=False)
    assert refused.returncode == 1
    told = "error: cannot write into /nowhere: No such file or directory\nhint: mkdir -p /nowhere\n"
    assert refused.stderr == told
