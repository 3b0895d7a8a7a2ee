"""The doctor's judgements on facts that no lab can make: clocks, firewalls of others, odd LANs."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from terwayd.config import CniConfig, Config, DhcpConfig
from terwayd.dhcp.survey import Offer
from terwayd.doctor.checks import GROUPS, LIVE, Severity
from terwayd.doctor.facts import Clock, Facts, Gateway, Lacking, Live, Process, Runtime, Told
from terwayd.doctor.firewall import Dropping, dropping, of_legacy, of_nft
from terwayd.doctor.live import foreign_mac
from terwayd.doctor.modules import forbids
from terwayd.health import CHECKS, Finding, examine
from terwayd.model import Host, Link

BRIDGE = Link(2, "mybr0", "52:54:00:00:00:01", 1500, kind="bridge", up=True, carrier=True)
NIC = Link(1, "eth0", "52:54:00:00:00:01", 1500, master=2, up=True, carrier=True)
OFFER = Offer(IPv4Address("192.0.2.1"), "52:54:00:00:00:99", IPv4Address("192.0.2.50"), 0.002)
GATEWAY = Gateway(IPv4Address("192.0.2.1"), answers=True, answers_foreign=True, mtu=1500)
LIVE_WELL = Live((OFFER,), (OFFER,), (OFFER,), "02:00:00:00:00:01", (GATEWAY,), {})
WELL = Facts(
    config=Config(),
    host=Host(links=(NIC, BRIDGE)),
    uplink=NIC,
    told=(),
    pods={},
    networks=("10-terway.conflist",),
    clock=Clock(2e9, True, 1.9e9, "x"),
    live=LIVE_WELL,
)


def finding(facts: Facts, code: str) -> Finding:
    return next(each for each in examine(facts) if each.code == code)


def with_chain(*chain: str | dict[str, Any]) -> Config:
    return Config(cni=CniConfig(chain=chain))


def test_the_table_of_checks() -> None:
    assert len({check.code for check in CHECKS}) == len(CHECKS)
    assert list(dict.fromkeys(check.group for check in CHECKS)) == list(GROUPS)
    assert set(LIVE) < set(GROUPS)
    assert {each.severity for each in examine(WELL)} == {Severity.WELL}
    assert [each.code for each in examine(WELL, "lan")] == ["gateway", "duplicate-address", "path-mtu"]


def test_every_finding_that_counts_has_a_hint() -> None:
    nothing = Facts(Config(), Host(), None, live=Live((), (), (), "02:00:00:00:00:01", (), {}))
    for each in (*examine(nothing), *examine(replace(WELL, told=None, live=None, clock=None))):
        assert bool(each.hint) or not each.counts
    ignored = {each.code for each in examine(nothing) if each.counts}
    assert ignored
    assert not any(each.counts for each in examine(nothing, ignored=ignored))


@pytest.mark.parametrize(
    ("change", "code", "severity", "text"),
    [
        ({"clock": Clock(1e9, True, 1.5e9, "/x")}, "clock", "error", "5787 days behind /x"),
        ({"clock": Clock(2e9, False, 1e9, "/x")}, "clock", "warning", "not synchronised"),
        ({"clock": Clock(2e9, None, 1e9, "/x")}, "clock", "well", "not behind"),
        ({"told": (Told("drift", False, "a", "h"), Told("bad", True, "b", "g"))}, "daemon", "error", "bad: b; drift: a"),
        ({"told": (Told("mended", False, "a", "h"),)}, "daemon", "warning", "mended: a"),
        ({"refused": ("host.uplink: wlan0 is wireless", "h")}, "uplink", "error", "wlan0 is wireless"),
        ({"clock": Clock(2e9, False, 1e9, "/x", "on")}, "clock", "warning", "no time server answers"),
        ({"lacking": (Lacking("bridge"), Lacking("veth"))}, "features", "error", "lacks bridge; this kernel lacks veth"),
        ({"managing": ("NetworkManager",)}, "other-manager", "error", "NetworkManager configures eth0 too"),
        ({"filtered": ("iptables",), "unread": "nft"}, "br-netfilter", "unknown", "nft cannot list"),
        ({"filtered": ("ip6tables",)}, "br-netfilter", "well", "none drops them"),
        ({"filtered": ()}, "br-netfilter", "well", "pass no iptables"),
        ({"sysfs": {"mybr0/bridge/vlan_filtering": "1"}}, "vlan-filtering", "warning", "VLAN filtering is on"),
        ({"sysfs": {"eth0/brport/state": "1"}}, "stp", "error", "does not forward in mybr0: state 1"),
        ({"config": with_chain("portmap", {"type": "tuning", "sysctl": {}})}, "chain", "well", "nothing"),
        ({"config": with_chain({"type": "tuning", "mac": "02:00:00:00:00:09"})}, "chain", "warning", "frames passes"),
        ({"networks": ()}, "network", "error", "is not there"),
        ({"networks": None}, "network", "unknown", "cannot be read"),
        (
            {"runtimes": (Runtime("CRI-O", "/f", ("/opt/cni/bin/",), "/etc/cni/crio"),)},
            "runtime",
            "error",
            "looks for networks in /etc/cni/crio (/f), not in /etc/cni/net.d",
        ),
    ],
)  # fmt: skip
def test_the_host(change: dict[str, Any], code: str, severity: str, text: str) -> None:
    found = finding(replace(WELL, **change), code)
    assert (found.severity.value, text in found.message) == (severity, True), found.message


@pytest.mark.parametrize(
    ("change", "code", "severity", "text"),
    [
        ({"foreign": (), "broadcast": ()}, "foreign-mac", "error", "though ARP from it is answered"),
        (
            {"gateways": (replace(GATEWAY, answers_foreign=False),)},
            "foreign-mac",
            "warning",
            "some servers answer by broadcast",
        ),
        (
            {
                "own": (),
                "foreign": (),
                "broadcast": (),
                "gateways": (replace(GATEWAY, answers_foreign=False),),
            },
            "foreign-mac",
            "error",
            "port security",
        ),
        ({"gateways": ()}, "foreign-mac", "well", "got an OFFER"),
        ({"gateways": (replace(GATEWAY, mtu=None),)}, "path-mtu", "unknown", "answers ping"),
        ({"claimed": {"192.0.2.9": "02:00:00:00:00:09"}}, "duplicate-address", "error", "192.0.2.9 (02:00"),
    ],
)
def test_the_lan(change: dict[str, Any], code: str, severity: str, text: str) -> None:
    found = finding(replace(WELL, live=replace(LIVE_WELL, **change)), code)
    assert (found.severity.value, text in found.message) == (severity, True), found.message


@pytest.mark.parametrize(
    ("lacking", "hint"),
    [
        (Lacking("veth"), "modprobe veth"),
        (
            Lacking("veth", missing="/lib/modules/6.1", release="6.1"),
            "apt install --reinstall linux-image-6.1",
        ),
        (Lacking("veth", missing="/lib/modules/6.1", elsewhere=True, release="6.1"), "systemctl reboot"),
    ],
)
def test_what_the_kernel_lacks(lacking: Lacking, hint: str) -> None:
    assert finding(replace(WELL, lacking=(lacking,)), "features").hint == hint


@pytest.mark.parametrize(
    ("clients", "hint"),
    [
        ((Process(7, "udhcpc"),), "kill 7"),
        ((Process(7, "dhclient", "networking.service"),), "kill 7"),
        ((Process(7, "dhclient", "dhclient.service", main=True),), "systemctl disable --now dhclient.service"),
        (
            (Process(8, "dhcpcd", "a.service"), Process(7, "dhcpcd", "a.service", main=True), Process(9, "udhcpc")),
            "systemctl disable --now a.service; kill 9",
        ),
    ],
)  # fmt: skip
def test_how_another_client_is_ended(clients: tuple[Process, ...], hint: str) -> None:
    """By its unit where the unit is there for it: networking.service would take the network along."""
    assert finding(replace(WELL, dhcp_clients=clients), "other-manager").hint == hint


@pytest.mark.parametrize(
    ("text", "forbidden"),
    [
        ("install bridge /bin/false", True),
        ("# no\n  blacklist\tbridge\n", True),
        ("#install bridge /bin/false", False),
        ("install bridge_x /bin/false", False),
        ("blacklist veth", False),
        ("options bridge x=1", False),
        ("", False),
    ],
)
def test_what_modprobe_is_told(text: str, forbidden: bool) -> None:
    assert forbids(text, "bridge") == forbidden


def test_a_server_that_is_not_believed() -> None:
    config = Config(dhcp=DhcpConfig(servers=(IPv4Address("192.0.2.7"),)))
    found = finding(replace(WELL, config=config), "dhcp-servers")
    assert found.message == "none of dhcp.servers answered, but 192.0.2.1 (52:54:00:00:00:99, 2 ms)"


def ruleset(*rules: dict[str, Any], policy: str = "drop", family: str = "ip", hook: str = "forward") -> str:
    place = {"family": family, "table": "filter"}
    chain = {**place, "name": "FORWARD", "type": "filter", "hook": hook, "prio": 0, "policy": policy}
    return json.dumps({"nftables": [{"chain": chain}, *({"rule": {**place, **rule}} for rule in rules)]})


def rule(*expressions: dict[str, Any], chain: str = "FORWARD") -> dict[str, Any]:
    return {"chain": chain, "expr": list(expressions)}


def named(key: str, name: Any = "mybr0", op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": name}}


ACCEPT: dict[str, Any] = {"accept": None}
DROP: dict[str, Any] = {"drop": None}
JUMP = {"jump": {"target": "DOCKER-USER"}}
COUNTER: dict[str, Any] = {"counter": {"packets": 0, "bytes": 0}}


@pytest.mark.parametrize(
    ("text", "drops"),
    [
        (ruleset(), True),
        (ruleset(policy="accept"), False),
        (ruleset(hook="input"), False),
        (ruleset(family="bridge"), False),
        (ruleset(family="ip6"), False),
        (ruleset(family="inet"), True),
        (ruleset(rule(ACCEPT)), False),
        (ruleset(rule(COUNTER, DROP), policy="accept"), True),
        (ruleset(rule({"reject": {"type": "icmpx"}}), policy="accept"), True),
        (ruleset(rule(named("iifname"), named("oifname"), COUNTER, ACCEPT)), False),
        (ruleset(rule(named("iifname", {"set": ["docker0", "mybr0"]}), ACCEPT)), False),
        (ruleset(rule(named("iifname", "docker0"), ACCEPT)), True),
        (ruleset(rule(named("iifname", "my*"), ACCEPT)), False),
        (ruleset(rule(named("iifname", "br*"), ACCEPT)), True),
        (ruleset(rule({"return": None}), rule(ACCEPT)), True),
        (ruleset(rule({"goto": {"target": "USER"}}), rule(ACCEPT)), True),
        (ruleset(rule(named("iifname", op="!="), ACCEPT)), True),
        (ruleset(rule(named("iifname", "docker0"), DROP), policy="accept"), False),
        (ruleset(rule({"xt": {"type": "match", "name": "physdev"}}, ACCEPT)), False),
        (ruleset(rule({"xt": None}, ACCEPT)), True),
        (ruleset(rule(JUMP), rule(named("iifname"), ACCEPT, chain="DOCKER-USER")), False),
        (ruleset(rule(JUMP), rule({"return": None}, chain="DOCKER-USER")), True),
        (ruleset(rule(JUMP), rule(JUMP, chain="DOCKER-USER")), True),
        (ruleset(rule({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "established"}}, ACCEPT)), True),
        (json.dumps({"nftables": []}), False),
    ],
)  # fmt: skip
def test_forward_chains(text: str, drops: bool) -> None:
    found = dropping(of_nft(text), "mybr0", ("iptables",))
    assert bool(found) == drops
    for chain in found:
        assert (chain.table, chain.chain) == ("filter", "FORWARD")


@pytest.mark.parametrize(
    ("rules", "drops"),
    [
        (["-P FORWARD DROP"], True),
        (["-P FORWARD ACCEPT"], False),
        (["-P INPUT DROP", "-P FORWARD ACCEPT", "-A INPUT -j DROP"], False),
        (["-P FORWARD DROP", '-A FORWARD -i mybr0 -o mybr0 -m comment --comment "ours, -j DROP" -j ACCEPT'], False),
        (["-P FORWARD DROP", "-A FORWARD -i my+ -j ACCEPT"], False),
        (["-P FORWARD DROP", "-A FORWARD ! -i docker0 -j ACCEPT"], True),
        (["-P FORWARD ACCEPT", "-A FORWARD -i mybr0 -p tcp -j DROP"], False),
        (["-P FORWARD ACCEPT", "-A FORWARD -i mybr0 -j REJECT --reject-with icmp-port-unreachable"], True),
        (["-P FORWARD DROP", "-A FORWARD -m physdev --physdev-is-bridged -j ACCEPT"], False),
        (["-P FORWARD DROP", "-A FORWARD -m physdev ! --physdev-is-bridged -j ACCEPT"], True),
        (["-P FORWARD DROP", "-A FORWARD -m physdev --physdev-in eth1 -j ACCEPT"], True),
        (["-P FORWARD DROP", "-N USER", "-A FORWARD -j USER", "-A USER -o mybr0 -j ACCEPT"], False),
        (["-P FORWARD ACCEPT", "-N USER", "-A FORWARD -g USER", "-A USER -j LOG --log-prefix x", "-A USER -j DROP"], True),
        (["-P FORWARD DROP", "-A FORWARD -j MARK --set-mark 1", "-A FORWARD -j ACCEPT"], False),
    ],
)  # fmt: skip
def test_chains_of_legacy_iptables(rules: list[str], drops: bool) -> None:
    found = dropping(of_legacy("iptables-legacy", "\n".join(rules)), "mybr0", ("iptables",))
    assert [str(chain) for chain in found] == ["iptables-legacy filter FORWARD"] * drops
    assert dropping(of_legacy("iptables-legacy", "\n".join(rules)), "mybr0", ("ip6tables",)) == ()
    for chain in found:
        assert chain.exception.format(bridge="br0") == "iptables-legacy -I FORWARD -i br0 -o br0 -j ACCEPT"


def test_the_exception_is_taken() -> None:
    chain = Dropping("inet", "firewalld", "filter_FORWARD")
    assert chain.exception.format(bridge="br0") == (
        'nft insert rule inet firewalld filter_FORWARD iifname "br0" oifname "br0" accept'
    )


def test_a_foreign_mac_is_local_and_always_the_same() -> None:
    assert (
        foreign_mac("52:54:00:00:00:01")
        == foreign_mac("52:54:00:00:00:01")
        != foreign_mac("52:54:00:00:00:02")
    )
    assert foreign_mac("52:54:00:00:00:01").startswith("02:")
