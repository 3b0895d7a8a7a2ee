"""Options, messages and frames: bytes to values and back, and every malformed input that clients fell over."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terwayd.dhcp import frame
from terwayd.dhcp import options as opt
from terwayd.dhcp.lease import LeaseError, lease_from
from terwayd.dhcp.options import Code
from terwayd.dhcp.packet import Message, PacketError
from tests.core.dhcp import IP, MAC, SERVER, SERVER_MAC, ack, framed
from tests.core.judge import judge

# Options


def test_a_long_option_is_cut_and_joined_again() -> None:
    value = bytes(range(256)) * 3
    field = opt.join({Code.MESSAGE_TYPE: b"\x05", 224: value})
    assert field.count(b"\xe0\xff") == 3  # three full pieces and a rest
    found: dict[int, bytes] = {}
    opt.split(field, found)
    assert found == {Code.MESSAGE_TYPE: b"\x05", 224: value}


def test_a_server_id_sent_twice_is_one() -> None:
    found: dict[int, bytes] = {}
    opt.split(b"\x36\x04\xc0\x00\x02\x01\x36\x04\xc0\x00\x02\x01\xff", found)
    assert found == {Code.SERVER_ID: SERVER.packed}


def test_the_message_type_comes_first() -> None:
    assert opt.join({61: b"x", Code.MESSAGE_TYPE: b"\x01"}).startswith(b"\x35\x01\x01")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04",
            ("eng.apple.com", "marketing.apple.com"),
        ),  # RFC 3397
        (b"\x01a\x00\xc0\x00", ("a", "a")),
    ],
)
def test_search_lists(raw: bytes, expected: tuple[str, ...]) -> None:
    assert opt.names(raw) == expected
    assert opt.names(opt.pack_names(expected)) == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"\xc0\x00",  # points at itself
        b"\x01a\xc0\x00",  # a name that goes on with itself
        b"\xc0\x02\xc0\x00",  # two that point at each other
        b"\x01a",  # no end
        b"\x05ab",
        b"\xc0",
        b"\x40\x00",
        b"\x80\x00",
        b"\x00",
        b"\x09a b;reboot\x00",
        b"\x04$(x)\x00",
        b"\x02\x1b[\x00",
        b"\x02\xff\xfe\x00",
        b"\x3f" + b"a" * 63 + b"\x3f" + b"b" * 63 + b"\x3f" + b"c" * 63 + b"\x3f" + b"d" * 63 + b"\0",
        b"\x01a\x00" * 33,
    ],
)
def test_search_lists_that_mean_nothing(raw: bytes) -> None:
    with pytest.raises(ValueError):
        opt.names(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"$(reboot)",
        b"`id`",
        b"a b",
        b"a\nb",
        b"a\0b",
        b"a..b",
        b"-a",
        b"a" * 64,
        b"\x1b[2J",
        "ö".encode(),
    ],
)
def test_domain_names_that_mean_nothing(raw: bytes) -> None:
    with pytest.raises(ValueError):
        opt.name(raw)


def test_domain_names() -> None:
    assert opt.name(b"lan.example\0") == "lan.example"
    assert opt.name(b"_tcp.lan.example.") == "_tcp.lan.example"


def test_text_is_safe_on_a_terminal() -> None:
    assert opt.text(b"no \x1b[31mfree\nleases\xff\0") == "no ?[31mfree?leases?"


def test_classless_routes_of_rfc_3442() -> None:
    raw = bytes.fromhex(
        "00c0000201 080ac0000202 180a00 00c0000203 200a11008c00000000 190a36108000000000".replace(" ", "")
    )
    routes = opt.classless_routes(raw)
    assert routes == (
        (IPv4Network("0.0.0.0/0"), IPv4Address("192.0.2.1")),
        (IPv4Network("10.0.0.0/8"), IPv4Address("192.0.2.2")),
        (IPv4Network("10.0.0.0/24"), IPv4Address("192.0.2.3")),
        (IPv4Network("10.17.0.140/32"), None),
        (IPv4Network("10.54.16.128/25"), None),
    )
    assert opt.pack_classless_routes(routes) == raw


def test_bits_beyond_the_mask_are_ignored() -> None:
    assert opt.classless_routes(bytes.fromhex("0fa9ffc0000201"))[0][0] == IPv4Network("169.254.0.0/15")


@pytest.mark.parametrize("raw", ["", "21c0000201c0000201", "ff", "08", "180a0000c00002", "00c00002"])
def test_classless_routes_that_mean_nothing(raw: str) -> None:
    with pytest.raises(ValueError):
        opt.classless_routes(bytes.fromhex(raw))


def test_static_routes_are_classful() -> None:
    raw = bytes.fromhex("0a000000c0000202 0a010203c0000202 00000000c0000202".replace(" ", ""))
    via = IPv4Address("192.0.2.2")
    assert opt.static_routes(raw) == ((IPv4Network("10.0.0.0/8"), via), (IPv4Network("10.1.2.3/32"), via))
    with pytest.raises(ValueError):
        opt.static_routes(raw[:-1])


@pytest.mark.parametrize("raw", ["", "ffffff", "ffffff0000", "00000000", "ff00ff00", "000000ff"])
def test_masks_that_are_none(raw: str) -> None:
    with pytest.raises(ValueError):
        opt.prefix(bytes.fromhex(raw))


def test_fqdn() -> None:
    assert opt.fqdn(opt.pack_fqdn("pod.lan.example")) == "pod.lan.example"
    assert opt.fqdn(b"\x04\0\0\x03pod") == "pod"
    assert opt.pack_fqdn("pod") == b"\x05\0\0\x03pod", "a partial name has no root label"
    assert opt.fqdn(b"\0\0\0pod.lan") == "pod.lan"
    with pytest.raises(ValueError):
        opt.fqdn(b"\0\0")


# Messages


def test_a_message_survives_the_wire() -> None:
    message = ack()
    data = message.encode()
    assert len(data) == 300
    assert Message.parse(data) == message


@pytest.mark.parametrize(("overload", "joined"), [(1, b"ab"), (2, b"ac"), (3, b"abc")])
def test_overload_file_then_sname(overload: int, joined: bytes) -> None:
    data = bytearray(ack().encode())
    data[240:] = b"\x35\x01\x05\x34\x01" + bytes((overload,)) + b"\xe0\x01a\xff"
    data[108:112] = b"\xe0\x01b\xff"
    data[44:48] = b"\xe0\x01c\xff"
    assert Message.parse(bytes(data)).options == {Code.MESSAGE_TYPE: b"\x05", 224: joined}


@pytest.mark.parametrize(
    ("at", "new"),
    [
        (0, b"\0"),
        (0, b"\3"),
        (1, b"\6"),
        (2, b"\x10"),
        (2, b"\0"),
        (236, b"\0\0\0\0"),
        (240, b"\x35\xff"),
        (240, b"\x34\x01\x04"),
        (240, b"\x34\0"),
    ],
)
def test_what_is_no_message(at: int, new: bytes) -> None:
    data = bytearray(ack().encode())
    data[at : at + len(new)] = new
    with pytest.raises(PacketError):
        Message.parse(bytes(data))


def test_every_truncation_is_refused_or_read() -> None:
    data = ack().encode()
    for size in range(240):
        with pytest.raises(PacketError):
            Message.parse(data[:size])
    Message.parse(data[:240])  # no options at all: not ours to refuse here, it has no type


def test_an_unknown_type_is_none() -> None:
    for raw in (b"", b"\x00", b"\x0a", b"\xff", b"\x05\x05"):
        assert Message(op=2, xid=1, chaddr=MAC, options={Code.MESSAGE_TYPE: raw}).kind is None


# Frames


def test_a_frame_survives_the_wire() -> None:
    for payload in (b"", b"x", b"xy", bytes(300)):
        datagram = frame.parse(framed(payload))
        assert datagram is not None
        assert (datagram.payload, datagram.source_mac, datagram.destination_port) == (payload, SERVER_MAC, 68)


def test_the_sums_are_those_of_a_known_packet() -> None:
    # RFC 1071 section 3's example, and an IPv4 header known from elsewhere.
    assert frame.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2
    assert frame.checksum(bytes.fromhex("450000730000400040110000c0a80001c0a800c7")) == 0xB861
    assert frame.checksum(bytes(4)) == 0xFFFF
    assert frame.checksum(b"\xff\xff") == 0


def test_padding_is_cut_off() -> None:
    datagram = frame.parse(framed(b"x") + b"\xee" * 20)
    assert datagram is not None
    assert datagram.payload == b"x"


def test_a_sum_that_is_not_ready_is_not_looked_at() -> None:
    data = bytearray(framed(b"payload"))
    data[40:42] = b"\x12\x34"
    assert frame.parse(bytes(data)) is None
    assert frame.parse(bytes(data), checksum_ready=False) is not None
    data[40:42] = b"\0\0"  # RFC 768: none was made
    assert frame.parse(bytes(data)) is not None


def _with_ip(data: bytes, at: int, new: bytes) -> bytes:
    """The frame with bytes of its IP header changed and the header's checksum made right."""
    changed = bytearray(data)
    changed[14 + at : 14 + at + len(new)] = new
    changed[24:26] = b"\0\0"
    size = (changed[14] & 0x0F) * 4
    changed[24:26] = struct.pack("!H", frame.checksum(bytes(changed[14 : 14 + size])))
    return bytes(changed)


