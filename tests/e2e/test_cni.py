"""What a pod gets by an ADD: the installed plugin, the daemon, a real DHCP server.

One LAN and one node for all; what a test changes it puts back.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e import calls, shared
from tests.e2e.calls import CONFIG, failing
from tests.interop.capture import Capture
from tests.lab import Lan, Node, Pod, ShimError, eventually
from tests.lab.varlink import ApiError

ANNOTATIONS = "io.kubernetes.cri.pod-annotations"

lan = shared.lan
node = shared.node(CONFIG)
nothing_is_left = calls.nothing_is_left


def annotated(**values: str) -> dict[str, str]:
    return {f"terway.io/{key}": value for key, value in values.items()}


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
    eventually(lambda: lan.dhcp.messages(mac=lease.mac)[-1].kind == "DHCPRELEASE", 2.0, "it is heard")


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
    try:
        with Capture(lan.gateway) as wire:
            pod, other = node.pod("web-0"), node.pod("web-1")
            result = pod.add(config=static)
            assert result["ips"] == [
                {"address": "192.168.77.50/24", "gateway": lan.gateway_ip, "interface": 0}  # the node's own
            ]
            assert lan.host.ping("192.168.77.50")
            assert pod.ping(lan.world)
            pod.check()
            others = ("192.168.77.50", lan.host_ip, "192.168.77.11")  # a pod, a host of the LAN, the node
            for taken in others:
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
            assert wire.dhcp() == [], "a server would hear nothing of it"
    finally:
        lan.dhcp.start()
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
        eventually(lambda: lan.dhcp.leases() == [], 2.0, "the server has it back before it stops")
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
            eventually(lambda: lan.dhcp.leases() == [], 2.0, "the server has it back before it stops")
        finally:
            lan.dhcp.restart(extra=())
