"""The verbs of CNI as a runtime calls them: the installed plugin, the daemon, a real DHCP server.

One LAN and one node for all; what a test changes it puts back.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e import shared
from tests.interop.capture import Capture
from tests.lab import Lan, Node, Pod, ShimError, eventually
from tests.lab.machine import children
from tests.lab.node import CONFLIST
from tests.lab.pod import PLUGIN
from tests.lab.varlink import ApiError

CONFIG = """
[dhcp]
timeout = "2s"
[pods]
service_cidrs = ["10.96.0.0/12"]
"""
ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
VERSIONS = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]


lan = shared.lan
node = shared.node(CONFIG)


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: no veth, no lease on either side."""
    yield
    if "node" in request.fixturenames:
        node, lan = request.getfixturevalue("node"), request.getfixturevalue("lan")
        try:
            assert node.veths() == []
            assert node.status()["pods"] == node.api("Leases")["leases"] == []
            eventually(lambda: lan.dhcp.leases() == [], 2.0, "every lease is given back")
        finally:  # what one test leaves is not the next one's trouble
            collect(node.pod("nobody"), **{"cni.dev/valid-attachments": []})


@contextmanager
def failing(code: int, *words: str) -> Iterator[ShimError]:
    with pytest.raises(ShimError) as caught:
        yield caught  # type: ignore[misc]
    assert caught.value.rc == 1
    told = json.loads(caught.value.stdout)
    assert told["cniVersion"] in VERSIONS
    assert told["code"] == code, told
    for word in words:
        assert word in told["msg"] + told.get("details", ""), told


def annotated(**values: str) -> dict[str, str]:
    return {f"terway.io/{key}": value for key, value in values.items()}


def in_background(work: Callable[[], Any]) -> Future[Any]:
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future


# What a pod gets, in the words of each version.