@pytest.mark.parametrize(
    "data",
    [
        framed(b"payload")[:41],
        framed(b"payload")[:12] + b"\x86\xdd" + framed(b"payload")[14:],
        framed(b"payload")[:24] + b"\0\0" + framed(b"payload")[26:],  # the header's sum
        _with_ip(framed(b"payload"), 0, b"\x44"),  # ihl 4
        _with_ip(framed(b"payload"), 0, b"\x4f"),  # ihl 15 reaches beyond
        _with_ip(framed(b"payload"), 0, b"\x65"),
        _with_ip(framed(b"payload"), 2, b"\xff\xff"),  # longer than the frame
        _with_ip(framed(b"payload"), 2, b"\x00\x1b"),  # shorter than the headers
        _with_ip(framed(b"payload"), 6, b"\x20\x00"),  # more fragments
        _with_ip(framed(b"payload"), 6, b"\x00\x01"),  # a later fragment
        _with_ip(framed(b"payload"), 9, b"\x06"),
        framed(b"payload")[:38] + b"\x00\x07" + framed(b"payload")[40:],  # UDP length below its header
        framed(b"payload")[:38] + b"\x00\xff" + framed(b"payload")[40:],
        framed(b"payload")[:-1] + b"\0",  # damaged payload
    ],
)
def test_frames_that_are_dropped(data: bytes) -> None:
    assert frame.parse(bytes(data)) is None


