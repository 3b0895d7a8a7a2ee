"""Frozen dataclasses to JSON values and back, by their annotations.

Knows what terwayd's values are made of: text, numbers, flags, None, IP addresses and networks,
tuples, and other dataclasses.  A union of dataclasses is told apart by the class name under "is".
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Any, TypeVar

T = TypeVar("T")

_IP: dict[type, Any] = {
    IPv4Address: ip_address,
    IPv6Address: ip_address,
    IPv4Interface: ip_interface,
    IPv6Interface: ip_interface,
    IPv4Network: ip_network,
    IPv6Network: ip_network,
}


def encode(value: Any) -> Any:
    """`value` as something json.dumps takes."""
    if dataclasses.is_dataclass(value):
        parts = {item.name: encode(getattr(value, item.name)) for item in dataclasses.fields(value)}
        return {"is": type(value).__name__, **parts}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if type(value) in _IP:
        return str(value)
    return value


def decode(wanted: type[T], raw: Any) -> T:
    """The value of type `wanted` that `raw` was made of; ValueError or TypeError when it was not."""
    return typing.cast("T", _decode(wanted, raw))


def _decode(wanted: Any, raw: Any) -> Any:
    origin = typing.get_origin(wanted)
    if origin is tuple:
        inner, *more = typing.get_args(wanted)
        if more == [Ellipsis]:
            return tuple(_decode(inner, item) for item in raw)
        return tuple(_decode(kind, item) for kind, item in zip((inner, *more), raw, strict=True))
    if origin in {types.UnionType, typing.Union}:
        return _decode_union(typing.get_args(wanted), raw)
    if dataclasses.is_dataclass(wanted):
        hints = _hints(typing.cast("type", wanted))
        return wanted(**{key: _decode(hints[key], item) for key, item in raw.items() if key != "is"})  # type: ignore[operator]
    if wanted in _IP:
        return _IP[wanted](raw)
    return raw


def _decode_union(kinds: tuple[Any, ...], raw: Any) -> Any:
    if raw is None:
        return None
    if isinstance(raw, dict):
        named = [kind for kind in kinds if getattr(kind, "__name__", "") == raw.get("is")]
        if not named:
            raise ValueError(f"{raw.get('is')!r} is none of {', '.join(kind.__name__ for kind in kinds)}")
        return _decode(named[0], raw)
    return next((_IP[kind](raw) for kind in kinds if kind in _IP), raw)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
