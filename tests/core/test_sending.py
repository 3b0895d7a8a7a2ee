"""What a pod may send: the program run by the kernel, as the filter of a socket, on frames that are wrong in one thing."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terwayd import bpf
from terwayd.pods.sending import FIRST, REST, SECOND, Port, interface_identifier, programs_of
from tests.core.judge import judge
from tests.e2e import frames

OWN, OTHER = "1a:ae:7a:95:68:5c", "52:54:00:77:00:77"
POD = Port("tw0123456789ab", OWN, "c0ffee", (IPv4Address("192.168.0.57"),))
ORDER = {
    "mac": OWN,
    "ip": "192.168.0.57",
    "victim_mac": OTHER,
    "victim_ip": "192.168.0.77",
    "router_mac": "52:54:00:00:00:01",
    "router_ip": "192.168.0.1",
}
SENDER = frames.Sender(ORDER)


def accepted(port: Port, frame: bytes, *beside: Port) -> bool:
    with judge(programs_of([port, *beside])[port.name][FIRST]) as passes:
        return passes(frame)


@pytest.mark.parametrize("name", SENDER.legitimate())
def test_its_own(name: str) -> None:
    frame = SENDER.legitimate()[name]
    assert accepted(POD, frame)
    assert not accepted(replace(POD, mac=OTHER), frame)


@pytest.mark.parametrize("name", SENDER.attacks())
def test_what_is_not_its_own(name: str) -> None:
    assert not accepted(POD, SENDER.attacks()[name])


def test_a_frame_cut_short_is_refused() -> None:
    for name, frame in SENDER.legitimate().items():
        for size in range(1, 30):  # where an IPv4 header's source ends
            assert not accepted(POD, frame[:size]), (name, size)


@given(st.binary(min_size=1, max_size=90), st.sampled_from([0x0800, 0x0806, 0x86DD]))  # type: ignore[misc]
def test_nothing_passes_without_its_mac_and_an_address_of_its_own(rest: bytes, kind: int) -> None:
    own = bytes.fromhex(OWN.replace(":", ""))
    with judge(programs_of([POD])[POD.name][FIRST]) as passes:
        for frame in (rest, rest[:6] + own + struct.pack("!H", kind) + rest[6:]):
            if passes(frame):
                assert frame[6:12] == own
                addresses = [POD.addresses[0].packed, interface_identifier(own), bytes(16)]
                assert any(address in frame[14:] for address in addresses)


def authenticated(kind: int, payload: bytes) -> bytes:
    head = struct.pack("!BBHII", kind, 4, 0, 1, 1) + bytes(12)
    return SENDER.six(frames.ip6(SENDER.ll, head + payload, proto=51))


def test_behind_an_authentication_header() -> None:
    assert accepted(POD, authenticated(6, bytes(20)))
    assert accepted(POD, authenticated(17, frames.udp(9, 9, b"")))
    assert not accepted(POD, authenticated(17, frames.udp(547, 9, b"")))
    assert not accepted(POD, authenticated(58, frames.icmp6(SENDER.ll, 134, bytes(12))))
    for extension in (0, 43, 44, 51, 60):
        assert not accepted(POD, authenticated(extension, bytes(20)))


def test_interfaces_of_one_pod_have_each_others_addresses_and_their_own_macs() -> None:
    other = Port("twbeside", "02:00:00:00:00:02", "c0ffee", (IPv4Address("192.168.0.58"),))
    stranger = Port("twstranger", "02:00:00:00:00:03", "b0b", (IPv4Address("192.168.0.59"),))
    ports = [POD, other, stranger]
    theirs = SENDER.four("x", "192.168.0.58")
    assert accepted(POD, theirs, other, stranger)
    assert not accepted(POD, SENDER.four("x", "192.168.0.59"), other, stranger)
    assert not accepted(POD, theirs)
    from_other = frames.ether(
        bytes([2, 0, 0, 0, 0, 2]), 0x0800, frames.ip4("192.168.0.57", frames.udp(9, 9, b""))
    )
    assert accepted(other, from_other, POD)
    assert not accepted(POD, from_other, other)
    assert programs_of(ports).keys() == {port.name for port in ports}


def test_a_pod_of_many_interfaces() -> None:
    many = [
        Port(f"tw{n}", f"02:00:00:00:00:{n:02x}", "c0ffee", (IPv4Address("192.168.0.100") + n,))
        for n in range(100)
    ]
    assert accepted(POD, SENDER.four("x", "192.168.0.57"), *many)
    assert accepted(POD, SENDER.four("x", "192.168.0.100"), *many)
    own = frames.ether(bytes([2, 0, 0, 0, 0, 99]), 0x0800, frames.ip4("192.168.0.199", frames.udp(9, 9, b"")))
    assert accepted(many[99], own, POD, *many[:99])


def test_what_is_not_guarded_has_no_program_and_without_ipv6_there_is_none_of_it() -> None:
    assert programs_of([replace(POD, guarded=False)]) == {POD.name: {}}
    assert not accepted(replace(POD, ipv6=False), SENDER.legitimate()["link-local"])
    assert accepted(replace(POD, ipv6=False), SENDER.legitimate()["ipv4"])


def test_what_the_first_leaves_the_second_drops() -> None:
    assert programs_of([POD])[POD.name][SECOND] == REST == struct.pack("=HBBI", 6, 0, 0, 2)


def test_the_kernels_own_link_local_address() -> None:
    mac = bytes.fromhex("525400770003")
    assert IPv6Address(b"\xfe\x80" + bytes(6) + interface_identifier(mac)) == IPv6Address(
        "fe80::5054:ff:fe77:3"
    )


@pytest.mark.parametrize("line", ["ldq [0]", "ld 12", "jeq #1, nowhere", "ret 1", "ld [1", "jeq #0, back"])
def test_what_is_no_instruction_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="no instruction"):
        bpf.assemble(f"back: ret #0\n{line}\n")
