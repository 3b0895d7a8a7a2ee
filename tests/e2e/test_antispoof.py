"""A pod with all capabilities in its namespace tries to be somebody else: the LAN hears nothing of it.

Raw frames (frames.py), heard on another host of the LAN.  A pod whose network has `antispoof` off sends the same ones,
and each of them is heard there: so each test can fail.
"""

from __future__ import annotations

import json
import re
import subprocess
from functools import partial
from typing import Any

import pytest

from tests.e2e import frames, shared
from tests.lab import Lan, Node, Pod, eventually
from tests.lab.machine import CHECKOUT, PYTHON

FRAMES = [PYTHON, "-IS", str(CHECKOUT / "tests/e2e/frames.py")]
OFF = {"antispoof": False}
SERVICES = '[pods]\nservice_cidrs = ["10.96.0.0/12"]\n'


lan = shared.lan


@pytest.fixture(scope="module")
def node(lan: Lan) -> Node:
    node = lan.node("n1", "")
    node.start_daemon().wait_ready()
    lan.dhcp.restart(ra=True)
    # What neither bridge would pass on, whatever the rules: LLDP.
    node.run("ip link set mybr0 type bridge group_fwd_mask 0x4000")
    lan.wire("link set lan type bridge group_fwd_mask 0x4000")
    return node


@pytest.fixture(scope="module")
def held(node: Node) -> Pod:
    pod = node.pod("held")
    pod.add()
    return pod


@pytest.fixture(scope="module")
def free(node: Node) -> Pod:
    pod = node.pod("free")
    pod.add(config=OFF)
    return pod


def order(lan: Lan, pod: Pod, names: list[str]) -> dict[str, Any]:
    return {
        "mac": pod.mac,
        "ip": str(pod.address),
        "victim_mac": "52:54:00:77:00:77",
        "victim_ip": "192.168.77.77",
        "router_mac": lan.gateway.mac_of("eth0"),
        "router_ip": lan.gateway_ip,
        "frames": names,
    }


def heard(lan: Lan, pod: Pod, names: list[str]) -> set[str]:
    """Which of these frames of the pod the host hears."""
    state = f"/sys/class/net/{pod.port}/brport/state"
    eventually(lambda: pod.node.read(state) == "3\n", 5.0, "the bridge has noticed the port's carrier")
    with lan.host.popen([*FRAMES, "hear", "eth0"], stdout=subprocess.PIPE) as hearing:
        assert hearing.stdout is not None
        assert hearing.stdout.readline() == b"hearing\n"
        pod.run([*FRAMES, "send", "eth0", json.dumps(order(lan, pod, names))])
        return set(json.loads(hearing.stdout.read())) - {"end"}


def dropped(node: Node, pod: Pod) -> int:
    """How many frames of the pod its port's filter has dropped, as tc and terwayd tell."""
    queues = json.loads(node.run(f"tc -s -j qdisc show dev {pod.port}").stdout)
    drops = int(next(each["drops"] for each in queues if each["kind"] == "clsact"))
    assert told(node, pod)["dropped"] == drops
    return drops


def told(node: Node, pod: Pod) -> dict[str, Any]:
    """What terwayd's status says of the pod."""
    return next(each for each in node.status()["pods"] if each["host_ifname"] == pod.port)


def mended(node: Node, port: str, seen: int) -> bool:
    """Whether the daemon has said so since its log was `seen` characters long."""
    return f"mended: the filter of {port}" in node.log()[seen:]


def known(lan: Lan, pod: Pod) -> tuple[list[str], list[str]]:
    sender = frames.Sender(order(lan, pod, []))
    return list(sender.legitimate()), list(sender.attacks())


def test_what_is_its_own_a_pod_may_send(lan: Lan, node: Node, held: Pod) -> None:
    legitimate, _ = known(lan, held)
    before = dropped(node, held)
    assert heard(lan, held, legitimate) == set(legitimate)
    assert dropped(node, held) == before


def test_none_of_the_attacks_reaches_the_lan(lan: Lan, node: Node, held: Pod, free: Pod) -> None:
    _, attacks = known(lan, held)
    before = dropped(node, held)
    assert heard(lan, held, attacks) == set()
    assert dropped(node, held) >= before + len(attacks)
    assert f"dropped    {dropped(node, held)} frames" in node.terwayctl("status", "default/held").stdout
    assert heard(lan, free, attacks) == set(attacks), "with the filter off each is heard"
    assert told(node, free)["dropped"] is None
    assert "1 pod held to their own MAC" in node.terwayctl("status").stdout


def test_a_pod_has_its_ipv6_addresses_and_reaches_the_lan(lan: Lan, held: Pod) -> None:
    def settled() -> bool:
        infos = [info for link in held.ip_json("-6 addr show dev eth0") for info in link["addr_info"]]
        return {"fd77", "fe80"} <= {
            info["local"].split(":")[0] for info in infos if not info.get("tentative")
        }

    eventually(settled, 20.0, "an address by the router's announcement")
    assert held.ping(lan.host_ip6, count=2)
    assert lan.host.ping(held.address)
    assert held.ping(lan.world)


