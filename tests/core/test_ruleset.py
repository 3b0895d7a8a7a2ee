"""The rules as text and as elements, and the one rule of iptables: where it has to stand."""

from __future__ import annotations

import sys
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from terwayd.kernel.iptables import changes
from terwayd.pods.ruleset import SETS, Port, interface_identifier, keys_of, ruleset

POD = Port("tw0123456789ab", "1a:ae:7a:95:68:5c", "c0ffee", (IPv4Address("192.168.0.57"),), index=37)
NAME = b"tw0123456789ab\0\0"
OWN = NAME + bytes.fromhex("1aae7a95685c0000")
IDENTIFIER = bytes.fromhex("18ae7afffe95685c")


def test_the_elements_of_a_pod() -> None:
    assert keys_of([POD]) == {
        "ports": {NAME},
        "macs": {OWN},
        "senders": {(37).to_bytes(4, sys.byteorder) + OWN[16:22] + bytes([8, 0, 192, 168, 0, 57])},
        "leased": {OWN + bytes([192, 168, 0, 57])},
        "identifiers": {OWN + IDENTIFIER},
    }


def test_the_elements_as_text() -> None:
    told = ruleset("mybr0", [POD], antispoof=True, services=False)
    assert "elements = { 37 . 0x1aae7a95685c0800 . 0xc0a80039 }" in told
    assert f'elements = {{ "{POD.name}" . {POD.mac} . 192.168.0.57 }}' in told


def test_a_port_that_is_not_there_yet_has_no_short_cut() -> None:
    found, before = keys_of([POD]), keys_of([replace(POD, index=0)])
    assert {key for key in found if found[key] != before[key]} == {"senders"}
    assert not before["senders"]


def test_a_pod_that_is_not_guarded_is_known_by_its_mac_alone() -> None:
    found = keys_of([replace(POD, guarded=False)])
    assert {key for key, elements in found.items() if elements} == {"macs"}


def test_a_pod_without_ipv6_has_no_identifier() -> None:
    assert not keys_of([replace(POD, ipv6=False)])["identifiers"]


def test_interfaces_of_one_pod_have_each_others_addresses_and_their_own_macs() -> None:
    other = Port("twbeside", "02:00:00:00:00:02", "c0ffee", (IPv4Address("192.168.0.58"),))
    beside = b"twbeside".ljust(16, b"\0") + bytes.fromhex("0200000000020000")
    found = keys_of(
        [POD, other, Port("twstranger", "02:00:00:00:00:03", "b0b", (IPv4Address("192.168.0.59"),))]
    )
    ips = [bytes([192, 168, 0, 57]), bytes([192, 168, 0, 58])]
    assert {key for key in found["leased"] if b"stranger" not in key} == {
        mac + ip for mac in (OWN, beside) for ip in ips
    }
    assert {OWN + IDENTIFIER, beside + IDENTIFIER} < found["identifiers"]


def test_the_kernels_own_link_local_address() -> None:
    mac = bytes.fromhex("525400770003")
    assert IPv6Address(b"\xfe\x80" + bytes(6) + interface_identifier(mac)) == IPv6Address(
        "fe80::5054:ff:fe77:3"
    )


def test_no_rule_is_a_pods_own() -> None:
    others = [
        Port(f"tw{n:012x}", f"02:00:00:00:00:{n:02x}", str(n), (IPv4Address("10.0.0.0") + n,))
        for n in range(99)
    ]
    few, many = (ruleset("mybr0", ports, antispoof=True, services=True) for ports in ([], others))
    assert [line for line in few.splitlines() if " set " not in line] == [
        line for line in many.splitlines() if " set " not in line
    ]
    assert len(keys_of(others)["leased"]) == 99


def test_what_nobody_needs_is_not_there() -> None:
    text = ruleset("mybr0", [POD], antispoof=False, services=False)
    assert "chain" not in text
    assert text.count("delete table") == 2  # and what an earlier configuration left goes
    assert "masquerade" not in ruleset("mybr0", [POD], antispoof=True, services=False)
    assert all(f"set {name} " in ruleset("mybr0", [], antispoof=True, services=False) for name in SETS)


RULE = "-i mybr0 -o mybr0 -m comment --comment terwayd -j ACCEPT"
DOCKER = "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n-A FORWARD -o docker0 -j DOCKER"
USER = "-N DOCKER-USER\n-A DOCKER-USER -j RETURN"


@pytest.mark.parametrize(
    ("forward", "user", "place", "told"),
    [
        ("-P FORWARD ACCEPT", "", "", []),
        ("-P FORWARD DROP", "", "FORWARD", ["-I FORWARD"]),
        (f"-P FORWARD DROP\n-A FORWARD {RULE}", "", "FORWARD", []),
        (
            "-P FORWARD ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited",
            "",
            "FORWARD",
            ["-I FORWARD"],
        ),
        ("-P FORWARD ACCEPT\n-A FORWARD -i eth1 -j DROP", "", "", []),
        (f"-P FORWARD ACCEPT\n-A FORWARD {RULE}", "", "", ["-D FORWARD"]),
        (DOCKER, USER, "DOCKER-USER", ["-I DOCKER-USER"]),
        (f"{DOCKER}\n-A FORWARD {RULE}", USER, "DOCKER-USER", ["-I DOCKER-USER", "-D FORWARD"]),
        ("-P FORWARD DROP", USER, "FORWARD", ["-I FORWARD"]),  # nobody looks at that chain
    ],
)
def test_where_the_rule_of_iptables_stands(forward: str, user: str, place: str, told: list[str]) -> None:
    found, commands = changes(forward, user, "mybr0", wanted=True)
    assert (found, [" ".join(command) for command in commands]) == (
        place,
        [f"{what} {RULE}" for what in told],
    )


def test_it_goes_with_us() -> None:
    place, commands = changes(f"-P FORWARD DROP\n-A FORWARD {RULE}", "", "mybr0", wanted=False)
    assert (place, commands) == ("", [["-D", "FORWARD", *RULE.split()]])
