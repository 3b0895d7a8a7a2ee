"""Address conflicts (RFC 5227), the servers to believe, the rate of DISCOVERs, and the drawn table."""

from __future__ import annotations

import importlib.util
import math
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import Path

import pytest

from terwayd.dhcp import frame
from terwayd.dhcp.client import Client
from terwayd.dhcp.conflict import FAST, FULL, Probing
from terwayd.dhcp.options import Code, Kind
from terwayd.dhcp.outcome import Bound, Conflict
from terwayd.dhcp.packet import REPLY, Message
from terwayd.dhcp.sender import Bucket
from terwayd.dhcp.table import State
from tests.core.dhcp import IP, MAC, NOBODY, OTHER, POD, SERVER, SERVER_MAC, Middle, reply, sent
from tests.core.judge import judge

STRANGER = bytes.fromhex("02dd00000009")


def acked(probing: Probing | None = FAST) -> Client:
    """A client that has just got its ACK, at 0."""
    it = Client(POD, Middle(1), probing=probing)
    it.start(0.0)
    it.receive(reply(sent(it).message, Kind.OFFER), SERVER_MAC, 0.0)
    it.receive(reply(sent(it).message, Kind.ACK), SERVER_MAC, 0.0)
    return it


def probes(it: Client) -> list[IPv4Address]:
    found = []
    for data in it.frames():
        arp = frame.parse_arp(data)
        assert arp is not None
        assert (data[:6], arp.mac) == (frame.BROADCAST_MAC, MAC)
        assert arp.sender == NOBODY, "a probe must not touch anybody's ARP cache"
        found.append(arp.target)
    return found


@pytest.mark.parametrize(("probing", "least", "most"), [(FAST, 0.3, 0.5), (FULL, 4.0, 7.0)])
def test_three_probes_then_the_lease_is_taken(probing: Probing, least: float, most: float) -> None:
    it, seen = acked(probing), 0
    while it.state is State.PROBING:
        assert it.events() == []
        seen += len(probes(it))
        now = it.deadline()
        it.tick(now)
    assert seen == 3
    assert least <= now <= most
    assert it.lease is not None
    assert it.events() == [Bound(it.lease)]


@pytest.mark.parametrize(
    "arp",
    [frame.Arp(STRANGER, IP, NOBODY), frame.Arp(STRANGER, NOBODY, IP)],
    ids=["it is in use", "another one probes for it"],
)
def test_a_conflict_is_declined_and_ten_seconds_pass(arp: frame.Arp) -> None:
    it = acked()
    it.outbox()
    it.heard(arp, 0.2)
    decline = sent(it).message
    assert decline.kind is Kind.DECLINE
    assert decline.options[Code.REQUESTED_ADDRESS] == IP.packed
    assert decline.options[Code.SERVER_ID] == SERVER.packed
    assert decline.options[Code.CLIENT_ID] == POD.client_id
    assert decline.ciaddr == NOBODY
    assert (it.state, it.lease, it.events(), it.claimed) == (State.INIT, None, [], None)
    it.tick(10.1)
    assert it.outbox() == []
    it.tick(10.2)
    again = sent(it).message
    assert again.kind is Kind.DISCOVER
    assert Code.REQUESTED_ADDRESS not in again.options
    assert "192.0.2.57 was declined: 02:dd:00:00:00:09 has it" in it.journal.summary(10.2)


def test_what_is_no_conflict() -> None:
    it = acked()
    for arp in (
        frame.Arp(MAC, IP, IP),
        frame.Arp(STRANGER, OTHER, IP),  # somebody asks for it, as others do
        frame.Arp(STRANGER, NOBODY, OTHER),
        frame.Arp(STRANGER, OTHER, OTHER),
    ):
        it.heard(arp, 0.1)
    assert it.state is State.PROBING


def test_a_bound_address_is_defended_once_in_ten_seconds() -> None:
    it = acked(None)
    assert it.lease is not None
    it.events()
    for at, announced in ((1.0, 1), (2.0, 0), (10.9, 0), (11.0, 1)):
        it.heard(frame.Arp(STRANGER, IP, NOBODY), at)
        frames = it.frames()
        assert len(frames) == announced, at
        assert it.events() == [Conflict(it.lease, STRANGER)] * announced
        assert all(frame.parse_arp(data) == frame.Arp(MAC, IP, IP) for data in frames)
    assert it.state is State.BOUND


def test_a_client_released_while_it_probes_gives_the_address_back() -> None:
    it = acked()
    it.outbox()
    it.release(0.1)
    assert sent(it).message.ciaddr == IP


def test_without_detection_nothing_is_probed() -> None:
    it = acked(None)
    assert (it.state, it.frames()) == (State.BOUND, [])


def test_only_the_servers_named_are_believed() -> None:
    it = Client(POD, Middle(1), servers=(OTHER,))
    it.start(0.0)
    discover = sent(it).message
    it.receive(reply(discover, Kind.OFFER), SERVER_MAC, 0.1)
    assert it.outbox() == []
    it.receive(reply(discover, Kind.OFFER, server=OTHER), SERVER_MAC, 0.2)
    request = sent(it).message
    it.receive(reply(request, Kind.NAK), SERVER_MAC, 0.3)
    assert it.state is State.REQUESTING


@pytest.mark.parametrize(
    "data", [b"", frame.arp_probe(MAC, IP)[:41], bytes(60), frame.arp_probe(MAC, IP)[:20] + bytes(40)]
)
def test_what_is_no_arp(data: bytes) -> None:
    assert frame.parse_arp(data) is None


def test_a_bucket_gives_a_second_at_once_then_its_rate() -> None:
    bucket = Bucket(50)
    waits = [bucket.take(100.0) for _ in range(150)]
    assert waits[:50] == [0.0] * 50
    assert waits[149] == pytest.approx(2.0)
    assert all(b >= a for a, b in pairwise(waits))
    assert bucket.take(104.0) == 0.0
    assert math.isfinite(bucket.take(104.0))


def test_the_drawn_table_is_the_table() -> None:
    docs = Path(__file__).parents[2] / "docs"
    spec = importlib.util.spec_from_file_location("dhcp_states", docs / "dhcp_states.py")
    assert spec is not None
    assert spec.loader is not None
    drawing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawing)
    assert (docs / "dhcp-states.md").read_text() == drawing.page(), "run: python3 docs/dhcp_states.py"


def test_the_kernels_filters() -> None:
    def to(port: int, **more: int) -> bytes:
        return frame.build(
            Message(REPLY, 1, MAC).encode(),
            source_mac=MAC,
            destination_mac=MAC,
            source=IP,
            destination=IP,
            destination_port=port,
            **more,
        )

    arp, fragment = frame.arp_probe(MAC, IP), bytearray(to(68))
    fragment[20] = 0x20
    for program, hears_arp in ((frame.FILTER, False), (frame.FILTER_ARP, True)):
        with judge(program) as passes:
            assert passes(to(68))
            assert not passes(to(67))
            assert not passes(bytes(fragment))
            assert not passes(to(68)[:12] + b"\x86\xdd" + bytes(60))
            assert passes(arp) == hears_arp