def test_nobody_may_take_the_filter_away(lan: Lan, node: Node, held: Pod, free: Pod) -> None:
    """Flushed while the daemon runs: it is back at once.  While it does not: it holds, and comes back with it."""
    _, attacks = known(lan, held)
    some = attacks[:8]

    port = held.port
    before = node.filter_of(port)
    assert before
    for command in (
        f"tc qdisc del dev {port} clsact",
        f"tc filter del dev {port} ingress prio 1",
        f"tc filter del dev {port} ingress prio 2",
        f"tc filter replace dev {port} ingress prio 1 handle 1 bpf bytecode '1,6 0 0 4294967295'",
    ):
        seen = len(node.log())
        node.run(command)
        eventually(partial(mended, node, port, seen), 10.0, f"mended: {command}")
        assert node.filter_of(port) == before
        assert heard(lan, held, some) == set()
    node.run("nft flush ruleset")  # as a reload of nftables does: nothing of it stands there
    assert heard(lan, held, some) == set()
    assert node.daemon is not None
    node.daemon.kill9()
    assert heard(lan, held, some) == set()
    node.run(f"tc qdisc del dev {port} clsact")
    assert heard(lan, held, some) == set(some)
    node.run("nft add table bridge terwayd")  # of an earlier version, whose rules were there
    node.start_daemon().wait_ready()
    assert "terwayd" not in node.run("nft list tables").stdout
    assert heard(lan, held, some) == set()
    assert heard(lan, free, some) == set(some)


def test_a_pods_mac_from_elsewhere_leads_nobody_astray(lan: Lan, node: Node, held: Pod) -> None:
    """As a loop of the LAN sends one back: a bridge that learns looks for the pod there from then on."""
    assert node.ping(held.address)
    lan.host.run([*FRAMES, "send", "eth0", json.dumps(order(lan, held, ["no ip at all"]))])
    assert node.ping(held.address, timeout=0.3)


def test_a_filter_that_the_kernel_refuses_is_told_and_put_when_it_can_be(node: Node) -> None:
    pod = node.pod("web-0")
    pod.add()
    port = pod.port
    before = node.filter_of(port)
    node.run(
        ["tc", "-batch", "-"],
        input=f"filter del dev {port} ingress prio 1\nfilter add dev {port} ingress prio 1 u32 match u32 0 0\n",
    )
    told = f"what the pods behind {port} send is not looked at: tc filter replace dev {port} ingress prio 1"
    eventually(lambda: told in node.terwayctl("status", check=False).stdout, 10.0, "told")
    node.run(f"tc filter del dev {port} ingress prio 1")
    eventually(lambda: node.filter_of(port) == before, 10.0, "put")
    eventually(lambda: told not in node.terwayctl("status").stdout, 10.0, "and no more told")
    pod.delete()


@pytest.mark.parametrize(
    "off",
    [
        {
            "config": {
                "runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"terway.io/antispoof": "false"}}
            }
        },
        {"args": {"ANTISPOOF": "false"}},
    ],
    ids=["annotation", "argument"],
)
def test_it_is_off_where_somebody_says_so(lan: Lan, node: Node, off: dict[str, Any]) -> None:
    pod = node.pod("web-0")
    pod.add(**off)
    assert heard(lan, pod, ["no ip at all"]) == {"no ip at all"}
    pod.delete()
    pod.add()
    assert heard(lan, pod, ["no ip at all"]) == set()
    pod.delete()


def test_a_configuration_without_it_takes_the_filters_away() -> None:
    with Lan() as lan:
        node = lan.node("n1", SERVICES)
        node.start_daemon().wait_ready()
        pod = node.pod("web-0")
        pod.add()
        assert node.guarded_ports() == set(node.veths())
        assert node.daemon is not None
        node.daemon.term()
        assert node.guarded_ports() == set(node.veths())
        node.write("/etc/terway.toml", f"{SERVICES}antispoof = false\n")
        node.start_daemon().wait_ready()
        assert node.guarded_ports() == set()
        assert lan.host.ping(pod.address)


def test_a_restart_leaves_rules_that_stand_and_mends_those_that_do_not() -> None:
    """New rules lose a packet now and then; rules that somebody changed while no daemon ran are not trusted."""
    with Lan() as lan:
        node = lan.node("n1", SERVICES)
        node.start_daemon().wait_ready()
        pod = node.pod("web-0")
        pod.add()

        def rules() -> str:
            return node.run("nft -a list table bridge terwayd").stdout

        before = rules()
        assert pod.mac in before
        assert node.daemon is not None
        node.daemon.term()
        node.run("nft flush set bridge terwayd macs")  # an element is put back, and no rule written anew
        node.start_daemon().wait_ready()
        assert rules() == before
        node.daemon.term()
        node.run("nft flush chain bridge terwayd to_pods")
        node.start_daemon().wait_ready()
        assert rules() != before
        assert re.sub(r" # handle \d+|as_\w+", "", rules()) == re.sub(r" # handle \d+|as_\w+", "", before)
        assert lan.host.ping(pod.address)
