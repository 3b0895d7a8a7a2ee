"""DHCP options: the codes, the fields they lie in, and what their bytes mean (RFC 2132 and its followers).

`split` and `join` turn an option field into `{code: bytes}` and back, long options in pieces (RFC 3396).
The functions below them turn one option's bytes into values of `ipaddress` and back.  Every decoder
raises ValueError for bytes that do not mean anything; what to do about that is the caller's choice.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Final


class Code(enum.IntEnum):
    """Option codes (IANA's registry "BOOTP Vendor Extensions and DHCP Options")."""

    PAD = 0
    SUBNET_MASK = 1
    ROUTER = 3
    DNS = 6
    HOSTNAME = 12
    DOMAIN = 15
    MTU = 26
    STATIC_ROUTES = 33
    NTP = 42
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER_ID = 54
    PARAMETERS = 55
    MESSAGE = 56
    MAX_SIZE = 57
    T1 = 58
    T2 = 59
    VENDOR_CLASS = 60
    CLIENT_ID = 61
    RAPID_COMMIT = 80
    FQDN = 81
    SEARCH = 119
    CLASSLESS_ROUTES = 121
    END = 255


class Kind(enum.IntEnum):
    """DHCP message types (RFC 2132 section 9.6)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8
    FORCERENEW = 9


# RFC 3442: 121 must be asked for before 3 and 33, for servers that fill up a small message in this order.
REQUESTED: Final = bytes(
    (
        Code.SUBNET_MASK,
        Code.CLASSLESS_ROUTES,
        Code.ROUTER,
        Code.STATIC_ROUTES,
        Code.DNS,
        Code.DOMAIN,
        Code.SEARCH,
        Code.MTU,
        Code.NTP,
        Code.T1,
        Code.T2,
    )
)

# Sent twice by some servers and relays; joined as RFC 3396 joins long ones they would mean nothing.
_NEVER_JOINED: Final = frozenset(
    {
        Code.SUBNET_MASK,
        Code.MTU,
        Code.REQUESTED_ADDRESS,
        Code.LEASE_TIME,
        Code.OVERLOAD,
        Code.MESSAGE_TYPE,
        Code.SERVER_ID,
        Code.MAX_SIZE,
        Code.T1,
        Code.T2,
        Code.RAPID_COMMIT,
    }
)

_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_MAX_NAME: Final = 253
_MAX_NAMES: Final = 32
_MAX_LABELS: Final = 512


def split(field: bytes, into: dict[int, bytes]) -> None:
    """Add the options of one field to `into`; pieces of one option are joined in their order (RFC 3396).

    A field may lack the END option; an option that reaches beyond the field is a ValueError.
    """
    at, size = 0, len(field)
    while at < size:
        code = field[at]
        if code == Code.END:
            return
        if code == Code.PAD:
            at += 1
            continue
        if at + 1 >= size or at + 2 + field[at + 1] > size:
            raise ValueError(f"option {code} reaches beyond its field")
        value = field[at + 2 : at + 2 + field[at + 1]]
        at += 2 + len(value)
        if code not in into:
            into[code] = value
        elif code not in _NEVER_JOINED:
            into[code] += value


def join(options: Mapping[int, bytes]) -> bytes:
    """The option field for `options`, the message type first, END last."""
    field = bytearray()
    for code in sorted(options, key=lambda code: code != Code.MESSAGE_TYPE):
        if not Code.PAD < code < Code.END:
            raise ValueError(f"{code} is not the code of an option")
        value = options[code]
        for start in range(0, len(value) or 1, 255):
            piece = value[start : start + 255]
            field += bytes((code, len(piece))) + piece
    field.append(Code.END)
    return bytes(field)


def number(raw: bytes, size: int) -> int:
    """An unsigned number of exactly `size` bytes."""
    if len(raw) != size:
        raise ValueError(f"{len(raw)} bytes where {size} belong")
    return int.from_bytes(raw, "big")


def address(raw: bytes) -> IPv4Address:
    """One address."""
    return IPv4Address(number(raw, 4))


def addresses(raw: bytes) -> tuple[IPv4Address, ...]:
    """One or more addresses."""
    if not raw or len(raw) % 4:
        raise ValueError(f"{len(raw)} bytes are no list of addresses")
    return tuple(IPv4Address(raw[at : at + 4]) for at in range(0, len(raw), 4))


def name(raw: bytes) -> str:
    """A host or domain name, without NUL and dot at its end.

    Names end up in resolv.conf and on terminals: only letters, digits, `-`, `_` and dots pass.
    """
    value = raw.rstrip(b"\0").decode("ascii", "replace").removesuffix(".")
    return _checked(value)


def text(raw: bytes) -> str:
    """Text for people to read (options 56 and 60): what cannot be printed becomes `?`."""
    value = raw.rstrip(b"\0").decode("utf-8", "replace")
    return "".join(c if c.isprintable() and c != "�" else "?" for c in value)


def names(raw: bytes) -> tuple[str, ...]:
    """A domain search list (RFC 3397), compressed as in RFC 1035 section 4.1.4.

    A pointer may only point before the name it occurs in, so that no list can loop; how much it may be
    worth is bounded too.
    """
    found: list[str] = []
    at = labels = 0
    while at < len(raw):
        value, at = _name_at(raw, at)
        found.append(_checked(value))
        labels += value.count(".") + 1
        if len(found) > _MAX_NAMES or labels > _MAX_LABELS:
            raise ValueError(f"more than {_MAX_NAMES} names or {_MAX_LABELS} labels")
    return tuple(found)


def pack_names(values: Iterable[str]) -> bytes:
    """A domain search list, not compressed."""
    field = bytearray()
    for value in values:
        for label in value.encode("ascii").split(b"."):
            field += bytes((len(label),)) + label
        field.append(0)
    return bytes(field)


def classless_routes(raw: bytes) -> tuple[tuple[IPv4Network, IPv4Address | None], ...]:
    """Option 121 (RFC 3442): destinations and their routers; None is "on this link" (0.0.0.0)."""
    routes: list[tuple[IPv4Network, IPv4Address | None]] = []
    at = 0
    while at < len(raw):
        bits = raw[at]
        width = (bits + 7) // 8
        end = at + 1 + width + 4
        if bits > 32 or end > len(raw):
            raise ValueError("a route's destination or router is cut off")
        # RFC 3442: bits of the destination beyond its mask are to be ignored.
        target = IPv4Network((raw[at + 1 : at + 1 + width].ljust(4, b"\0"), bits), strict=False)
        router = IPv4Address(raw[end - 4 : end])
        routes.append((target, router if int(router) else None))
        at = end
    if not routes:
        raise ValueError("no routes")
    return tuple(routes)


def pack_classless_routes(routes: Iterable[tuple[IPv4Network, IPv4Address | None]]) -> bytes:
    """The bytes of option 121."""
    field = bytearray()
    for target, router in routes:
        width = (target.prefixlen + 7) // 8
        field += bytes((target.prefixlen,)) + target.network_address.packed[:width]
        field += router.packed if router else bytes(4)
    return bytes(field)


def static_routes(raw: bytes) -> tuple[tuple[IPv4Network, IPv4Address | None], ...]:
    """Option 33: routes to classful networks (or to hosts, where host bits are set); never a default route."""
    if not raw or len(raw) % 8:
        raise ValueError(f"{len(raw)} bytes are no list of routes")
    routes: list[tuple[IPv4Network, IPv4Address | None]] = []
    for at in range(0, len(raw), 8):
        target = int.from_bytes(raw[at : at + 4], "big")
        if not target:
            continue  # RFC 2132 section 5.8: 0.0.0.0 is an illegal destination
        bits = _class_of(raw[at])
        whole = target & (0xFFFFFFFF >> bits) == 0
        routes.append((IPv4Network((target, bits if whole else 32)), IPv4Address(raw[at + 4 : at + 8])))
    return tuple(routes)


def classful_prefix(value: IPv4Address) -> int:
    """The prefix length of an address's class (RFC 791), for servers that send no mask."""
    return _class_of(value.packed[0])


def _class_of(first: int) -> int:
    return 8 if first < 128 else 16 if first < 192 else 24


def prefix(raw: bytes) -> int:
    """The prefix length of a subnet mask; 0.0.0.0 and masks with holes are a ValueError."""
    mask = number(raw, 4)
    bits = mask.bit_count()
    if not bits or mask != (0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF:
        raise ValueError(f"{IPv4Address(mask)} is no subnet mask")
    return bits


def pack_fqdn(value: str) -> bytes:
    """Option 81 (RFC 4702): the server is asked to update both DNS records; the name in DNS encoding.

    A name without a dot is a partial one, which the server completes: it has no root label.
    """
    packed = pack_names([value])
    return b"\x05\0\0" + (packed if "." in value else packed[:-1])


def fqdn(raw: bytes) -> str:
    """The name in option 81, in DNS encoding (flag E) or as text."""
    if len(raw) < 3:
        raise ValueError("option 81 is shorter than its flags")
    if not raw[0] & 0x04:
        return name(raw[3:])
    body = raw[3:] if raw.endswith(b"\0") else raw[3:] + b"\0"  # a partial name has no root label
    return ".".join(names(body))


def _name_at(raw: bytes, start: int) -> tuple[str, int]:
    """The name at `start` and where the next one begins."""
    labels: list[str] = []
    at, limit, after = start, start, -1
    length = 0
    while True:
        if at >= len(raw):
            raise ValueError("a name is cut off")
        size = raw[at]
        if size & 0xC0 == 0xC0:
            if at + 1 >= len(raw):
                raise ValueError("a pointer is cut off")
            if after < 0:
                after = at + 2
            at = (size & 0x3F) << 8 | raw[at + 1]
            if at >= limit:
                raise ValueError("a pointer does not point backwards")
            limit = at
        elif size & 0xC0:
            raise ValueError("unknown kind of label")
        elif size == 0:
            return ".".join(labels), at + 1 if after < 0 else after
        else:
            label = raw[at + 1 : at + 1 + size]
            if len(label) < size:
                raise ValueError("a label is cut off")
            length += size + 1
            if length > _MAX_NAME + 1:
                raise ValueError("a name is too long")
            labels.append(label.decode("ascii", "replace"))
            at += 1 + size


def _checked(value: str) -> str:
    if len(value) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in value.split(".")):
        raise ValueError(f"{value[:_MAX_NAME]!r} is no domain name")
    return value