def run_filter(data: bytes) -> bool:
    with judge(frame.FILTER) as passes:
        return passes(data)


def test_the_filter() -> None:
    options = framed(ack().encode())
    assert run_filter(options)
    assert run_filter(_with_ip(options[:34] + b"\x01\x01\x01\x00" + options[34:], 0, b"\x46"))
    for other in (
        options[:12] + b"\x08\x06" + options[14:],
        _with_ip(options, 9, b"\x06"),
        _with_ip(options, 6, b"\x20\x00"),
        _with_ip(options, 6, b"\x00\x01"),
        options[:36] + b"\x00\x43" + options[38:],
        options[:42] + b"\x01" + options[43:],  # a client's
        options[:278] + b"\0" + options[279:],  # the cookie
        options[:281],
        framed(b"payload"),
    ):
        assert not run_filter(other)


# Whatever comes


@settings(max_examples=300, deadline=None)  # type: ignore[misc]
@given(st.binary(max_size=400))  # type: ignore[misc]
def test_fuzz_options_and_leases(tail: bytes) -> None:
    """Any bytes behind a sane header: PacketError, LeaseError or a lease that survives JSON."""
    try:
        message = Message.parse(ack().encode()[:240] + tail)
    except PacketError:
        return
    Message.parse(message.encode())
    try:
        lease = lease_from(message, server_mac=SERVER_MAC, sent=0.0)
    except LeaseError:
        return
    assert type(lease).from_dict(lease.to_dict()) == lease


@settings(max_examples=200, deadline=None)  # type: ignore[misc]
@given(st.dictionaries(st.integers(1, 254), st.binary(max_size=40), max_size=20))  # type: ignore[misc]
def test_fuzz_option_values(values: dict[int, bytes]) -> None:
    options = dict(ack().options) | values
    message = Message(op=2, xid=7, chaddr=MAC, yiaddr=IP, options=options)
    try:
        lease = lease_from(message, server_mac=SERVER_MAC, sent=5.0)
    except LeaseError:
        return
    assert 5.0 < lease.renew_at <= lease.rebind_at <= lease.expires_at
    assert type(lease).from_dict(lease.to_dict()) == lease


@settings(max_examples=200, deadline=None)  # type: ignore[misc]
@given(st.binary(max_size=200), st.integers(0, 80), st.booleans())  # type: ignore[misc]
def test_fuzz_frames(noise: bytes, at: int, ready: bool) -> None:
    frame.parse(noise, checksum_ready=ready)
    data = bytearray(framed(bytes(60)))
    data[at : at + len(noise)] = noise
    frame.parse(bytes(data), checksum_ready=ready)
    run_filter(bytes(data))
