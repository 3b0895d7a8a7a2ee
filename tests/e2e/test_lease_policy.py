"""What becomes of a pod's address when its lease is over or another: the three policies, and who is told."""

from __future__ import annotations

import pytest

from tests.interop.capture import Capture
from tests.interop.servers import IscDhcpd, Range
from tests.lab import Lan, Node, Pod, ShimError, eventually

WANTED = '[pods]\nlost_lease = "{}"\n'


def findings(node: Node) -> dict[str, str]:
    return {found["code"]: found["message"] for found in node.status()["findings"]}


def addresses(pod: Pod) -> list[str]:
    return [info["local"] for link in pod.ip_json("-4 addr show dev eth0") for info in link["addr_info"]]


def gateway(pod: Pod) -> str:
    return str(pod.ip_json("route show default")[0]["gateway"])


def begin(lan: Lan, policy: str) -> tuple[Node, Pod, IscDhcpd]:
    node = lan.node("n1", WANTED.format(policy))
    node.start_daemon().wait_ready()
    server = IscDhcpd(lan.gateway, Range(seconds=10))
    server.start()
    pod = node.pod("web-0")
    pod.add()
    pod.check()
    return node, pod, server


@pytest.mark.parametrize("policy", ["keep", "replace", "down"])
def test_the_lease_ends_and_the_server_returns_with_the_same_address(policy: str) -> None:
    with Lan(dhcp=None) as lan:
        node, pod, server = begin(lan, policy)
        had = addresses(pod)
        server.stop()
        eventually(lambda: "lease-lost" in findings(node), 15.0, "the loss is told", 0.1)
        assert node.status()["state"] == "degraded"
        if policy == "keep":
            assert addresses(pod) == had
            assert lan.host.ping(had[0])
        else:
            eventually(lambda: not lan.host.ping(had[0], timeout=0.2), 5.0, "it is cut off")
            assert addresses(pod) == (had if policy == "down" else [])
        with pytest.raises(ShimError, match="lease ended") as failure:
            pod.check()
        assert failure.value.code == 100
        with pytest.raises(ShimError, match="no DHCP server answers") as failure:
            pod.cni("STATUS", cni_version="1.1.0")
        assert failure.value.code == 51
        if policy == "keep":  # a restart in this state changes nothing
            node.daemon.kill9()  # type: ignore[union-attr]
            node.start_daemon().wait_state("degraded")
            assert addresses(pod) == had
        server.start()
        eventually(lambda: "lease-lost" not in findings(node), 40.0, "a lease again", 0.2)
        eventually(lambda: lan.host.ping(had[0], timeout=0.3), 3.0, "the pod is reached again")
        assert addresses(pod) == had
        assert gateway(pod) == lan.gateway_ip
        pod.check()
        pod.cni("STATUS", cni_version="1.1.0")
        pod.delete()


@pytest.mark.parametrize("policy", ["keep", "replace", "down"])
def test_the_range_moves(policy: str) -> None:
    with Lan(dhcp=None) as lan:
        node, pod, server = begin(lan, policy)
        had = addresses(pod)
        server.stop()
        server.forget()
        server.start(first="192.168.77.30", last="192.168.77.40", router="192.168.77.2")
        with Capture(lan.gateway) as wire:
            if policy == "down":
                eventually(lambda: "lease-lost" in findings(node), 15.0, "the loss is told", 0.1)
                eventually(lambda: not lan.host.ping(had[0], timeout=0.3), 5.0, "it is cut off")
                assert "is not its address any more" in eventually(
                    lambda: findings(node).get("lease-lost", "")
                )
            else:
                eventually(lambda: "address-changed" in findings(node), 15.0, "the change is told", 0.1)
                (now,) = addresses(pod)
                assert now.rpartition(".")[2] in {str(n) for n in range(30, 41)}
                assert gateway(pod) == "192.168.77.2"
                assert lan.host.ping(now)
                eventually(
                    lambda: any(str(one.sender) == str(one.target) == now for one in wire.arp(pod.mac)),
                    3.0,
                    "the new address is announced to the LAN",
                )
        with pytest.raises(ShimError):
            pod.check()
        pod.delete()


def test_a_router_that_changes_is_followed() -> None:
    with Lan(dhcp=None) as lan:
        node, pod, server = begin(lan, "keep")
        had = addresses(pod)
        server.stop()
        server.start(router="192.168.77.2")
        eventually(lambda: gateway(pod) == "192.168.77.2", 9.0, "the new router", 0.1)
        assert addresses(pod) == had
        assert findings(node) == {}
        pod.check()


def leading(pod: Pod) -> tuple[str, str]:
    """The interface and the gateway of the default route that counts."""
    first = pod.ip_json("route show default")[0]
    return first["dev"], first["gateway"]


STATIC = {"static": True, "runtimeConfig": {"ips": ["192.168.77.50"]}}


def test_a_second_interface_does_not_take_the_default_route() -> None:
    with Lan(dhcp=None) as lan:
        node = lan.node("n1")
        node.start_daemon().wait_ready()
        server = IscDhcpd(lan.gateway, Range(seconds=10))
        server.start()
        pod = node.pod("web-0")
        pod.add(config=STATIC)
        pod.cni("ADD", env={"CNI_IFNAME": "net1"}, config={"name": "other"})
        assert leading(pod) == ("eth0", lan.gateway_ip)
        server.stop()
        server.start(router=lan.host_ip)
        eventually(
            lambda: lan.host_ip in pod.run("ip route").stdout, 9.0, "the second follows its lease", 0.1
        )
        assert leading(pod) == ("eth0", lan.gateway_ip)


@pytest.mark.parametrize("policy", ["keep", "replace"])
def test_the_first_interface_keeps_the_default_route(policy: str) -> None:
    with Lan(dhcp=None) as lan:
        _, pod, server = begin(lan, policy)
        pod.cni("ADD", env={"CNI_IFNAME": "net1"}, config={"name": "other", **STATIC})
        assert leading(pod) == ("eth0", lan.gateway_ip)
        server.stop()
        if policy == "replace":
            eventually(lambda: leading(pod)[0] == "net1", 15.0, "the first has lost its address", 0.1)
        server.forget()
        server.start(first="192.168.77.30", last="192.168.77.40", router=lan.host_ip)
        eventually(
            lambda: lan.host_ip in pod.run("ip route").stdout, 40.0, "the first has another address", 0.1
        )
        assert leading(pod) == ("eth0", lan.host_ip)
