"""Netlink's messages (netlink(7)) and the attributes in them (type, length, value), as bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

NESTED: Final = 0x8000  # in the type of one that holds others, where a family asks for it
_TYPE: Final = 0x3FFF
_HEADER: Final = struct.Struct("=HH")
_MESSAGE: Final = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port id
_NUMBER: Final = struct.Struct("=I")


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _MESSAGE.pack(_MESSAGE.size + len(body), kind, flags, sequence, 0) + body


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, sequence number and body of each that one read gave."""
    while len(data) >= _MESSAGE.size:
        size, kind, _, sequence, _ = _MESSAGE.unpack_from(data)
        yield kind, sequence, data[_MESSAGE.size : size]
        data = data[(size + 3) & ~3 :]


def attribute(kind: int, value: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(value), kind) + value + b"\0" * (-len(value) % 4)


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    return attribute(kind, _NUMBER.pack(value))


def each(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each."""
    while len(data) >= _HEADER.size:
        size, kind = _HEADER.unpack_from(data)
        yield kind & _TYPE, data[_HEADER.size : size]
        data = data[(size + 3) & ~3 or _HEADER.size :]


def by_type(data: bytes) -> dict[int, bytes]:
    return dict(each(data))
