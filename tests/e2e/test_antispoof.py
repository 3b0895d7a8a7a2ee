"""A pod with all capabilities in its namespace tries to be somebody else: the LAN hears nothing of it.

Raw frames (frames.py), heard on another host of the LAN.  A pod whose network has `antispoof` off sends the same ones,
and each of them is heard there: so each test can fail.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
from typing import Any

import pytest

from tests.e2e import frames, shared
from tests.lab import Lan, Node, Pod, eventually
from tests.lab.machine import CHECKOUT, PYTHON

FRAMES = [PYTHON, "-IS", str(CHECKOUT / "tests/e2e/frames.py")]
OFF = {"antispoof": False}


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
    with lan.host.popen([*FRAMES, "hear", "eth0"], stdout=subprocess.PIPE) as hearing:
        assert hearing.stdout is not None
        assert hearing.stdout.readline() == b"hearing\n"
        pod.run([*FRAMES, "send", "eth0", json.dumps(order(lan, pod, names))])
        return set(json.loads(hearing.stdout.read())) - {"end"}


def known(lan: Lan, pod: Pod) -> tuple[list[str], list[str]]:
    sender = frames.Sender(order(lan, pod, []))
    return list(sender.legitimate()), list(sender.attacks())


def test_what_is_its_own_a_pod_may_send(lan: Lan, held: Pod) -> None:
    legitimate, _ = known(lan, held)
    assert heard(lan, held, legitimate) == set(legitimate)


def test_none_of_the_attacks_reaches_the_lan(lan: Lan, node: Node, held: Pod, free: Pod) -> None:
    _, attacks = known(lan, held)
    assert heard(lan, held, attacks) == set()
    assert heard(lan, free, attacks) == set(attacks), "with the filter off each is heard"
    assert "1 pod held to their own MAC" in node.terwayctl("status").stdout


def test_it_holds_without_its_short_cut(lan: Lan, node: Node, held: Pod) -> None:
    """The first rule accepts nearly all of a pod's frames; what it has not accepted is judged as well."""
    legitimate, attacks = known(lan, held)
    senders = "bridge terwayd senders"
    assert f"0x{held.mac.replace(':', '')}0800" in node.run(f"nft list set {senders}").stdout
    assert node.daemon is not None
    node.daemon.process.signal(signal.SIGSTOP)  # it would put them back
    try:
        node.run(f"nft flush set {senders}")
        assert heard(lan, held, legitimate) == set(legitimate)
        assert heard(lan, held, attacks) == set()
    finally:
        node.daemon.process.signal(signal.SIGCONT)
    eventually(lambda: "elements" in node.run(f"nft list set {senders}").stdout, 10.0, "they are back")


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

    port = next(pod["host_ifname"] for pod in node.status()["pods"] if pod["name"] == "held")

    def back() -> bool:
        told = node.run("nft list table bridge terwayd", check=False).stdout
        return "goto pod" in told and f'"{port}"' in told.partition("set macs")[0]

    for command in (
        "nft flush ruleset",
        "nft flush table bridge terwayd",
        "nft delete element bridge terwayd ports",
    ):
        node.run(f"{command} {{ {port} }}" if "element" in command else command)
        eventually(back, 10.0, f"mended: {command}")
        assert heard(lan, held, some) == set()
    assert node.daemon is not None
    node.daemon.kill9()
    assert heard(lan, held, some) == set()
    node.run("nft flush ruleset")
    assert heard(lan, held, some) == set(some)
    node.start_daemon().wait_ready()
    assert heard(lan, held, some) == set()
    assert heard(lan, free, some) == set(some)


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
    assert node.run("nft list set bridge terwayd macs").stdout.count('"tw') == len(node.status()["pods"])


def test_a_restart_leaves_rules_that_stand_and_mends_those_that_do_not() -> None:
    """New rules lose a packet now and then; rules that somebody changed while no daemon ran are not trusted."""
    with Lan() as lan:
        node = lan.node("n1")
        node.start_daemon().wait_ready()
        pod = node.pod("web-0")
        pod.add()

        def rules() -> str:
            return node.run("nft -a list table bridge terwayd | grep -v packets").stdout

        before = rules()
        assert str(pod.address) in before
        assert node.daemon is not None
        node.daemon.term()
        node.run("nft flush set bridge terwayd leased")  # an element is put back, and no rule written anew
        node.start_daemon().wait_ready()
        assert rules() == before
        node.daemon.term()
        node.run("nft flush chain bridge terwayd refuse")
        node.start_daemon().wait_ready()
        assert rules() != before
        assert re.sub(r" # handle \d+|as_\w+", "", rules()) == re.sub(r" # handle \d+|as_\w+", "", before)
        assert lan.host.ping(pod.address)
