"""DEL, CHECK, GC, STATUS and VERSION as a runtime calls them, and an ADD that fails.

One LAN and one node for all; what a test changes it puts back.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e import calls, shared
from tests.e2e.calls import CONFIG, VERSIONS, collect, failing, valid
from tests.interop.capture import Capture
from tests.lab import Lan, Node, eventually
from tests.lab.machine import children
from tests.lab.node import CONFLIST
from tests.lab.pod import PLUGIN

lan = shared.lan
node = shared.node(CONFIG)
nothing_is_left = calls.nothing_is_left


def in_background(work: Callable[[], Any]) -> Future[Any]:
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future


# DEL.


def test_del_of_what_is_gone_or_never_was(node: Node, lan: Lan) -> None:
    unknown = node.pod("nobody")
    for _ in range(2):
        unknown.delete()
    pod = node.pod("web-0")
    pod.add()
    for _ in range(2):
        pod.delete()
    pod.add()
    pod.delete(netns=False)
    pod.add()
    pod.delete(env={"CNI_NETNS": "/run/netns/gone"})
    pod.add()
    pod.cni("DEL", config={"prevResult": None})


def test_del_after_the_namespace_is_gone_gives_the_lease_back(node: Node, lan: Lan) -> None:
    pod = node.pod("web-0")
    pod.add()
    address = str(pod.address)
    pod.remove()
    pod.delete()
    eventually(lambda: [m.kind for m in lan.dhcp.messages()][-1] == "DHCPRELEASE", 2.0, "a RELEASE comes")
    assert address in str(lan.dhcp.messages("DHCPRELEASE")[-1].address)


def test_del_ends_an_add_that_waits(node: Node, lan: Lan) -> None:
    lan.dhcp.stop()
    try:
        pod = node.pod("web-0")
        adding = in_background(pod.add)
        eventually(lambda: node.veths(), 3.0, "the ADD has begun", 0.005)
        pod.delete()
        assert node.veths() == []
        with failing(11, "default/web-0", "ended by a DEL"):
            adding.result(5)
        assert "eth0" not in pod.run("ip -br link").stdout
    finally:
        lan.dhcp.start()
    pod.add()
    pod.delete()


def test_a_runtime_that_dies_during_its_add_leaves_nothing(lan: Lan) -> None:
    """Runtimes kill a plugin that they wait for no longer; one that is killed itself cannot."""
    node = lan.node("patient", '[dhcp]\ntimeout = "60s"\n')
    node.start_daemon().wait_ready()
    lan.dhcp.stop()
    try:
        for killed in ("the plugin", "the runtime"):
            pod = node.pod(f"of-{killed[4:]}")
            environment = {
                "CNI_COMMAND": "ADD",
                "CNI_CONTAINERID": pod.container_id,
                "CNI_NETNS": f"/run/netns/{pod.netns}",
                "CNI_IFNAME": "eth0",
            }
            pipe = subprocess.PIPE
            with node.popen(
                "/opt/cni/bin/cni-terway; true", env=environment, stdin=pipe, stdout=pipe
            ) as runtime:
                assert runtime.stdin is not None
                runtime.stdin.write(b'{"cniVersion":"1.0.0","name":"terway","type":"cni-terway"}')
                runtime.stdin.close()
                eventually(lambda: node.veths(), 10.0, "the ADD has begun", 0.005)
                [shell] = children(runtime.pid)
                os.kill(children(shell)[0] if killed == "the plugin" else shell, signal.SIGKILL)
                eventually(lambda: not node.veths() and not node.status()["pods"], 20.0, "it is undone")
    finally:
        lan.dhcp.start()
    node.daemon.term()  # type: ignore[union-attr]


# ADD that fails.


def test_no_server_is_told_with_what_was_sent(node: Node, lan: Lan) -> None:
    lan.dhcp.stop()
    try:
        pod = node.pod("web-0")
        with failing(11, "no DHCP lease for 1a:ae:7a:95:68:5c", " s, no OFFER came back", "tcpdump"):
            pod.add()
        assert 1.9 < pod.seconds < 4
        assert "eth0" not in pod.run("ip -br link").stdout
    finally:
        lan.dhcp.start()


def test_a_second_add_is_refused_and_the_first_stays(node: Node, lan: Lan) -> None:
    pod = node.pod("web-0")
    pod.add()
    eventually(lambda: pod.has_link_local("eth0"), 5.0, "the link is seen to be up")
    before = pod.run("ip addr; ip route").stdout
    with failing(4, "default/web-0 has eth0 from this network already", "call DEL"):
        pod.cni("ADD")
    assert pod.run("ip addr; ip route").stdout == before
    pod.check()
    pod.delete()


def test_a_new_sandbox_takes_the_place_of_the_old(node: Node, lan: Lan) -> None:
    old, new = node.pod("web-0"), node.pod("web-0")
    old.add()
    address = old.address
    new.add()
    assert new.address == address
    assert len(node.veths()) == 1
    old.delete()
    assert lan.dhcp.lease_of(address) is not None, "the old one's DEL does not give the new one's lease away"
    assert lan.host.ping(address)
    new.delete()


def test_a_new_sandbox_that_fails_gives_back_what_the_old_had(node: Node, lan: Lan) -> None:
    old, new = node.pod("web-0"), node.pod("web-0")
    old.add()
    mac = old.mac
    with Capture(lan.gateway) as wire:
        lan.dhcp.stop()
        try:
            with failing(11, "no OFFER came back"):
                new.add()
            eventually(lambda: wire.dhcp("RELEASE", mac), 2.0, "it is given back")
        finally:
            lan.dhcp.start()
    old.delete()
    new.add()
    new.delete()


# CHECK, GC, STATUS, VERSION.


@pytest.mark.parametrize(("verb", "since"), [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")])
def test_a_verb_that_the_version_does_not_have(node: Node, verb: str, since: str) -> None:
    pod = node.pod("web-0")
    for version in VERSIONS[: VERSIONS.index(since)]:
        with failing(1, f"{verb} needs cniVersion {since}", version):
            pod.cni(verb, cni_version=version)


def test_check(node: Node, lan: Lan) -> None:
    pod = node.pod("web-0")
    with failing(3, "has no eth0 from network terway"):
        pod.check()
    pod.add()
    for version in ("0.4.0", "1.0.0", "1.1.0"):
        pod.check(cni_version=version)
    pod.delete()
    with failing(3):
        pod.check()


@pytest.mark.parametrize(
    ("breaks", "mends", "told"),
    [
        ("ip addr del {ip}/24 dev eth0", "ip addr add {ip}/24 dev eth0; {route}", "eth0 has not {ip}/24"),
        ("ip link set eth0 down", "ip link set eth0 up; {route}", "eth0 is down"),
        ("ip route del default", "{route}", "the route to 0.0.0.0/0 via 192.168.77.1 is gone"),
        ("ip link set eth0 name eth7", "ip link set eth7 name eth0; {route}", "eth0 is gone"),
    ],
)
def test_check_sees_what_the_pod_has_lost(node: Node, lan: Lan, breaks: str, mends: str, told: str) -> None:
    pod = node.pod("web-0")
    pod.add()
    route = "ip route replace default via 192.168.77.1; ip route replace 10.96.0.0/12 via 192.168.77.11"
    ip = pod.address
    pod.run(breaks.format(ip=ip))
    with failing(100, "default/web-0", told.format(ip=ip)):
        pod.check()
    pod.run(mends.format(ip=ip, route=route))
    pod.check()
    port = node.veths()[0]
    node.run(f"ip link set {port} nomaster")
    with failing(100, f"{port} is not a port of mybr0"):
        pod.check()
    pod.delete()


def test_check_reads_the_previous_result(node: Node, lan: Lan) -> None:
    """Section 2, "CHECK": prevResult tells what to expect, and later plugins may have changed routes."""
    pod = node.pod("web-0")
    result = pod.add()
    other = {**result, "ips": [{"address": "192.168.77.99/24"}]}
    with failing(100, f"has {pod.address}/24, prevResult tells of 192.168.77.99/24"):
        pod.check(config={"prevResult": other})
    pod.run("ip route del 10.96.0.0/12")
    with failing(100, "the route to 10.96.0.0/12 via 192.168.77.11 is gone"):
        pod.check()
    pod.check(config={"prevResult": {**result, "routes": result["routes"][:1]}})
    with failing(7, "prevResult"):
        pod.check(config={"prevResult": "no"})
    pod.delete()


def test_version(node: Node) -> None:
    pod = node.pod("web-0")
    for version in VERSIONS:
        told = pod.cni("VERSION", cni_version=version, env={"CNI_NETNS": "dummy", "CNI_IFNAME": "dummy"})
        assert told == {"cniVersion": version, "supportedVersions": VERSIONS}


def test_gc_takes_what_is_not_valid(node: Node, lan: Lan) -> None:
    kept, stale = node.pod("web-0"), node.pod("web-1")
    kept.add()
    stale.add()
    address = stale.address
    collect(kept)  # nothing was said of what is valid
    assert len(node.veths()) == 2
    collect(kept, name="other", **{"cni.dev/valid-attachments": []})  # another network's
    assert len(node.veths()) == 2
    collect(kept, **{"cni.dev/valid-attachments": valid(kept)})
    assert len(node.veths()) == 1
    eventually(lambda: lan.dhcp.lease_of(address) is None, 2.0, "its lease is given back")
    assert lan.host.ping(kept.address)
    collect(kept, **{"cni.dev/attachments": valid(kept)})  # as it was called by mistake
    kept.check()
    collect(kept, **{"cni.dev/valid-attachments": None})  # as CRI-O says "none"
    assert node.veths() == []


@pytest.mark.parametrize(
    "given", [7, "text", {"containerID": "x"}, ["x"], [None], [[]], [{}]], ids=json.dumps
)
def test_gc_that_means_nothing_takes_nothing(node: Node, lan: Lan, given: Any) -> None:
    pod = node.pod("web-0")
    pod.add()
    try:
        with failing(7, "cni.dev/valid-attachments"):
            collect(pod, **{"cni.dev/valid-attachments": given})
        pod.check()
    finally:
        pod.delete()


def test_status(node: Node) -> None:
    node.pod("web-0").cni("STATUS", cni_version="1.1.0")


def test_a_node_that_was_given_back(lan: Lan) -> None:
    node = lan.node("given-back")
    node.start_daemon().wait_ready()
    pod, other = node.pod("web-0"), node.pod("web-1")
    pod.add()
    conflist = node.read("/etc/cni/net.d/10-terway.conflist")
    node.terwayctl("teardown", "--force")
    node.write("/etc/cni/net.d/10-terway.conflist", conflist)  # as a runtime remembers it
    with failing(50, "this node takes no pods: it is down"):
        pod.cni("STATUS", cni_version="1.1.0")
    with failing(11, "this node takes no pods: it is down", "terwayctl setup"):
        other.add()
    pod.delete()  # else its runtime never gets rid of it
    node.daemon.term()  # type: ignore[union-attr]


def test_status_tells_why_a_node_cannot_be_used(lan: Lan) -> None:
    """Section 2, "STATUS": 50 for no ADDs, 51 where the containers that are here may have lost the network too.

    The conflist is there exactly while the node takes pods; a DEL is served all the same.
    """
    node = lan.node("unusable", '[host]\nuplink = "eth9"\n')
    node.start_daemon().wait_state("degraded")
    assert not node.path(CONFLIST).exists()
    text = '{"cniVersion":"1.1.0","name":"terway","type":"cni-terway"}'

    def status(code: int, *words: str) -> None:
        done = node.run([PLUGIN], input=text, env={"CNI_COMMAND": "STATUS"}, check=False)
        told = json.loads(done.stdout or "{}")
        assert (done.returncode, told.get("code", 0)) == (1 if code else 0, code), told
        assert all(word in told["msg"] + told["details"] for word in words), told

    node.write(PLUGIN, node.read("/usr/lib/cni/cni-terway"), 0o755)  # as of an earlier run
    status(50, "it is degraded", "eth9")
    node.daemon.term()  # type: ignore[union-attr]
    node.write("/etc/terway.toml", "")
    node.start_daemon().wait_ready()
    status(0)
    pod = node.pod("web-0")
    pod.add()
    conflist = node.read(CONFLIST)
    node.run("ip link del eth0")  # the NIC is pulled out
    eventually(lambda: not node.path(CONFLIST).exists(), 20.0, "the conflist is gone")
    status(51, "it is degraded", "eth0")
    node.write(CONFLIST, conflist)  # as a runtime remembers it
    with failing(11, "this node takes no pods: it is degraded"):
        node.pod("web-1").add()
    pod.delete()
    status(50)
    node.daemon.term()  # type: ignore[union-attr]


def test_an_add_takes_no_longer_than_it_may(lan: Lan) -> None:
    node = lan.node("bounded", '[dhcp]\ntimeout = "60s"\n[cni]\nadd_timeout = "1s"\n')
    node.start_daemon().wait_ready()
    lan.dhcp.stop()
    try:
        pod = node.pod("web-0")
        with failing(11, "ADD took longer than 1 s and was undone"):
            pod.add()
        assert 1 <= pod.seconds < 20
        assert (node.veths(), node.status()["pods"]) == ([], [])
    finally:
        lan.dhcp.start()
    node.daemon.term()  # type: ignore[union-attr]


def test_check_and_status_take_milliseconds(node: Node) -> None:
    """In the daemon, with the pods of a whole node; the best of 20, since others use the processors too."""
    pods = [node.pod(f"web-{number}") for number in range(10)]
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda pod: pod.add(), pods))
    seconds: dict[str, list[float]] = {"CHECK": [], "STATUS": []}
    for verb, taken in seconds.items():
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": pods[0].container_id,
            "CNI_NETNS": f"/run/netns/{pods[0].netns}",
            "CNI_IFNAME": "eth0",
        }
        stdin = json.dumps({"cniVersion": "1.1.0", "name": "terway", "prevResult": pods[0].result})
        call = {"method": "io.terway.Cni", "parameters": {"environment": environment, "stdin": stdin}}
        opened = os.open(node.path(f"/run/netns/{pods[0].netns}"), os.O_RDONLY)
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(node.socket))
                begin = time.perf_counter()
                socket.send_fds(connection, [json.dumps(call).encode() + b"\0"], [opened])
                assert connection.recv(1 << 16) == b'{"parameters":{}}\0'
                taken.append(time.perf_counter() - begin)
        os.close(opened)
    print({verb: f"{min(taken) * 1e3:.2f} ms" for verb, taken in seconds.items()})
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda pod: pod.delete(), pods))
    assert min(seconds["CHECK"]) < 0.02
    assert min(seconds["STATUS"]) < 0.005