@pytest.mark.parametrize("version", ["0.2.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_add_and_del(lan: Lan, node: Node, version: str) -> None:
    pod = node.pod("web-0")
    result = pod.add(cni_version=version)
    host_end = node.veths()[0]
    assert result["cniVersion"] == version
    cidr = f"{pod.address}/24"
    if version == "0.2.0":
        assert set(result) == {"cniVersion", "ip4", "dns"}
        assert result["ip4"]["ip"] == cidr
        assert result["ip4"]["gateway"] == lan.gateway_ip
        assert {"dst": "0.0.0.0/0", "gw": lan.gateway_ip} in result["ip4"]["routes"]
    else:
        mtu = {"mtu": 1500} if version == "1.1.0" else {}
        inside, outside, bridge = result["interfaces"]
        assert inside == {"name": "eth0", "mac": pod.mac, "sandbox": f"/run/netns/{pod.netns}", **mtu}
        assert outside == {"name": host_end, "mac": node.mac_of(host_end)}
        assert bridge == {"name": "mybr0", "mac": node.mac_of("mybr0")}
        family = {"version": "4"} if version < "1" else {}
        assert result["ips"] == [{**family, "address": cidr, "gateway": lan.gateway_ip, "interface": 0}]
        assert result["routes"] == [
            {"dst": "0.0.0.0/0", "gw": lan.gateway_ip},
            {"dst": "10.96.0.0/12", "gw": "192.168.77.11"},
        ]
    assert result["dns"] == {"nameservers": ["192.168.77.1"], "domain": "lab.example"}
    assert lan.host.ping(pod.address)
    assert pod.ping(lan.world)
    lease = lan.dhcp.lease_of(pod.address)
    assert lease is not None
    assert (lease.mac, lease.hostname) == (pod.mac, "web-0")
    pod.delete(cni_version=version)
    assert pod.run("ip -br link").stdout.split()[0] == "lo"
    assert [m.kind for m in lan.dhcp.messages(mac=lease.mac)][-1] == "DHCPRELEASE"


def test_what_a_pods_interface_is_like(lan: Lan, node: Node) -> None:
    pod = node.pod("web-0", "shop")
    pod.add()
    assert pod.run("ip route").stdout.splitlines() == [
        "default via 192.168.77.1 dev eth0 ",
        "10.96.0.0/12 via 192.168.77.11 dev eth0 ",
        f"192.168.77.0/24 dev eth0 proto kernel scope link src {pod.address} ",
    ]
    host_end = node.ip_json(f"link show {node.veths()[0]}")[0]
    assert host_end["ifalias"] == "shop/web-0"
    assert host_end["master"] == "mybr0"
    assert node.ping(pod.address)
    assert pod.ping("192.168.77.11")
    told = node.status()["pods"]
    assert [(one["namespace"], one["name"], one["address"]) for one in told] == [
        ("shop", "web-0", f"{pod.address}/24")
    ]
    assert "shop/web-0" in node.terwayctl("status").stdout
    pod.delete()


def test_the_same_pod_gets_the_same_address(node: Node, lan: Lan) -> None:
    seen = set()
    for _ in range(2):
        pod = node.pod("db-0")
        pod.add()
        seen.add((pod.address, pod.mac))
        pod.delete()
    assert len(seen) == 1


def test_two_networks_of_one_pod(node: Node, lan: Lan) -> None:
    first = node.pod("web-0", container_id="c0ffee")
    first.add()
    second = first.cni("ADD", env={"CNI_IFNAME": "net1"})
    assert len(lan.dhcp.leases()) == 2
    assert pod_addresses(first) == {first.result["ips"][0]["address"], second["ips"][0]["address"]}  # type: ignore[index]
    first.cni("DEL", env={"CNI_IFNAME": "net1"})
    assert lan.host.ping(first.address)
    first.delete()


def pod_addresses(pod: Pod) -> set[str]:
    return {
        f"{a['local']}/{a['prefixlen']}"
        for link in pod.ip_json("-4 addr show scope global")
        for a in link["addr_info"]
    }


def test_a_mac_that_is_asked_for(node: Node, lan: Lan) -> None:
    pod = node.pod("web-0")
    pod.add(args={"MAC": "02:11:22:33:44:55"})
    assert pod.mac == "02:11:22:33:44:55"
    pod.delete()


CAPABILITIES = [
    ("runtimeConfig", {"runtimeConfig": {"mac": "02:11:22:33:44:55", "ips": ["192.168.77.150/24"]}}, {}),
    ("args.cni", {"args": {"cni": {"mac": "02:11:22:33:44:55", "ips": ["192.168.77.150"]}}}, {}),
    ("CNI_ARGS", {}, {"MAC": "02:11:22:33:44:55", "IP": "192.168.77.150"}),
    (
        "annotations",
        {"runtimeConfig": {ANNOTATIONS: annotated(mac="02:11:22:33:44:55", ip="192.168.77.150")}},
        {},
    ),
]


@pytest.mark.parametrize(
    ("config", "args"), [item[1:] for item in CAPABILITIES], ids=[i[0] for i in CAPABILITIES]
)
def test_an_address_and_a_mac_that_are_asked_for(
    node: Node, lan: Lan, config: dict[str, Any], args: dict[str, str]
) -> None:
    """The server hears of the address in option 50 of the first DISCOVER."""
    pod = node.pod("web-0")
    pod.add(config=config, args=args)
    assert (str(pod.address), pod.mac) == ("192.168.77.150", "02:11:22:33:44:55")
    lease = lan.dhcp.lease_of(pod.address)
    assert lease is not None
    assert lease.mac == pod.mac
    discover = lan.dhcp.messages("DHCPDISCOVER", pod.mac)[-1]
    assert str(discover.address) == "192.168.77.150"
    pod.delete()


def test_an_address_that_the_server_does_not_give(node: Node, lan: Lan) -> None:
    """Another one would be no answer to who asked; that one is given back."""
    holder, pod = node.pod("web-0"), node.pod("web-1")
    holder.add()
    for taken in (str(holder.address), "192.168.77.90"):  # the second is not in the server's range
        with failing(
            11, f"default/web-1 asks for {taken}, the DHCP server 192.168.77.1 gives ", "reserve it"
        ):
            pod.add(config={"runtimeConfig": {"ips": [taken]}})
        assert len(node.veths()) == 1
    eventually(lambda: len(lan.dhcp.leases()) == 1, 2.0, "what nobody asked for is given back")
    holder.delete()


def test_a_new_sandbox_may_ask_for_another_address(node: Node, lan: Lan) -> None:
    old, new = node.pod("web-0"), node.pod("web-0")
    old.add()
    new.add(config={"runtimeConfig": {"ips": ["192.168.77.151"]}})
    assert str(new.address) == "192.168.77.151"
    old.delete()
    eventually(lambda: [str(lease.address) for lease in lan.dhcp.leases()] == ["192.168.77.151"], 2.0, "one")
    new.delete()


def test_a_static_address_needs_no_server(node: Node, lan: Lan) -> None:
    static = {"static": True, "runtimeConfig": {"ips": ["192.168.77.50"]}}
    lan.dhcp.stop()
    before = len(lan.dhcp.messages())
    try:
        pod, other = node.pod("web-0"), node.pod("web-1")
        result = pod.add(config=static)
        assert result["ips"] == [
            {"address": "192.168.77.50/24", "gateway": lan.gateway_ip, "interface": 0}  # the node's own
        ]
        assert lan.host.ping("192.168.77.50")
        assert pod.ping(lan.world)
        pod.check()
        for taken in ("192.168.77.50", lan.host_ip, "192.168.77.11"):  # a pod, a host of the LAN, the node
            with failing(11, f"default/web-1 asks for {taken}, which another station has"):
                other.add(config={"static": True, "runtimeConfig": {"ips": [taken]}})
        node.daemon.term()  # type: ignore[union-attr]
        node.start_daemon().wait_ready()
        pod.check()
        [told] = node.status()["pods"]
        assert (told["address"], told["server"], told["state"]) == ("192.168.77.50/24", None, "bound")
        assert "192.168.77.50" in node.terwayctl("leases").stdout
        with pytest.raises(ApiError, match="without DHCP: there is no lease"):
            node.api("RenewLease", {"container_id": pod.container_id, "ifname": "eth0"})
        pod.delete()
    finally:
        lan.dhcp.start()
    assert len(lan.dhcp.messages()) == before, "the server hears nothing of it"
    with failing(7, "static: no address is asked for", "ips"):
        other.add(config={"static": True})


def test_a_static_address_that_two_nodes_ask_for_at_once(node: Node, lan: Lan) -> None:
    other = lan.node("n2", CONFIG)
    other.start_daemon().wait_ready()
    with ThreadPoolExecutor(4) as pool:
        for last in range(60, 68):
            pods = [one.pod(f"{one.name}-{last}-{n}") for one in (node, other) for n in range(2)]
            wanted = {"static": True, "runtimeConfig": {"ips": [f"192.168.77.{last}"]}}
            list(pool.map(lambda pod, wanted=wanted: attempt(pod, wanted), pods))
            having = [pod for pod in pods if pod.result is not None]
            for one in having:
                one.delete()
            assert len(having) <= 1, f"192.168.77.{last} has {len(having)} owners"


def attempt(pod: Pod, config: dict[str, Any]) -> None:
    try:
        pod.add(config=config)
    except ShimError as error:
        if error.code != 11:
            raise


def test_a_host_name_that_is_asked_for(node: Node, lan: Lan) -> None:
    pod = node.pod("web-0")
    pod.add(config={"runtimeConfig": {ANNOTATIONS: annotated(hostname="Shop.example")}})
    assert [lease.hostname for lease in lan.dhcp.leases()] == ["shop-example"]
    pod.delete()


def test_dns_of_the_runtime_and_of_the_network(node: Node, lan: Lan) -> None:
    pod = node.pod("web-0")
    own = {"nameservers": ["192.168.77.9"], "domain": "own.example", "search": ["a"], "options": ["ndots:2"]}
    assert pod.add(config={"dns": own})["dns"] == own
    pod.delete()
    given = {"servers": ["10.96.0.10"], "searches": ["svc.cluster.local"], "options": ["ndots:5"]}
    assert pod.add(config={"dns": own, "runtimeConfig": {"dns": given}})["dns"] == {
        "nameservers": ["10.96.0.10"],
        "search": ["svc.cluster.local"],
        "options": ["ndots:5"],
    }
    pod.delete()


def test_interfaces_of_one_pod_that_are_added_at_once(node: Node, lan: Lan) -> None:
    """As containerd does for the networks of a pod; two networks here, two interfaces of each."""
    pod = node.pod("web-0")
    wanted = [
        (name, network) for network in ("terway", "other") for name in (f"{network[:5]}0", f"{network[:5]}1")
    ]

    def each(verb: str) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(4) as pool:
            return list(
                pool.map(lambda w: pod.cni(verb, env={"CNI_IFNAME": w[0]}, config={"name": w[1]}), wanted)
            )

    results = each("ADD")
    addresses = {result["ips"][0]["address"] for result in results}
    assert pod_addresses(pod) == addresses
    assert len(addresses) == len(lan.dhcp.leases()) == 4
    assert all(lan.host.ping(address.split("/")[0]) for address in addresses)
    for (name, _), result in zip(wanted, results, strict=True):
        assert result["interfaces"][0]["name"] == name
    each("CHECK")
    each("DEL")
    assert pod_addresses(pod) == set()


ORIGINAL = {
    "name": "mycninet",
    "cniVersion": "0.3.1",
    "type": "cni-terway",
    "serviceIPCIDR": "10.97.0.0/16",
    "server_socket": "",
    "delegate": {
        "cniVersion": "0.3.1",
        "name": "mycninet",
        "type": "bridge",
        "bridge": "mybr0",
        "isGateway": False,
        "ipam": {"type": "dhcp"},
    },
}


def test_a_configuration_of_the_original(node: Node, lan: Lan) -> None:
    """As its DaemonSet put it into /etc/cni/net.d and its daemon completed it: with the Service range."""
    pod = node.pod("web-0")
    result = pod.add(config={**ORIGINAL, "capabilities": None})
    assert result["cniVersion"] == "0.3.1"
    assert result["ips"][0]["version"] == "4"
    assert {"dst": "10.97.0.0/16", "gw": "192.168.77.11"} in result["routes"]
    assert "10.97.0.0/16 via 192.168.77.11" in pod.run("ip route").stdout
    assert "10.96.0.0" not in pod.run("ip route").stdout
    assert lan.host.ping(pod.address)
    pod.delete(config=ORIGINAL)


def test_behind_another_plugin(node: Node, lan: Lan) -> None:
    """Debian's loopback first, then ours; what it made comes first in the result."""
    pod = node.pod("web-0")
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": pod.container_id,
        "CNI_NETNS": f"/run/netns/{pod.netns}",
        "CNI_IFNAME": "lo",
        "CNI_PATH": "/usr/lib/cni",
    }
    config = {"cniVersion": "1.0.0", "name": "terway", "type": "loopback"}
    first = node.run(["/usr/lib/cni/loopback"], env=environment, input=json.dumps(config))
    before = json.loads(first.stdout)
    assert [link["name"] for link in before["interfaces"]] == ["lo"]
    result = pod.add(config={"prevResult": before})
    assert [link["name"] for link in result["interfaces"][:2]] == ["lo", "eth0"]
    assert [(ip["address"], ip["interface"]) for ip in result["ips"]] == [
        *((ip["address"], 0) for ip in before["ips"]),
        (f"{pod.address}/24", 1),
    ]
    pod.check()
    pod.delete()
    with failing(7, "prevResult is no result"):
        pod.add(config={"prevResult": [7]})


def test_ten_at_once(node: Node, lan: Lan) -> None:
    pods = [node.pod(f"web-{number}") for number in range(10)]
    with ThreadPoolExecutor(10) as pool:
        results = list(pool.map(lambda pod: pod.add(), pods))
        assert len({result["ips"][0]["address"] for result in results}) == 10
        assert len(lan.dhcp.leases()) == 10
        list(pool.map(lambda pod: pod.delete(), pods))


# Routes that the server does not send.


def test_without_a_router_the_nodes_gateway_is_the_default(lan: Lan, node: Node) -> None:
    lan.dhcp.restart(router=None)
    try:
        pod = node.pod("web-0")
        result = pod.add()
        assert result["ips"][0]["gateway"] == lan.gateway_ip
        assert "default via 192.168.77.1 dev eth0" in pod.run("ip route").stdout
        assert pod.ping(lan.world)
        pod.delete()
    finally:
        lan.dhcp.restart(router=lan.gateway_ip)


def test_classless_and_static_routes(lan: Lan, node: Node) -> None:
    for option in ("121,0.0.0.0/0,192.168.77.1,10.5.0.0/16,192.168.77.2", "33,10.5.0.0,192.168.77.2"):
        lan.dhcp.restart(extra=(f"--dhcp-option={option}",))
        try:
            pod = node.pod("web-0")
            pod.add()
            routes = pod.run("ip route").stdout
            assert "default via 192.168.77.1 dev eth0" in routes
            assert "via 192.168.77.2 dev eth0" in routes
            assert "10.96.0.0/12 via 192.168.77.11" in routes
            pod.delete()
        finally:
            lan.dhcp.restart(extra=())


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
        with failing(11, "no DHCP lease for 1a:ae:7a:95:68:5c", "sent in 2 s, no OFFER came back", "tcpdump"):
            pod.add()
        assert 1.9 < pod.seconds < 2.6
        assert "eth0" not in pod.run("ip -br link").stdout
    finally:
        lan.dhcp.start()


def test_a_second_add_is_refused_and_the_first_stays(node: Node, lan: Lan) -> None:
    pod = node.pod("web-0")
    pod.add()
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


def valid(*pods: Pod) -> list[dict[str, str]]:
    return [{"containerID": pod.container_id, "ifname": pod.ifname} for pod in pods]


def collect(pod: Pod, **config: Any) -> None:
    pod.cni(
        "GC",
        cni_version="1.1.0",
        config=config,
        env={"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": ""},
    )


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
