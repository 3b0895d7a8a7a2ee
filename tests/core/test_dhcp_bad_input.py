"""Bytes that have brought other DHCP clients down: one parse error, quickly, and nothing unescaped.

Each case is named for what it does; the CVE numbers are those of the clients that did not stand it.
"""

from __future__ import annotations

import json
import math
import struct
import time
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from terwayd.dhcp import frame
from terwayd.dhcp import options as opt
from terwayd.dhcp.client import Client
from terwayd.dhcp.lease import Lease, LeaseError, lease_from
from terwayd.dhcp.options import Code, Kind
from terwayd.dhcp.outcome import Bound
from terwayd.dhcp.packet import Message, PacketError
from terwayd.dhcp.table import State
from tests.core.dhcp import (
    HEAD,
    MAC,
    OTHER,
    POD,
    SERVER,
    SERVER_MAC,
    Middle,
    a_lease,
    ack,
    framed,
    reply,
    sent,
)

NASTY = [
    b"$(reboot)",
    b"`reboot`",
    b"a;reboot",
    b"a\nb",
    b"a\x1b[2J",
    b"a\0b",
    b"'\"",
    b"\xff\xfe\xfd",
    "büro".encode(),
    b"x" * 255,
    b"() { :;}; reboot",
    b"../../etc/passwd",
    b"a b",
    b"-oProxyCommand",
    b"\xe2\x80\xae",
    b"",
]


def parsed(data: bytes) -> Message | None:
    """The message, or None for the one error there is."""
    try:
        return Message.parse(data)
    except PacketError:
        return None


@pytest.mark.parametrize("raw", NASTY)
@pytest.mark.parametrize("code", [Code.DOMAIN, Code.SEARCH, Code.HOSTNAME, 17, 40, 67, 252, 114])
def test_shell_and_terminal_characters_in_names(code: int, raw: bytes) -> None:
    """CVE-2011-0997, CVE-2018-1111, Shellshock by option 114: no name gets through that is not one."""
    lease = lease_from(ack({code: raw}), server_mac=SERVER_MAC, sent=0.0)
    for text in (lease.domain, *lease.search):
        assert all(c.isascii() and (c.isalnum() or c in "-_.") for c in text)
    assert len(lease.domain) <= 253


@pytest.mark.parametrize("raw", NASTY)
def test_a_servers_words_are_printable_where_they_are_told(raw: bytes) -> None:
    it = Client(POD, Middle(1))
    it.start(0.0)
    it.receive(reply(sent(it).message, Kind.OFFER), SERVER_MAC, 0.0)
    it.receive(reply(sent(it).message, Kind.NAK, more={Code.MESSAGE: raw}), SERVER_MAC, 0.0)
    assert it.journal.summary(0.0).isprintable()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 8, 255])
@pytest.mark.parametrize("code", [1, 3, 6, 26, 28, 33, 42, 50, 51, 54, 58, 59, 119, 121])
def test_an_option_of_the_wrong_length(code: int, size: int) -> None:
    """CVE-2009-0692 (a mask of more than four bytes), CVE-2018-20679, CVE-2019-5747 (short ones)."""
    message = ack({code: bytes([7]) * size})
    try:
        lease = lease_from(message, server_mac=SERVER_MAC, sent=0.0)
    except LeaseError:
        return
    assert 1 <= lease.address.network.prefixlen <= 32


def test_an_option_beyond_the_end() -> None:
    """CVE-2018-5732."""
    for field in (b"\x35", b"\x35\xff", b"\x35\x02\x05", b"\x06\x04\x01\x02\x03"):
        with pytest.raises(PacketError):
            Message.parse(HEAD + field)


@pytest.mark.parametrize("byte", range(4, 256))
def test_overload_of_every_value(byte: int) -> None:
    assert parsed(HEAD + bytes((52, 1, byte, 255))) is None


def test_overload_that_points_at_itself() -> None:
    data = bytearray(HEAD + bytes((53, 1, 5, 52, 1, 3, 255)))
    data[108:111] = data[44:47] = bytes((52, 1, 3))
    assert parsed(bytes(data)) is not None


@pytest.mark.parametrize("bits", range(33, 256))
def test_classless_routes_with_a_mask_beyond_32(bits: int) -> None:
    with pytest.raises(ValueError):
        opt.classless_routes(bytes((bits,)) + bytes(40))


@pytest.mark.parametrize("end", range(1, 9))
def test_classless_routes_cut_off(end: int) -> None:
    """systemd's PR 22294: an endless loop."""
    raw = bytes((24, 10, 0, 0, 192, 0, 2, 1))
    if end < len(raw):
        with pytest.raises(ValueError):
            opt.classless_routes(raw[:end])


