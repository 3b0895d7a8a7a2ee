"""Frozen dataclasses to JSON values and back, by their annotations.

Knows what terwayd's values are made of: text, numbers, flags, None, IP addresses and networks,
tuples, and other dataclasses.  A union of dataclasses is told apart by the class name under "is".
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import types
import typing
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any, TypeVar

T = TypeVar("T")

_IP = {IPv4Address, IPv6Address, IPv4Interface, IPv6Interface, IPv4Network, IPv6Network}


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
        return _decode_tuple(typing.get_args(wanted), raw)
    if origin in {types.UnionType, typing.Union}:
        return _decode_union(typing.get_args(wanted), raw)
    if dataclasses.is_dataclass(wanted):
        return _decode_dataclass(typing.cast("type", wanted), raw)
    if wanted in _IP and type(raw) is str:
        return wanted(raw)
    if type(raw) is not wanted:  # exactly: True is no number
        raise TypeError(f"{raw!r} is no {getattr(wanted, '__name__', wanted)}")
    return raw


def _decode_tuple(inner: tuple[Any, ...], raw: Any) -> tuple[Any, ...]:
    if not isinstance(raw, list):
        raise TypeError(f"{raw!r} is no list")
    if inner[1:] == (Ellipsis,):
        return tuple(_decode(inner[0], item) for item in raw)
    return tuple(_decode(kind, item) for kind, item in zip(inner, raw, strict=True))


def _decode_dataclass(wanted: type, raw: Any) -> Any:
    if not isinstance(raw, dict) or raw.get("is", wanted.__name__) != wanted.__name__:
        raise TypeError(f"{raw!r} is no {wanted.__name__}")
    hints, parts = _hints(wanted), {key: item for key, item in raw.items() if key != "is"}
    if unknown := parts.keys() - hints.keys():
        raise ValueError(f"{wanted.__name__} has no {', '.join(sorted(unknown))}")
    return wanted(**{key: _decode(hints[key], item) for key, item in parts.items()})


def _decode_union(kinds: tuple[Any, ...], raw: Any) -> Any:
    for kind in kinds:
        if isinstance(raw, dict) and raw.get("is") == getattr(kind, "__name__", ""):
            return _decode(kind, raw)
        if not isinstance(raw, dict):
            with contextlib.suppress(ValueError, TypeError):
                return _decode(kind, raw)
    raise ValueError(f"{raw!r} is none of {', '.join(kind.__name__ for kind in kinds)}")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
