"""How an ACK becomes a lease: what is refused, what is left out, and when it must be renewed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from terwayd.dhcp import options as opt
from terwayd.dhcp.lease import Lease, LeaseError, lease_from
from terwayd.dhcp.options import Code
from terwayd.dhcp.packet import Message
from tests.core.dhcp import IP, SERVER, SERVER_MAC, ack

VIA = IPv4Address("192.0.2.254")


def with_options(message: Message, options: dict[int, bytes | None]) -> Message:
    merged = {**message.options, **options}
    return replace(message, options={code: raw for code, raw in merged.items() if raw is not None})


def lease_of(
    options: dict[int, bytes | None] | None = None, yiaddr: str = str(IP), fuzz: float = 0.0
) -> Lease:
    message = replace(with_options(ack(seconds=3600), options or {}), yiaddr=IPv4Address(yiaddr))
    return lease_from(message, server_mac=SERVER_MAC, sent=100.0, fuzz=fuzz)


def u32(*values: int) -> list[bytes]:
    return [value.to_bytes(4, "big") for value in values]


def test_the_least_a_server_can_send() -> None:
    lease = lease_of()
    assert lease.address == IPv4Interface("192.0.2.57/24")
    assert (lease.server, lease.server_mac, lease.acquired) == (SERVER, SERVER_MAC, 100.0)
    assert (lease.renew_at, lease.rebind_at, lease.expires_at) == (1900.0, 3250.0, 3700.0)
    assert (lease.routers, lease.routes, lease.dns, lease.domain, lease.search) == ((), (), (), "", ())
    assert (lease.mtu, lease.ntp) == (None, ())


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.0.0.5",
        "127.0.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.0",
        "192.0.2.255",
        str(SERVER),
    ],
)
def test_addresses_nobody_can_have(address: str) -> None:
    with pytest.raises(LeaseError, match="it offers"):
        lease_of(yiaddr=address)


@pytest.mark.parametrize("mask", ["255.255.255.254", "255.255.255.255"])
def test_narrow_masks_have_no_broadcast_address(mask: str) -> None:
    assert lease_of({Code.SUBNET_MASK: IPv4Address(mask).packed}, "192.0.2.254").address.ip == VIA


@pytest.mark.parametrize(
    ("address", "prefix"),
    [("10.1.2.3", 8), ("172.16.1.1", 16), ("192.168.1.1", 24), ("126.0.0.1", 8), ("128.0.0.1", 16)],
)
@pytest.mark.parametrize("mask", [None, b"", b"\xff\xff\xff", b"\0\0\0\0", b"\xff\0\xff\0"])
def test_without_a_mask_the_class_decides(address: str, prefix: int, mask: bytes | None) -> None:
    assert lease_of({Code.SUBNET_MASK: mask}, address).address == IPv4Interface(f"{address}/{prefix}")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({Code.SERVER_ID: None}, "no server"),
        ({Code.SERVER_ID: b"\0\0\0\0"}, "no server"),
        ({Code.SERVER_ID: b"\1\2\3"}, "no server"),
        ({Code.LEASE_TIME: None}, "no lease time"),
        ({Code.LEASE_TIME: b"\1"}, "no lease time"),
        ({Code.LEASE_TIME: bytes(4)}, "0 seconds"),
    ],
)
def test_what_a_lease_must_have(options: dict[int, bytes | None], why: str) -> None:
    with pytest.raises(LeaseError, match=why):
        lease_of(options)


@pytest.mark.parametrize(
    ("duration", "t1", "t2", "expected"),
    [
        (3600, None, None, (1800, 3150, 3600)),
        (3600, 600, 1200, (600, 1200, 3600)),
        (3600, 0, 1200, (1800, 3150, 3600)),
        (3600, 1200, 600, (1800, 3150, 3600)),
        (3600, 1200, 1200, (1800, 3150, 3600)),
        (3600, 600, 3600, (1800, 3150, 3600)),
        (3600, 600, None, (600, 3150, 3600)),
        (3600, 3300, None, (1800, 3150, 3600)),
        (3600, 0xFFFFFFFF, 0xFFFFFFFF, (1800, 3150, 3600)),
        (1, None, None, (5, 8.75, 10)),
        (9, 1, 2, (1, 2, 10)),
        (0x80000000, None, None, (0x40000000, 0x70000000, 0x80000000)),
        (0xFFFFFFFE, None, None, (0x7FFFFFFF, 0xFFFFFFFE * 0.875, 0xFFFFFFFE)),
        (0xFFFFFFFF, None, None, (math.inf, math.inf, math.inf)),
        (0xFFFFFFFF, 5, 10, (math.inf, math.inf, math.inf)),
    ],
)
def test_times(duration: int, t1: int | None, t2: int | None, expected: tuple[float, float, float]) -> None:
    options: dict[int, bytes | None] = {Code.LEASE_TIME: u32(duration)[0]}
    for code, value in ((Code.T1, t1), (Code.T2, t2)):
        options[code] = None if value is None else u32(value)[0]
    lease = lease_of(options)
    assert (lease.renew_at - 100, lease.rebind_at - 100, lease.expires_at - 100) == pytest.approx(expected)


def test_fuzz_only_hastens() -> None:
    lease = lease_of(fuzz=1.0)
    assert (lease.renew_at, lease.rebind_at, lease.expires_at) == pytest.approx((1720, 3115, 3700))


def test_classless_routes_replace_routers_and_static_routes() -> None:
    options: dict[int, bytes | None] = {
        Code.ROUTER: VIA.packed,
        Code.STATIC_ROUTES: IPv4Address("10.0.0.0").packed + VIA.packed,
    }
    assert lease_of(options).routers == (VIA,)
    assert lease_of(options).routes == ((IPv4Network("10.0.0.0/8"), VIA),)
    options[Code.CLASSLESS_ROUTES] = opt.pack_classless_routes([(IPv4Network("172.16.0.0/12"), None)])
    assert lease_of(options).routers == ()
    assert lease_of(options).routes == ((IPv4Network("172.16.0.0/12"), None),)
    options[Code.CLASSLESS_ROUTES] = b"\xff"  # means nothing: as if it were not there
    assert lease_of(options).routers == (VIA,)


def test_routes_that_harm_are_left_out() -> None:
    routes: list[tuple[IPv4Network, IPv4Address | None]] = [
        (IPv4Network("127.0.0.0/8"), VIA),
        (IPv4Network("224.0.0.0/4"), VIA),
        (IPv4Network("10.0.0.0/8"), IPv4Address("127.0.0.1")),
        (IPv4Network("10.0.0.0/8"), VIA),
    ]
    assert lease_of({Code.CLASSLESS_ROUTES: opt.pack_classless_routes(routes)}).routes == (routes[3],)
    assert lease_of({Code.ROUTER: b"\0\0\0\0" + IP.packed + VIA.packed}).routers == (VIA,)


def test_options_that_mean_nothing_are_left_out() -> None:
    lease = lease_of(
        {
            Code.DNS: b"\1\2\3",
            Code.DOMAIN: b"$(reboot)",
            Code.SEARCH: b"\xc0\x00",
            Code.MTU: b"\0\x40",
            Code.NTP: b"",
        }
    )
    assert (lease.dns, lease.domain, lease.search, lease.mtu, lease.ntp) == ((), "", (), None, ())


def full() -> Lease:
    return lease_of(
        {
            Code.ROUTER: VIA.packed,
            Code.STATIC_ROUTES: IPv4Address("10.0.0.0").packed + VIA.packed,
            Code.DNS: SERVER.packed + VIA.packed,
            Code.DOMAIN: b"lan.example",
            Code.SEARCH: opt.pack_names(["lan.example"]),
            Code.MTU: b"\x05\x78",
            Code.NTP: SERVER.packed,
        }
    )


def test_a_lease_survives_json() -> None:
    for lease in (full(), lease_of({Code.LEASE_TIME: b"\xff" * 4})):
        text = json.dumps(lease.to_dict(), allow_nan=False)
        assert Lease.from_dict(json.loads(text)) == lease


def test_a_lease_of_an_earlier_version_is_read() -> None:
    data = full().to_dict()
    del data["extra"]
    assert Lease.from_dict(data) == full()


def test_options_asked_for_by_number_are_kept() -> None:
    message = with_options(ack(), {66: b"tftp\0", 150: bytes(300)})
    lease = lease_from(message, server_mac=SERVER_MAC, sent=0.0, extra=(66, 67, 150))
    assert lease.extra == ((66, b"tftp\0"), (150, bytes(300)))
    assert Lease.from_dict(json.loads(json.dumps(lease.to_dict()))) == lease


@pytest.mark.parametrize("key", [key for key in full().to_dict() if key != "extra"])
def test_json_that_is_no_lease(key: str) -> None:
    data = full().to_dict()
    missing = {k: v for k, v in data.items() if k != key}
    with pytest.raises(ValueError):
        Lease.from_dict(missing)
    if key not in ("domain", "search", "mtu", "renew_at", "rebind_at", "expires_at"):
        with pytest.raises(ValueError):
            Lease.from_dict(data | {key: None})


def test_shifted() -> None:
    lease = full()
    moved = lease.shifted(-50)
    assert (moved.acquired, moved.renew_at, moved.rebind_at, moved.expires_at) == (
        50.0,
        1850.0,
        3200.0,
        3650.0,
    )
    assert moved.shifted(50) == lease
    assert lease_of({Code.LEASE_TIME: b"\xff" * 4}).shifted(5).expires_at == math.inf