@pytest.mark.parametrize("size", [1, 4, 7, 9, 12, 15])
def test_static_routes_that_are_no_pairs(size: int) -> None:
    with pytest.raises(ValueError):
        opt.static_routes(bytes([10]) * size)


@pytest.mark.parametrize("net", ["127.0.0.0", "224.0.0.0", "240.0.0.0", "255.255.255.255"])
def test_routes_that_lead_where_no_route_may(net: str) -> None:
    raw = bytes((32,)) + IPv4Address(net).packed + SERVER.packed
    assert lease_from(ack({121: raw}), server_mac=SERVER_MAC, sent=0.0).routes == ()


@pytest.mark.parametrize(
    "raw",
    [
        b"\xc0\x00",
        b"\x01a\xc0\x00",
        b"\xc0\x05\x01a\xc0\x00",
        b"\xc0",
        b"\xc0\xff",
        b"\x40a\0",
        b"\x3f" + b"a" * 62,
    ],
)
def test_search_lists_that_loop_or_are_cut_off(raw: bytes) -> None:
    with pytest.raises(ValueError):
        opt.names(raw)


def test_a_search_list_of_pointers_only() -> None:
    """A name of 63 labels, and then as many pointers to it as fit."""
    raw = (b"\x01a" * 63 + b"\0") + b"\xc0\x00" * 5000
    took = []
    for _ in range(3):  # the collector's run counts too, and an interrupt
        began = time.thread_time()
        with pytest.raises(ValueError):
            opt.names(raw)
        took.append(time.thread_time() - began)
    assert min(took) < 0.01


@pytest.mark.parametrize("seconds", [0, 1, 2, 59, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF])
@pytest.mark.parametrize(
    ("t1", "t2"), [(0, 0), (50, 20), (0xFFFFFFFF, 1), (1, 0xFFFFFFFF), (10**9, 2 * 10**9)]
)
def test_times_of_every_size(seconds: int, t1: int, t2: int) -> None:
    message = reply(
        Message(1, 7, MAC),
        Kind.ACK,
        seconds=seconds,
        more={Code.T1: t1.to_bytes(4, "big"), Code.T2: t2.to_bytes(4, "big")},
    )
    try:
        lease = lease_from(message, server_mac=SERVER_MAC, sent=100.0)
    except LeaseError:
        assert seconds == 0
        return
    assert 100.0 < lease.renew_at <= lease.rebind_at <= lease.expires_at
    assert lease.renew_at - 100.0 >= 4 or t1 in range(1, 10)


@pytest.mark.parametrize("kind", [Kind.FORCERENEW, Kind.ACK, Kind.NAK, Kind.OFFER])
def test_what_nobody_asked_for(kind: Kind) -> None:
    """CVE-2020-13529: a forged FORCERENEW, and others, to a client that is bound."""
    it = Client(POD, Middle(1))
    it.start(0.0)
    it.receive(reply(sent(it).message, Kind.OFFER), SERVER_MAC, 0.0)
    it.receive(reply(sent(it).message, Kind.ACK), SERVER_MAC, 0.0)
    lease = it.lease
    it.receive(reply(Message(1, it.xid, MAC, options={61: b"\x00pod"}), kind, server=OTHER), SERVER_MAC, 1.0)
    assert (it.state, it.lease, it.outbox()) == (State.BOUND, lease, [])


def test_a_flood_of_offers_is_one_request() -> None:
    it = Client(POD, Middle(1))
    it.start(0.0)
    discover = sent(it).message
    for n in range(1000):
        it.receive(reply(discover, Kind.OFFER, server=IPv4Address(f"192.0.3.{n % 250 + 1}")), SERVER_MAC, 0.1)
    assert len(it.outbox()) == 1


def test_a_server_that_answers_for_the_wrong_client() -> None:
    it = Client(POD, Middle(1))
    it.start(0.0)
    discover = sent(it).message
    other = bytes.fromhex("02aa000000ff")
    wrong_mac = reply(Message(1, discover.xid, other), Kind.OFFER)
    wrong_id = reply(discover, Kind.OFFER, more={Code.CLIENT_ID: b"\x00another"})
    wrong_xid = reply(Message(1, discover.xid ^ 1, MAC), Kind.OFFER)
    for message in (wrong_mac, wrong_id, wrong_xid):
        it.receive(message, SERVER_MAC, 0.1)
    assert (it.state, it.outbox()) == (State.SELECTING, [])
    it.receive(reply(discover, Kind.OFFER), SERVER_MAC, 0.2)
    it.receive(reply(sent(it).message, Kind.ACK), SERVER_MAC, 0.3)
    assert [type(event) for event in it.events()] == [Bound]


@pytest.mark.parametrize("key", list(a_lease().to_dict()))
def test_a_stored_lease_that_was_tampered_with(key: str) -> None:
    """CVE-2021-25217: what comes from the disk is looked at like what comes from the LAN."""
    good = a_lease().to_dict()
    numbers: list[Any] = [None, True, -1, 2**80, 1e300, math.inf, math.nan]
    for value in [*numbers, "", "\x1b[2J", "9" * 5000, [], [[]], [1], {}, [None]]:
        try:
            lease = Lease.from_dict(json.loads(json.dumps(good | {key: value})))
        except ValueError:
            continue
        times = (lease.acquired, lease.renew_at, lease.rebind_at, lease.expires_at)
        assert not any(math.isnan(time) for time in times)
        lease.to_dict()


@pytest.mark.parametrize("code", [2, 43, 77, 82, 90, 97, 108, 116, 118, 124, 125, 162, 212, 224, 254])
@pytest.mark.parametrize("size", [0, 1, 4, 17, 255])
def test_options_that_are_not_understood(code: int, size: int) -> None:
    """CVE-2016-2148 (6RD), CVE-2016-1503, 82 of relays: they change nothing, whatever is in them."""
    plain = lease_from(ack({}), server_mac=SERVER_MAC, sent=0.0)
    for raw in (bytes(size), b"\xff" * size):
        assert lease_from(ack({code: raw}), server_mac=SERVER_MAC, sent=0.0) == plain


@pytest.mark.parametrize("raw", [b"", b"\0", b"\xff", b"\0pod\0", b"\0po", b"\xff" * 255])
def test_client_identifiers_that_are_not_ours(raw: bytes) -> None:
    """CVE-2012-3571: a malformed one; RFC 6842: only who sent ours back means us."""
    it = Client(POD, Middle(1))
    it.start(0.0)
    it.receive(reply(sent(it).message, Kind.OFFER, more={Code.CLIENT_ID: raw}), SERVER_MAC, 0.1)
    assert (it.state, it.outbox()) == (State.SELECTING, [])


@pytest.mark.parametrize("flags", [0, 1, 0x7FFF, 0x8000, 0xFFFF])
def test_flags_of_every_kind(flags: int) -> None:
    """CVE-2014-6060: a client that a reply's flags brought down."""
    it = Client(POD, Middle(1))
    it.start(0.0)
    it.receive(replace(reply(sent(it).message, Kind.OFFER), flags=flags), SERVER_MAC, 0.1)
    assert it.state is State.REQUESTING


def test_an_empty_reply() -> None:
    """netavark's issue 618: one that came just after a restart."""
    assert parsed(b"") is None
    assert frame.parse(framed(b"")) is not None, "a datagram of no bytes is one"


@pytest.mark.parametrize("server", ["1.1.1.1", "127.0.0.1", "255.255.255.255", "224.0.0.1"])
def test_a_server_that_names_itself_wrongly(server: str) -> None:
    """A renewal that cannot arrive: at T2 all servers are asked."""
    it = Client(POD, Middle(1))
    it.start(0.0)
    it.receive(reply(sent(it).message, Kind.OFFER, server=IPv4Address(server)), SERVER_MAC, 0.0)
    it.receive(reply(sent(it).message, Kind.ACK, server=IPv4Address(server)), SERVER_MAC, 0.0)
    assert it.lease is not None
    it.tick(it.lease.renew_at)
    assert it.outbox()[-1].dst_ip == IPv4Address(server)
    it.tick(it.lease.rebind_at)
    request = it.outbox()[-1]
    assert (it.state, request.dst_ip) == (State.REBINDING, IPv4Address("255.255.255.255"))
    it.receive(reply(request.message, Kind.ACK), SERVER_MAC, it.lease.rebind_at)
    assert it.state is State.BOUND


def whole() -> bytes:
    return framed(ack({Code.SEARCH: opt.pack_names(["a.example"]), Code.DOMAIN: b"example"}).encode())


def test_a_frame_cut_off_at_every_byte() -> None:
    data = whole()
    assert frame.parse(data) is not None
    for end in range(len(data)):
        assert frame.parse(data[:end]) is None, end


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (14, 0x44),
        (14, 0x4F),
        (14, 0x65),
        (14, 0x40),
        (20, 0x20),
        (20, 0x01),
        (38, 0x00),
        (38, 0xFF),
        (16, 0xFF),
        (23, 6),
    ],
)
def test_lengths_that_lie(at: int, value: int) -> None:
    """CVE-2015-8605 (the UDP length), header lengths of 4 and 15 words, fragments, IPv6 in disguise."""
    data = bytearray(whole())
    data[at] = value
    if at == 38:
        data[38:40] = struct.pack("!H", 7 if value == 0 else 0xFFFF)
    if at < 34:
        data[24:26] = b"\0\0"
        header = bytes(data[14 : 14 + max((data[14] & 15) * 4, 20)])
        data[24:26] = frame.checksum(header).to_bytes(2, "big")
    assert frame.parse(bytes(data), checksum_ready=False) is None
